"""Fixtures shared by all tests."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a tiny model with random weights. Read only: copy it before changing anything."""
    from tests.tiny_model import tiny_config, write_run

    return write_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_config())


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle exported from `tiny_run`. Read only, too."""
    from icgan_export.cli import main

    out = tmp_path_factory.mktemp("bundles") / "tiny"
    assert main(["bundle", str(tiny_run), "--out", str(out), "--neighbours", "4"]) == 0
    return out
