"""The Node and C++ examples: the pictures they write are the Python pipeline's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from icgan_runtime import Pipeline, images
from tests.edge.conftest import EXAMPLES, node

ROW, SEED = 3, 2**63 - 1


def assert_pictures_are_pythons(sheet: Path, bundle: Path) -> None:
    with Pipeline.load(bundle, threads=1) as pipe:
        expected = pipe.generate_from(pipe.bank.embeddings[ROW], n=8, seed=SEED, truncation=0.7)
    found = np.asarray(Image.open(sheet))
    assert np.abs(found.astype(int) - images.grid(expected.images, columns=8, gap=0)).max() <= 1


@pytest.mark.parametrize("name", ["tiny_bundle", "labelled_bundle"])
def test_the_node_example_draws_pythons_pictures(name, node_packages, request, tmp_path):
    bundle = request.getfixturevalue(name)
    printed = node(EXAMPLES / "node/generate.mjs", bundle, ROW, SEED, tmp_path / "sheet.png")
    assert_pictures_are_pythons(tmp_path / "sheet.png", bundle)
    assert f"instances: {ROW} (1.000)" in printed


def test_the_node_example_refuses_a_changed_file(tiny_bundle, node_packages, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "changed")
    changed = bytearray((bundle / "generator.onnx").read_bytes())
    changed[-1] ^= 1
    (bundle / "generator.onnx").write_bytes(changed)
    with pytest.raises(AssertionError, match=r"generator\.onnx: its bytes are not the manifest's"):
        node(EXAMPLES / "node/generate.mjs", bundle)


def test_the_cpp_example_draws_pythons_pictures(tiny_bundle, tmp_path):
    include = os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime")
    if shutil.which("cmake") is None or not Path(include, "onnxruntime_cxx_api.h").exists():
        pytest.skip("needs cmake and ONNX Runtime's headers: set ONNXRUNTIME_INCLUDE")
    library = tmp_path / "libonnxruntime.so.1"  # the name it is loaded by, which the wheel leaves out
    library.symlink_to(next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")))
    configure = [
        "cmake",
        "-S",
        EXAMPLES / "cpp",
        "-B",
        tmp_path / "build",
        f"-DONNXRUNTIME_INCLUDE={include}",
    ]
    subprocess.run([*configure, f"-DONNXRUNTIME_LIBRARY={library}"], check=True)
    subprocess.run(["cmake", "--build", tmp_path / "build"], check=True)
    sheet = tmp_path / "sheet.png"
    subprocess.run([tmp_path / "build/generate", tiny_bundle, str(ROW), str(SEED), sheet], check=True)
    assert_pictures_are_pythons(sheet, tiny_bundle)
