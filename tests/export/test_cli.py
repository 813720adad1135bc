import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("library", ["torch", "safetensors", "tqdm", "onnx"])
def test_a_library_that_is_not_installed_is_one_line_with_the_command(library):
    code = f"""
import sys
sys.modules[{library!r}] = None
from icgan_export.cli import main
sys.exit(main(["bundle", "runs/mine", "--out", "bundles/mine"]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 1
    assert done.stderr == f"icgan-export: {library} is not installed: pip install 'icgan[export]'\n"
