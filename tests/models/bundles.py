"""Session fixtures over `make_models`: hand-made bundles, imported by each conftest that wants them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.make_models import make_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """An unconditional bundle; read only."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def labelled_bundle(tmp_path_factory) -> Path:
    """A bundle with three classes; read only."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "labelled", classes=3)


@pytest.fixture(scope="session")
def squeezed_bundle(tmp_path_factory) -> Path:
    """A bundle whose encoder sees all of a photo, squeezed to the square; read only."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "squeezed", crop="squeeze")


@pytest.fixture(scope="session")
def bare_bundle(tmp_path_factory) -> Path:
    """A bundle with three classes whose bank holds no thumbnails; read only."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "bare", classes=3, thumbnails=False)


@pytest.fixture(scope="session")
def stylegan2_bundle(tmp_path_factory) -> Path:
    """A bundle on the StyleGAN2 backbone, whose truncation is psi; read only."""
    from tests.models.stylegan2_bundle import make_stylegan2_bundle

    return make_stylegan2_bundle(tmp_path_factory.mktemp("bundles") / "stylegan2")
