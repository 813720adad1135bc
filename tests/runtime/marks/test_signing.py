"""Signing in a process of its own: what comes through the socket, and what the other side cannot read."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from icgan_runtime import images
from icgan_runtime.errors import RequestError, UnavailableError
from icgan_runtime.marks.claim import SINGLE, VERSION, Claim, Source
from icgan_runtime.marks.mark import KEY_VARIABLE, SOCKET_VARIABLE, Mark, read_marks

pytest.importorskip("c2pa")
if sys.platform == "win32":
    pytest.skip("no such sockets", allow_module_level=True)

from icgan_runtime.marks import signing as module
from icgan_runtime.marks.remote import RemoteSigner
from icgan_runtime.marks.signing import signing
from tests.runtime.marks.certificates import write_signer

CLAIM = Claim(VERSION, Source("m", "1", "0" * 64), 1, 0, 1, 1.0, "query", None, SINGLE, None, None)
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.fixture
def key(tmp_path):
    return write_signer(tmp_path)


@pytest.fixture
def place(tmp_path, key, monkeypatch):
    """A socket behind which the key signs, in the environment; this process stays readable to pytest."""
    monkeypatch.setattr(module, "hide_from_others", lambda: None)
    path = tmp_path / "socket"
    monkeypatch.setenv(SOCKET_VARIABLE, str(path))
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with signing(key[0], path):
        yield path


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("claim", [CLAIM, None], ids=["claim", "no claim"])
def test_a_file_is_signed_by_the_process_behind_the_socket(place, key, kind, claim):
    data = Mark(claim).encode(PICTURE, kind)
    marks = read_marks(data, key[1])
    assert marks.signature is not None
    assert (marks.signature["state"], marks.claim, marks.generated) == ("Trusted", claim, True)
    assert np.array_equal(images.pixels(data), images.pixels(images.encode(PICTURE, kind)))


def test_a_deleted_key_file_goes_on_signing(place, key):
    key[0].unlink()
    assert read_marks(Mark(CLAIM).encode(PICTURE, "PNG")).kind == "signed"


def test_without_its_signer_no_file_is_written_unsigned(tmp_path, monkeypatch):
    monkeypatch.setenv(SOCKET_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UnavailableError, match="no answer from the signer"):
        Mark(CLAIM).encode(PICTURE, "PNG")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (b"\n", "not a file to sign"),
        (b"[" * 100_000 + b"\n", "not a file to sign"),
        (b'{"kind": "GIF", "claim": null, "bytes": 9}\n', "GIF"),
        (b'{"kind": "PNG", "claim": null, "bytes": 99999999999}\n', "at most"),
        (b'{"kind": "PNG", "claim": "{}", "bytes": 3}\nabc', "claim"),
        (b'{"kind": "PNG", "claim": null, "bytes": 3}\nabc', "cannot sign"),
    ],
    ids=["nothing", "deep", "kind", "size", "claim", "no picture"],
)
def test_what_is_no_file_to_sign_is_refused_in_a_line_and_the_next_is_signed(place, asked, words):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place))
        connection.sendall(asked)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            told = answer.read()
    assert told.count(b"\n") == 1
    assert words in json.loads(told)["error"]
    assert read_marks(RemoteSigner(str(place)).sign(images.encode(PICTURE), "PNG", CLAIM)).kind == "signed"


def test_a_client_that_goes_away_harms_nobody(place, capfd):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place))
        connection.sendall(b'{"kind": "PNG", "claim": null, "bytes": 1000}\nabc')
    assert read_marks(Mark(CLAIM).encode(PICTURE, "PNG")).kind == "signed"
    assert "Traceback" not in capfd.readouterr().err


def test_a_socket_that_a_killed_signer_left_is_taken_over_and_a_file_is_not(tmp_path, key, monkeypatch):
    monkeypatch.setattr(module, "hide_from_others", lambda: None)
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with signing(key[0], path):
        assert path.is_socket()
    path.write_text("notes")
    with pytest.raises(RequestError, match="socket"), signing(key[0], path):
        pass
    assert path.read_text() == "notes"


SPY = """
import os, sys
from pathlib import Path
read = []
for name in ("environ", "mem", "maps"):
    try:
        with open(f"/proc/{sys.argv[1]}/{name}", "rb") as file:
            file.read(0 if name == "mem" else 1)
        read.append(name)
    except PermissionError:
        pass
try:
    read += [os.readlink(f"/proc/{sys.argv[1]}/fd/{each}") for each in os.listdir(f"/proc/{sys.argv[1]}/fd")]
except PermissionError:
    pass
print(read)
"""


# to root nothing is closed, unless it gives its rights up first
ORDINARY = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("setpriv"), reason="/proc, and util-linux")
def test_another_process_of_the_same_user_can_read_nothing_of_the_signer(tmp_path, key):
    def spied_on(process: int) -> str:
        command = [*ORDINARY, sys.executable, "-c", SPY, str(process)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    place = tmp_path / "socket"
    signer_command = ["-m", "icgan_runtime", "signer", "--key", str(key[0]), "--socket", str(place)]
    with (
        subprocess.Popen([*ORDINARY, "sleep", "600"]) as anybody,
        subprocess.Popen(
            [*ORDINARY, sys.executable, *signer_command], stdout=subprocess.PIPE, text=True
        ) as signer,
    ):
        try:
            assert "signing at" in signer.stdout.readline()
            open_to_all, closed = spied_on(anybody.pid), spied_on(signer.pid)
        finally:
            for process in (anybody, signer):
                process.terminate()
    assert "environ" in open_to_all
    assert "mem" in open_to_all
    assert closed == "[]\n"
    assert not place.exists()
