"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# The servers of the tests are on this machine, which a company's proxy does not reach.
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))

# Beside other processes of xdist a test's threads wait for each other, a third of the processor's time.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

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


PASSED = "icgan/passed"  # in pytest's cache: the tests that passed in the run before


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--left", action="store_true", help="only tests that did not pass in the run before")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--left` put aside what passed: what failed is run again, and what a lost process left undone."""
    if config.option.left:
        assert config.cache is not None
        passed = frozenset(config.cache.get(PASSED, []))
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # those processes of pytest-xdist report to this one
        config.pluginmanager.register(Outcome(config))


class Outcome:
    """Keeps which tests passed, and ends with status 3 where a process of pytest-xdist was lost."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.passed: dict[str, bool] = {}
        self.lost = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown" or report.failed:
            self.passed[report.nodeid] = self.passed.get(report.nodeid, True) and not report.failed

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, error: object) -> None:
        self.lost |= error is not None

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        cache = getattr(self.config, "cache", None)  # none with `-p no:cacheprovider`
        if cache is not None:
            cache.set(PASSED, [name for name, passed in self.passed.items() if passed])
        if self.lost:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


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
