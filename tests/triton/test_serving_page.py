"""docs/serving.md: what stands there can be pasted."""

from __future__ import annotations

import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import Pipeline
from tests.triton.conftest import ROOT
from tests.triton.test_icgan import PHOTO

PAGE = (ROOT / "docs" / "serving.md").read_text()


def test_the_curl_command_works_as_pasted(server, tiny_bundle, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    [command] = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    command = command.replace("localhost:8000", f"127.0.0.1:{server.options.ports.http}")
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Pipeline.load(tiny_bundle) as pipe:
        expected = pipe.generate(PHOTO, truncation=0.7).images[0]
    picture = Image.open(io.BytesIO((tmp_path / "generated.png").read_bytes()))
    np.testing.assert_array_equal(np.asarray(picture), expected)
