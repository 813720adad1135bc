"""The programs on the page beside an exported generator run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from icgan_export.cli import main
from tests.tiny_model import tiny_config, write_run


@pytest.fixture(scope="module", params=["instance", "class+instance", "class"])
def folder(request, tmp_path_factory) -> Path:
    """A folder with a generator and its page."""
    changes: dict[str, dict[str, Any]] = {
        "instance": {},
        "class+instance": {"class_count": 4},
        "class": {"class_count": 4, "embedding_dim": None},
    }
    place = tmp_path_factory.mktemp("app")
    run = write_run(place / "run", tiny_config(**changes[request.param]))
    assert main(["onnx", str(run), "--out", str(place / "generator.onnx")]) == 0
    return place


def program(folder: Path, language: str) -> str:
    page = (folder / "generator.md").read_text()
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return code


def output(command: list[object], folder: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_says_what_goes_in_and_comes_out(folder):
    page = (folder / "generator.md").read_text()
    assert "| `noise` (in) | float32 | [N, 120] |" in page
    assert "| `image` (out) | uint8 | [N, 32, 32, 3] |" in page
    assert "opset 18" in page
    assert "Weights: CC0-1.0." in page


def test_the_python_program_runs(folder):
    assert output([sys.executable, "-c", program(folder, "python")], folder) == "uint8 (4, 32, 32, 3)\n"


def test_the_javascript_program_runs(folder, node_packages):
    (folder / "program.mjs").write_text(program(folder, "js"))
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(node_packages)
    assert re.match(r"uint8 \[ 4, 32, 32, 3 \]", output(["node", "program.mjs"], folder))


def test_the_cpp_program_runs(folder, onnxruntime_headers, onnxruntime_library):
    (folder / "program.cpp").write_text(program(folder, "cpp"))
    build = [
        "c++",
        "-std=c++17",
        f"-I{onnxruntime_headers}",
        "program.cpp",
        onnxruntime_library,
        "-o",
        "program",
    ]
    output(build, folder)
    libraries = f"LD_LIBRARY_PATH={onnxruntime_library.parent}"
    assert output(["env", libraries, "./program"], folder) == "4 32 32 3 "
