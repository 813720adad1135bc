"""Bundles and Node packages for the examples' tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest

from tests.models import bundles

tiny_bundle, labelled_bundle, bare_bundle = bundles.tiny_bundle, bundles.labelled_bundle, bundles.bare_bundle
squeezed_bundle = bundles.squeezed_bundle
stylegan2_bundle = bundles.stylegan2_bundle

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """The examples' node_modules; tests that need it are skipped where it was not installed."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if tuple(map(int, node("--version").strip("v\n").split("."))) < (20, 15):
        pytest.skip("node is older than 20.15")
    folder = EXAMPLES / "node_modules"
    if not folder.is_dir():
        pytest.skip("the examples' Node packages are not installed: tests/edge/install.sh")
    return folder


@pytest.fixture(scope="session")
def onnxruntime_headers() -> Path:
    """The headers of ONNX Runtime: a folder that was named, the system's, or what headers.sh fetched."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler is installed")
    places = os.environ.get("ONNXRUNTIME_INCLUDE"), "/usr/include/onnxruntime", EXAMPLES / "cpp/onnxruntime"
    for place in places:
        if place and Path(place, "onnxruntime_cxx_api.h").exists():
            return Path(place)
    pytest.skip("ONNX Runtime's headers are not here: examples/cpp/headers.sh, or set ONNXRUNTIME_INCLUDE")


@pytest.fixture(scope="session")
def onnxruntime_library(tmp_path_factory) -> Path:
    """The library of the Python wheel under the name it is loaded by, which the wheel leaves out."""
    library = tmp_path_factory.mktemp("library") / "libonnxruntime.so.1"
    library.symlink_to(next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")))
    return library


def node(*arguments: object) -> str:
    """What a Node program prints."""
    command = ["node", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
