"""The lock: every package of the environment, with hashes, in the versions of constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
LOCKED = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, re.MULTILINE))
DEMO = (ROOT / "requirements-demo.lock").read_text()
EXTRAS = re.search(r"^lock:.*?--extra ,([a-z0-9 ]+)\)", (ROOT / "Makefile").read_text(), re.M | re.S)
UNHASHED = {"torch"}  # the Makefile says why


def plain(name: str) -> str:
    """A package's name as the index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_of_the_environment_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert EXTRAS is not None
    needed = [*project["dependencies"], *(item for extra in EXTRAS[1].split() for item in extras[extra])]
    names = {plain(re.split(r"[<>=\[ ;]", item)[0]) for item in needed}
    assert names - UNHASHED <= LOCKED.keys(), "run `make lock`"
    assert not UNHASHED & LOCKED.keys()


def entries(lock: str) -> list[str]:
    return [entry for entry in re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE) if entry.strip()]


def test_the_demo_locks_a_part_of_the_environment_alone_in_the_same_versions():
    assert set(entries(DEMO)) < set(entries(LOCK)), "run `make lock`"
    names = {entry.partition("==")[0] for entry in entries(DEMO)}
    assert {"onnxruntime", "faiss-cpu", "onnxscript", "safetensors"} <= names
    assert not names & {"pytest", "mypy", "openvino", "helm-python-sdk", "tensorrt-rtx", "pyarrow"}


def test_the_locked_versions_are_those_of_the_constraints():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    wrong = {name for name, version in pinned.items() if LOCKED.get(plain(name), version) != version}
    assert wrong == set(), "run `make lock`"


def test_every_entry_has_a_hash_and_names_no_place_to_take_it_from():
    assert len(entries(LOCK)) == len(LOCKED)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries(LOCK))
    assert "://" not in LOCK
    assert "index" not in re.sub(r"^\S+==.*$", "", LOCK, flags=re.MULTILINE)
