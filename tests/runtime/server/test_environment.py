"""Finding a Triton server on this machine, and the source of its models."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from icgan_runtime.errors import BackendError, MissingExtraError
from icgan_runtime.server import environment as environments
from icgan_runtime.server.environment import Environment, find_environment

FILE = Path("icgan_runtime", "server", "environment.py")


def interpreter(folder: Path, **found: Any) -> Path:
    """An environment whose python answers the probe with `found`."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    answer = {"package": f"{folder}/pytriton", "runtime": True, "library": "/lib", "version": "3.11", **found}
    python.write_text(f"#!/bin/sh\ncat <<'.'\n{json.dumps(answer)}\n.\n")
    python.chmod(0o755)
    return folder


def expected(folder: Path) -> Environment:
    return Environment(folder / "bin" / "python", folder / "pytriton", Path("/lib"), "3.11")


def test_the_environment_that_is_named_serves(tmp_path, monkeypatch):
    named = interpreter(tmp_path / "named")
    monkeypatch.setenv("ICGAN_SERVE_ENV", str(named))
    assert find_environment() == expected(named)
    assert find_environment().server == named / "pytriton" / "tritonserver"


def test_else_the_interpreters_own_or_the_one_in_the_checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("ICGAN_SERVE_ENV", raising=False)
    monkeypatch.setattr(environments, "__file__", str(tmp_path / "runtime" / FILE))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "absent"))
    with pytest.raises(MissingExtraError, match=r"^nvidia-pytriton .*pip install 'icgan\[serve\]'"):
        find_environment()
    beside = interpreter(tmp_path / ".venv-serve")
    assert find_environment() == expected(beside)
    monkeypatch.setattr(sys, "prefix", str(interpreter(tmp_path / "without", package=None)))
    assert find_environment() == expected(beside)
    own = interpreter(tmp_path / "own")
    monkeypatch.setattr(sys, "prefix", str(own))
    assert find_environment() == expected(own)


def test_nothing_in_the_current_folder_is_run(tmp_path, monkeypatch):
    """It may be a stranger's bundle, which runs no code."""
    monkeypatch.delenv("ICGAN_SERVE_ENV", raising=False)
    monkeypatch.setattr(environments, "__file__", str(tmp_path / "checkout" / FILE))
    folder = interpreter(tmp_path / "bundle" / ".venv-serve").parent
    (folder / "json.py").write_text("raise SystemExit('not to be run')")
    monkeypatch.chdir(folder)
    with contextlib.suppress(MissingExtraError):  # this interpreter may have a server, or not
        assert find_environment().python != folder / ".venv-serve" / "bin" / "python"


@pytest.mark.parametrize("in_checkout", [True, False])
def test_a_named_environment_without_a_server_or_this_package_says_what_to_install(
    tmp_path, monkeypatch, in_checkout
):
    """pip has to be told where a checkout lies: no index carries it."""
    monkeypatch.setattr(environments, "__file__", str(tmp_path / "here" / "runtime" / FILE))
    package = "icgan"
    if in_checkout:
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "pyproject.toml").touch()
        package = str(tmp_path / "here")
    for name, found in {"empty": None, "without": {"package": None}}.items():
        folder = tmp_path / name if found is None else interpreter(tmp_path / name, **found)
        monkeypatch.setenv("ICGAN_SERVE_ENV", str(folder))
        with pytest.raises(BackendError) as caught:
            find_environment()
        remedy = f"{folder}/bin/pip install '{package}[serve]'"
        assert str(caught.value) == f"ICGAN_SERVE_ENV={folder} has no Triton server: {remedy}"
    other = interpreter(tmp_path / "other", runtime=False)
    monkeypatch.setenv("ICGAN_SERVE_ENV", str(other))
    with pytest.raises(BackendError) as caught:
        find_environment()
    remedy = f"{other}/bin/python -m pip install {package}"
    assert str(caught.value) == f"{other} has a Triton server but not this package: {remedy}"


def test_the_probe_answers_for_this_interpreter(monkeypatch):
    """The real question, to a python that has no server."""
    done = subprocess.run([sys.executable, "-c", environments._PROBE], check=True, capture_output=True)
    found = json.loads(done.stdout)
    assert found["runtime"] is True
    assert re.fullmatch(r"3\.\d+", found["version"])


def test_the_models_come_from_the_checkout_or_from_where_a_wheel_puts_them(tmp_path, monkeypatch):
    checkout = tmp_path / "runtime" / FILE
    monkeypatch.setattr(environments, "__file__", str(checkout))
    monkeypatch.setattr(sysconfig, "get_default_scheme", lambda: "everybody's")
    monkeypatch.setattr(sysconfig, "get_preferred_scheme", lambda key: f"{key}'s")  # pip install --user
    monkeypatch.setattr(sysconfig, "get_path", lambda key, scheme: str(tmp_path / key / scheme))
    with pytest.raises(BackendError, match=r"triton_models is in none of .*: install it anew"):
        environments.model_sources()
    for installed in ("data/user's/share/icgan", "data/everybody's/share/icgan", ""):
        (tmp_path / installed / "triton_models").mkdir(parents=True)
        assert environments.model_sources() == tmp_path / installed / "triton_models"
