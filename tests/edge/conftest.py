"""Bundles and Node packages for the examples' tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.models.make_models import make_bundle

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """An unconditional bundle; read only."""
    return make_bundle(tmp_path_factory.mktemp("edge") / "tiny")


@pytest.fixture(scope="session")
def labelled_bundle(tmp_path_factory) -> Path:
    """A bundle with three classes; read only."""
    return make_bundle(tmp_path_factory.mktemp("edge") / "labelled", classes=3)


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """The examples' node_modules; tests that need it are skipped where it was not installed."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    folder = EXAMPLES / "node_modules"
    if not folder.is_dir():
        pytest.skip("the examples' Node packages are not installed: make test-edge")
    return folder


def node(*arguments: object) -> str:
    """What a Node program prints."""
    command = ["node", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
