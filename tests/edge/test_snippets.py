"""The programs on the page beside an exported generator run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icgan_export.cli import main
from icgan_runtime import images
from icgan_runtime.files import sha256_of_file
from tests.tiny_model import tiny_config, write_run

PHOTO = str(Path(__file__).parents[1] / "golden" / "photo.jpg")


@pytest.fixture(scope="module", params=["instance", "class", "photo", "class+photo as floats"])
def folder(request, tmp_path_factory) -> Path:
    """A folder with a generator and its page, which the command makes."""
    kind = request.param
    changes: dict[str, Any] = {"class_count": 4} if "class" in kind else {}
    if kind == "class":
        changes["embedding_dim"] = None
    place = tmp_path_factory.mktemp("app")
    run = write_run(place / "run", tiny_config(**changes))
    more = ["--encoder"] if "photo" in kind else []
    more += ["--image-dtype", "float32"] if "floats" in kind else []
    folder = Path(place / "made" / "on demand")
    assert main(["onnx", str(run), "--out", str(folder / "generator.onnx"), *more]) == 0
    return folder


def program(folder: Path, language: str) -> str:
    page = (folder / "generator.md").read_text()
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return code


def output(command: list[object], folder: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_picture(folder: Path, printed: str) -> None:
    """Four pictures side by side, which are not one colour; the next program has to write its own."""
    assert printed == "wrote pictures.png\n"
    sheet = np.asarray(Image.open(folder / "pictures.png"))
    assert sheet.shape == (32, 128, 3)
    assert sheet.std() > 1
    (folder / "pictures.png").unlink()


def test_the_page_says_what_goes_in_and_comes_out_and_where_an_embedding_comes_from(folder):
    page = (folder / "generator.md").read_text()
    assert "| `noise` (in) | float32 | [N, 120] |" in page
    assert re.search(
        r"\| `image` \(out\) \| (uint8 \| \[N, 32, 32, 3\]|float32 \| \[N, 3, 32, 32\]) \|", page
    )
    assert f"opset 18, fp32, SHA-256 {sha256_of_file(folder / 'generator.onnx')}" in page
    assert "Weights: CC0-1.0." in page
    assert ("Where an embedding comes from" in page) == ("`embedding` (in)" in page)
    assert "@" not in page.replace("x @", "")
    encoder = folder / "generator.encoder.onnx"
    if encoder.exists():
        assert f"`generator.encoder.onnx` (SHA-256 {sha256_of_file(encoder)})" in page
    elif "`embedding` (in)" in page:
        assert "`icgan-export onnx RUN --encoder` writes it beside this file" in page


def test_the_python_program_draws(folder):
    check_picture(folder, output([sys.executable, "-c", program(folder, "python"), PHOTO], folder))


def test_the_python_program_embeds_a_photo_as_the_pipeline_does(folder):
    if not (folder / "generator.encoder.onnx").exists():
        pytest.skip("takes no photo")
    code = (
        program(folder, "python") + "\nnp.save('embedding.npy', embedding)\nnp.save('square.npy', square)\n"
    )
    output([sys.executable, "-c", code, PHOTO], folder)
    np.testing.assert_array_equal(np.load(folder / "square.npy"), images.load(PHOTO, 32))
    embedding = np.load(folder / "embedding.npy")
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), np.ones(4), atol=1e-5)
    np.testing.assert_array_equal(embedding[0], embedding[3])


def test_the_javascript_program_draws(folder, node_packages):
    (folder / "program.mjs").write_text(program(folder, "js"))
    if "sharp" in program(folder, "js") and not (node_packages / "sharp").exists():
        pytest.skip("sharp is not installed: make test-edge")
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(node_packages)
    check_picture(folder, output(["node", "program.mjs", PHOTO], folder))


def test_the_cpp_program_draws(folder, onnxruntime_headers, onnxruntime_library):
    (folder / "program.cpp").write_text(program(folder, "cpp"))
    jpeg = ["-ljpeg"] if "jpeglib" in program(folder, "cpp") else []
    if jpeg and not any(
        Path(place, "jpeglib.h").exists() for place in ("/usr/include", "/usr/local/include")
    ):
        pytest.skip("libjpeg's headers are not installed: apt-get install libjpeg-dev")
    build = [
        "c++",
        "-std=c++17",
        f"-I{onnxruntime_headers}",
        "program.cpp",
        onnxruntime_library,
        *jpeg,
        "-o",
        "program",
    ]
    output(build, folder)
    libraries = f"LD_LIBRARY_PATH={onnxruntime_library.parent}"
    check_picture(folder, output(["env", libraries, "./program", PHOTO], folder))
