"""Bundles and Node packages for the examples' tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.models import bundles

tiny_bundle, labelled_bundle = bundles.tiny_bundle, bundles.labelled_bundle

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


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
