"""Tiny bundles, made once per run and copied where a test wants to break one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models import bundles
from tests.models.make_models import make_bundle

tiny_bundle, labelled_bundle = bundles.tiny_bundle, bundles.labelled_bundle
squeezed_bundle = bundles.squeezed_bundle
bare_bundle = bundles.bare_bundle


@pytest.fixture(scope="session")
def foreign_bundle(tmp_path_factory) -> Path:
    """As tiny_bundle, but made with another encoder; read only."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "foreign", encoder="other", seed=1)


@pytest.fixture
def copy_bundle(tmp_path) -> Callable[[Path], Path]:
    """Returns a function that copies a bundle into a folder of its own, free to be damaged."""

    def copy(bundle: Path) -> Path:
        return Path(shutil.copytree(bundle, tmp_path / "copy"))

    return copy
