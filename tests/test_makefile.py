"""The Makefile's own decisions, read off `make -n`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_each_library_of_plans_is_installed_when_it_is_first_asked_for(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv-serve").mkdir()
    for made in ("pyproject.toml", "requirements-demo.lock", "requirements.lock"):
        (tmp_path / made).touch()
    for made in (".venv/.demo", ".venv/.stamp", ".venv/.bench"):
        (tmp_path / made).touch()
    (tmp_path / ".venv/.gpu-tensorrt-rtx").touch()

    def steps(library: str) -> str:
        command = ["make", "-n", "test-gpu", f"TENSORRT={library}"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert ".[serve" in steps("tensorrt-rtx"), "the server whose pictures come through the GPU's memory"
    (tmp_path / ".venv-serve/.stamp").touch()
    assert "pip install" not in steps("tensorrt-rtx")
    assert "tensorrt\n" in steps("tensorrt").partition("pip install")[2]


@pytest.mark.parametrize(
    ("target", "data"),
    [("train-demo", "groceries"), ("train-cifar10", "cifar10"), ("transfer", "fluent-emoji")],
)
def test_a_target_that_was_stopped_does_not_fetch_again_what_is_there(target, data, tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    for made in (
        "pyproject.toml",
        "requirements-demo.lock",
        "requirements.lock",
        ".venv/.demo",
        ".venv/.stamp",
    ):
        (tmp_path / made).touch()

    def steps() -> list[str]:
        command = ["make", "-n", target]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if f"icgan-train fetch {data} " in line]

    assert len(steps()) == 1
    (tmp_path / "data" / data).mkdir(parents=True)
    assert steps() == []


def test_a_python_that_is_too_old_is_named_before_anything_is_made(tmp_path):
    for name in ("Makefile", "pyproject.toml", "requirements-demo.lock", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3"
    pretend = "import sys; sys.version_info = (3, 10); exec(sys.argv[2])"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{pretend}" "$@"\n')
    old.chmod(0o755)
    command = ["make", "env", f"PYTHON={old}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.startswith("Python 3.11 or newer is needed: make PYTHON=python3.12")
    assert not (tmp_path / ".venv").exists()


def checkout(tmp_path):
    """A checkout with the whole environment, and a demo that was made after all it comes from."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    files = [
        "pyproject.toml", "requirements-demo.lock", "requirements.lock", "models/demo/config.json",
        "models/encoders/some.safetensors", "export/icgan_export/bundle.py", "runtime/icgan_runtime/rows.py",
        "training/icgan_training/errors.py", "examples/photos/pears.jpg", ".venv/.demo", ".venv/.stamp",
        "bundles/demo/manifest.json", "demo/grid.png", "demo/report.txt",
    ]  # fmt: skip
    for age, name in enumerate(reversed(files)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    for folder in ("models/demo", "models/encoders"):
        os.utime(tmp_path / folder, (9e8, 9e8))


def steps(tmp_path, target: str) -> str:
    command = ["make", "-n", target]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def test_a_second_demo_with_nothing_changed_makes_nothing(tmp_path):
    checkout(tmp_path)
    assert "icgan" not in steps(tmp_path, "demo")
    (tmp_path / "examples/photos/pears.jpg").touch()
    assert "icgan generate" in steps(tmp_path, "demo")
    assert "icgan-export bundle" not in steps(tmp_path, "demo"), "another photo is no reason to export"


@pytest.mark.parametrize(
    "changed",
    ["models/demo/config.json", "models/encoders/some.safetensors", "export/icgan_export/bundle.py",
     "runtime/icgan_runtime/rows.py", "training/icgan_training/errors.py"],
)  # fmt: skip
def test_a_demo_is_made_anew_after_its_weights_or_the_code_changed(changed, tmp_path):
    checkout(tmp_path)
    (tmp_path / changed).touch()
    assert "icgan-export bundle models/demo" in steps(tmp_path, "demo")


def test_the_demo_installs_no_tools_of_developers_and_the_tests_add_them(tmp_path):
    for name in ("Makefile", "pyproject.toml", "requirements-demo.lock", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    assert "-r requirements-demo.lock" in steps(tmp_path, "demo")
    assert "-r requirements.lock" not in steps(tmp_path, "demo")
    assert "-r requirements.lock" in steps(tmp_path, "lint")
    assert "--quiet --require-hashes" not in steps(tmp_path, "lint"), "minutes of silence"


def test_make_alone_lists_every_documented_target_in_its_group():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    groups = re.findall(r"^(\w[\w ]*)$", listed, re.MULTILINE)
    assert groups == ["every day", "train", "measure", "break", "release"]
    documented = re.findall(r"^([a-z][\w-]*):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^  ([a-z][\w-]*) ", listed, re.MULTILINE) == documented


def run_tests_of(folder: Path, **files: str) -> subprocess.CompletedProcess[str]:
    """`make test-python` where the tests are `files`."""
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "tests/conftest.py", folder)
    for made in (".venv", ".venv-serve"):
        (folder / made).mkdir()
    (folder / ".venv/bin").symlink_to(Path(sys.executable).parent)
    for made in ("pyproject.toml", "requirements-demo.lock", "requirements.lock"):
        (folder / made).touch()
    for made in (".venv/.demo", ".venv/.stamp", ".venv-serve/.stamp"):
        (folder / made).touch()
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MAKE", "MFLAGS"))
    }
    return subprocess.run(
        ["make", "test-python"], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_what_failed_gets_one_second_try(tmp_path):
    once = "from pathlib import Path\n\n\ndef test_it():\n    seen = Path('seen').exists()\n"
    once += "    Path('seen').touch()\n    assert seen\n"
    done = run_tests_of(tmp_path, test_once=once, test_other="def test_it(): pass\n")
    assert done.returncode == 0, done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert re.findall("^(.* passed) in", done.stdout, re.MULTILINE) == ["1 failed, 1 passed", "1 passed"]


def test_where_a_process_of_the_tests_was_lost_what_it_left_undone_is_run(tmp_path):
    once = "import os\nfrom pathlib import Path\n\n\ndef test_it():\n    if not Path('seen').exists():\n"
    once += "        Path('seen').touch()\n        os._exit(0)\n"
    count = "def test_it(): open('ran', 'a').write('.')\n"
    others = {f"test_{number}": count for number in range(8)}
    done = run_tests_of(tmp_path, test_a=once, **others)
    assert done.returncode == 0, done.stdout
    assert "crashed while running" in done.stdout
    assert (tmp_path / "ran").read_text() == "." * 8, "all of them, and none twice"


def test_a_process_that_is_lost_again_fails_the_run(tmp_path):
    done = run_tests_of(
        tmp_path, test_a="import os\n\n\ndef test_it(): os._exit(0)\n", test_b="def test_it(): pass\n"
    )
    assert done.returncode != 0
