"""The wheel, installed in a fresh environment away from the checkout, as a user has it.

The environment borrows the libraries of the one that the tests run in, or of the server's: nothing
is fetched.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_runtime.errors import IcganError
from icgan_runtime.server.environment import ENVIRONMENT_VARIABLE, find_environment
from icgan_runtime.server.process import free_ports
from tests.models.make_models import make_bundle

ROOT = Path(__file__).parents[1]


def built(folder: Path, target: str) -> Path:
    """A distribution of the working tree: hatchling takes what git does not ignore."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.iterdir()
    return file


def libraries() -> Path:
    """The packages of the server's environment, which has all that the runtime needs, or of this one."""
    try:
        return find_environment().package.parent
    except IcganError:
        return Path(np.__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of the programs in an environment that has the wheel."""
    pytest.importorskip("hatchling", reason="pip install hatchling to build the wheel")
    folder = tmp_path_factory.mktemp("installed")
    wheel = built(folder / "dist", "wheel")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    place = sysconfig.get_path("purelib", vars={"base": str(folder / "env"), "platbase": str(folder / "env")})
    (Path(place) / "borrowed.pth").write_text(f"{libraries()}\n")
    command = ["--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True, capture_output=True)
    return python.parent


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def alone(tmp_path, monkeypatch) -> dict[str, str]:
    """Variables of a shell that knows nothing of the checkout, and stands in another folder."""
    monkeypatch.chdir(tmp_path)
    unset = {"PYTHONPATH", ENVIRONMENT_VARIABLE}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | {"XDG_CACHE_HOME": str(tmp_path)}


def run(program: Path, *arguments: object, env: dict[str, str]) -> str:
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_the_wheel_that_runs_and_not_the_checkout(installed, alone):
    code = (
        "import icgan_runtime, icgan_export, icgan_training as t; print(icgan_runtime.__file__, t.__file__)"
    )
    found = run(installed / "python", "-c", code, env=alone)
    assert all(place.startswith(str(installed.parent)) for place in found.split())
    assert re.fullmatch(r"icgan \S+\n", run(installed / "icgan", "--version", env=alone))


def test_the_wheel_describes_a_bundle_and_draws_from_it(installed, bundle, alone, tmp_path):
    assert "tiny" in run(installed / "icgan", "info", bundle, env=alone)
    Image.new("RGB", (9, 9), "red").save(tmp_path / "photo.png")
    run(installed / "icgan", "generate", bundle, "photo.png", "-n", 4, "--out", "grid.png", env=alone)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size[1] == 8, "four images of 8 px in a row"


def test_the_wheel_serves_with_the_models_it_brings(installed, bundle, alone, tmp_path):
    try:
        find_environment()
    except IcganError as error:
        pytest.skip(f"no embedded Triton server ({error}): make serve-env")
    ports = free_ports()
    flags = ["--http-port", ports.http, "--grpc-port", ports.grpc, "--metrics-port", ports.metrics, "--json"]
    command = [str(installed / "icgan"), "serve", str(bundle), *map(str, flags)]
    with subprocess.Popen(
        command, env=alone, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()  # comes when the server is ready
            assert line, server.communicate()[1]
            assert json.loads(line)["grpc"] == f"grpc://127.0.0.1:{ports.grpc}"
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.communicate(timeout=60)
            except subprocess.TimeoutExpired:  # leaving the block would wait for ever
                server.terminate()
                raise
    assert server.returncode == 0


def test_the_source_distribution_holds_what_a_wheel_is_made_of_and_no_weights(tmp_path):
    pytest.importorskip("hatchling", reason="pip install hatchling to build it")
    with tarfile.open(built(tmp_path, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "triton_models/icgan_condition/1/model.py"} <= names
    tops = {name.partition("/")[0] for name in names}
    assert {"export", "runtime", "training", "triton_models"} <= tops
    assert not tops & {"models", "benchmarks", "tests", "deploy", ".ci", "findings"}


def test_the_wheel_holds_the_three_packages_and_the_models_of_the_server(installed):
    (wheel,) = (installed.parents[1] / "dist").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if not re.match(r"icgan-[^/]+/", name)} == {
        "icgan_export",
        "icgan_runtime",
        "icgan_training",
    }
    models = [name for name in names if name.endswith("share/icgan/triton_models/icgan_condition/1/model.py")]
    assert len(models) == 1
