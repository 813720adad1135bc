"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# The servers of the tests are on this machine, which a company's proxy does not reach.
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))

# Property tests draw the same examples every time, so that a red run means a change. `pytest
# --hypothesis-profile=thorough` draws new ones.
settings.register_profile("fast", derandomize=True, deadline=None, database=None)
settings.register_profile("thorough", max_examples=2000, deadline=None)
# For `make mutation`: few examples and no search for the smallest one
settings.register_profile(
    "mutation",
    settings.get_profile("fast"),
    max_examples=25,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fast")


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


@pytest.fixture(scope="session")
def all_precisions(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of `tiny_run` at every precision. Read only, too."""
    from icgan_export.cli import main

    out = tmp_path_factory.mktemp("bundles") / "all"
    command = ["bundle", str(tiny_run), "--out", str(out), "--neighbours", "4"]
    assert main([*command, "--precision", "fp32,fp16,bf16,int8"]) == 0
    return out
