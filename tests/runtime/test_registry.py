"""Bundles in an OCI registry: a real one, where Debian's docker-registry is installed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.cli import main
from icgan_runtime.registry import pull, push
from tests.runtime.server.test_repository import other_bank
from tests.triton.conftest import quiet

pytest.importorskip("oras", reason="pip install 'icgan[oci]'")
from icgan_runtime.errors import IntegrityError, RequestError, ServiceError, UnavailableError

CONFIG = """
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: ROOT}, delete: {enabled: true}}
http: {addr: "127.0.0.1:PORT"}
"""


class Registry:
    """Where it listens, and the folder in which it keeps blobs."""

    def __init__(self, address: str, root: Path) -> None:
        self.address, self.root = address, root

    def blobs(self) -> list[Path]:
        return sorted(self.root.glob("docker/registry/v2/blobs/sha256/*/*/data"))


@pytest.fixture
def registry(tmp_path) -> Iterator[Registry]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("apt-get install docker-registry")
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    config = tmp_path / "registry.yml"
    config.write_text(CONFIG.replace("ROOT", str(tmp_path / "registry")).replace("PORT", str(port)))
    with subprocess.Popen(
        [program, "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/").close()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield Registry(f"127.0.0.1:{port}", tmp_path / "registry")
        finally:
            process.terminate()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_bundle_comes_back_byte_for_byte_by_its_tag_and_by_its_content(registry, tiny_bundle, tmp_path):
    pinned = push(tiny_bundle, f"{registry.address}/bundles/tiny:1", quiet)
    assert pinned.startswith(f"{registry.address}/bundles/tiny@sha256:")
    for number, reference in enumerate((f"{registry.address}/bundles/tiny:1", pinned)):
        out = tmp_path / str(number)
        assert pull(reference, out, quiet) == pinned
        assert contents(out) == contents(tiny_bundle)
        Bundle.open(out).verify_files()


def test_the_same_bundle_is_the_same_content_and_another_bank_brings_only_its_own_files(
    registry, tiny_bundle, tmp_path
):
    pinned = push(tiny_bundle, f"{registry.address}/tiny:1", quiet)
    held = len(registry.blobs())
    assert push(tiny_bundle, f"{registry.address}/tiny:2", quiet) == pinned
    assert len(registry.blobs()) == held
    push(other_bank(tiny_bundle, tmp_path), f"{registry.address}/tiny:3", quiet)
    changed = {"manifest.json", "lookup.onnx", "bank/embeddings.npy"}
    assert 0 < len(registry.blobs()) - held < held
    assert len(registry.blobs()) - held >= len(changed)


def test_a_tag_that_moved_does_not_move_what_is_pinned(registry, tiny_bundle, labelled_bundle, tmp_path):
    pinned = push(tiny_bundle, f"{registry.address}/it:latest", quiet)
    push(labelled_bundle, f"{registry.address}/it:latest", quiet)
    pull(pinned, tmp_path / "pinned", quiet)
    pull(f"{registry.address}/it:latest", tmp_path / "latest", quiet)
    assert Bundle.open(tmp_path / "pinned").manifest.model.classes == 0
    assert Bundle.open(tmp_path / "latest").manifest.model.classes == 3


@pytest.mark.parametrize("damage", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:-1]])
def test_a_file_that_changed_in_the_registry_is_refused_and_nothing_is_left(
    registry, tiny_bundle, tmp_path, damage
):
    push(tiny_bundle, f"{registry.address}/tiny:1", quiet)
    graph = (tiny_bundle / "generator.onnx").read_bytes()
    [blob] = [path for path in registry.blobs() if path.read_bytes() == graph]
    blob.write_bytes(damage(graph))
    with pytest.raises((IntegrityError, ServiceError), match=r"generator\.onnx|registry"):
        pull(f"{registry.address}/tiny:1", tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def test_a_damaged_bundle_is_not_pushed(registry, tiny_bundle, tmp_path):
    damaged = Path(shutil.copytree(tiny_bundle, tmp_path / "damaged"))
    (damaged / "generator.onnx").write_bytes(b"nothing")
    with pytest.raises(IntegrityError, match=r"generator\.onnx"):
        push(damaged, f"{registry.address}/tiny:1", quiet)
    assert registry.blobs() == []


def test_what_is_no_bundle_there_is_one_line(registry, tiny_bundle, tmp_path, capsys):
    assert main(["pull", f"{registry.address}/absent:1", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"icgan: {registry.address}/absent: 404: there is none\n"


def test_the_commands_say_the_pinned_reference(registry, tiny_bundle, tmp_path, capsys):
    reference = f"{registry.address}/tiny:1"
    assert main(["push", str(tiny_bundle), reference, "--json"]) == 0
    pinned = json.loads(capsys.readouterr().out)["reference"]
    assert main(["pull", pinned, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"pulled {pinned}\n"
    assert main(["pull", pinned, "--out", str(tmp_path / "out")]) == 1
    assert "exists: name a new folder" in capsys.readouterr().err


def test_a_registry_that_is_not_there_is_said_at_once(tiny_bundle):
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    started = os.times().elapsed
    with pytest.raises(UnavailableError, match="is the registry there"):
        push(tiny_bundle, f"127.0.0.1:{port}/tiny:1", quiet)
    assert os.times().elapsed - started < 30, "its library would try for two minutes"


@pytest.mark.parametrize("reference", ["demo", "bundles/demo:1", "registry.example/", ""])
def test_a_reference_names_its_registry(tiny_bundle, reference):
    with pytest.raises(RequestError, match=r"^reference: .*registry.example/bundles/demo:1$"):
        push(tiny_bundle, reference, quiet)


def test_what_is_pinned_cannot_be_pushed_to(tiny_bundle):
    with pytest.raises(RequestError, match="name a tag"):
        push(tiny_bundle, f"127.0.0.1:1/tiny@sha256:{'0' * 64}", quiet)
