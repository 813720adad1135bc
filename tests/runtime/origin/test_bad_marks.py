"""Files and keys that are not what they should be: said in one line, and nothing is half written."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest

from icgan_runtime import Pipeline, images
from icgan_runtime.cli import main
from icgan_runtime.marks.claim import SINGLE
from icgan_runtime.marks.mark import Mark, read_marks

pytest.importorskip("c2pa")
from tests.runtime.marks.certificates import write_signer

PICTURE = np.full((9, 9, 3), 200, np.uint8)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(images.encode(PICTURE))
    return path


@pytest.fixture
def result(tiny_bundle):
    with Pipeline.load(tiny_bundle) as pipe:
        return pipe.generate(PICTURE, n=2, seed=7, truncation=0.7)


def test_an_expired_certificate_leaves_no_picture(tiny_bundle, photo, tmp_path, capsys):
    key = write_signer(tmp_path, days=-1)[0]
    out = tmp_path / "x.png"
    asked = ["generate", str(tiny_bundle), str(photo), "--out", str(out), "--sign-key", str(key)]
    assert main(asked) == 1
    words = capsys.readouterr().err
    assert "sign_key" in words.replace("-", "_")
    assert "valid from" in words
    assert words.count("\n") == 1
    assert not out.exists()


def test_a_signed_claim_that_lies_is_called_false_though_its_signature_holds(
    tiny_bundle, photo, result, tmp_path, capsys
):
    key = write_signer(tmp_path)[0]
    lie = tmp_path / "lie.png"
    lie.write_bytes(Mark(result.claim(0, 1, SINGLE), key).encode(result.images[1], "PNG"))
    asked = [
        "prove",
        str(lie),
        "--bundle",
        str(tiny_bundle),
        "--picture",
        str(photo),
        "--seeds",
        "3-4",
        "--json",
    ]
    assert main(asked) == 4
    told = json.loads(capsys.readouterr().out)
    assert told["marks"]["signature"]["state"] == "Valid"
    assert any("the claim is false" in note for note in told["notes"])


def test_an_authority_that_did_not_sign_makes_nothing_trusted(result, tmp_path):
    (tmp_path / "other").mkdir()
    key, stranger = write_signer(tmp_path)[0], write_signer(tmp_path / "other")[1]
    data = Mark(result.claim(0, 1, SINGLE), key).encode(result.images[0], "PNG")
    signature = read_marks(data, stranger).signature
    assert signature is not None
    assert signature["state"] == "Valid"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        (b"caBX", bytes(8 << 20), "at most 4194304 are read"),
        (b"caBX", b"\0\0\0\x20jumb" + bytes(24), "manifest"),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<" * (1 << 20), "at most"),
        (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0 icgan:claim="' + b"[" * 100_000 + b'"', "claim"),
    ],
    ids=["huge manifest", "damaged manifest", "huge XMP", "deep claim"],
)
def test_huge_and_damaged_metadata_is_bounded_and_said(kind, body, words):
    plain = images.encode(PICTURE)
    data = plain[:33] + chunk(kind, body) + plain[33:]
    marks = read_marks(data)
    assert marks.claim is None
    assert any(words in note for note in marks.notes), marks.notes
