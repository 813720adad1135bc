"""Files and keys that are not what they should be: said in one line, and nothing is half written."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from icgan_runtime import Pipeline, images
from icgan_runtime.cli import main
from icgan_runtime.marks.claim import SINGLE, Sheet
from icgan_runtime.marks.mark import Mark, read_marks
from icgan_runtime.origin import prove as prove_module
from icgan_runtime.origin import recover
from icgan_runtime.origin.prove import Judge

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


@pytest.fixture
def asked(tiny_bundle, photo, capsys):
    """Runs prove about a file that claims something else; returns its status and what it says."""

    def run(data: bytes, tmp_path):
        path = tmp_path / "claimed.png"
        path.write_bytes(data)
        command = ["prove", str(path), "--bundle", str(tiny_bundle), "--picture", str(photo)]
        status = main([*command, "--seeds", "7-7", "--truncation", "0.7", "--json"])
        return status, json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize(
    "lie",
    [
        {"n": 10_000},
        {"n": 2, "sheet": Sheet(columns=2, gap=0, left=0)},
        {"n": 10_000, "sheet": Sheet(10_000, 64, 10_000, 1000, 256)},
        {"condition": "whatever"},
        {"embedding": (1e300,)},
    ],
    ids=["many", "two", "a huge sheet", "condition", "embedding"],
)
def test_a_claim_that_lies_neither_ends_the_search_nor_has_thousands_drawn(
    lie, asked, result, tmp_path, monkeypatch
):
    drawn = []
    plain = recover.draw

    def counted(chain, embedding, settings, seeds, samples):
        drawn.append(len(seeds))
        return plain(chain, embedding, settings, seeds, samples)

    monkeypatch.setattr(recover, "draw", counted)
    claim = replace(result.claim(0, 1, SINGLE), **lie)
    status, told = asked(Mark(claim).encode(result.images[0], "PNG"), tmp_path)
    assert (status, told["how"], told["seed"]) == (0, "search", 7)
    assert sum(drawn) < 600


def test_a_claim_about_one_of_many_stored_instances_is_proved_without_judging_the_others(
    tiny_bundle, tmp_path, capsys, monkeypatch
):
    with Pipeline.load(tiny_bundle) as pipe:
        wanted = int(pipe.bank.ids[-1])
        made = pipe.generate_from(pipe.bank.embeddings[-1], n=1, seed=5)
    path = tmp_path / "x.png"
    path.write_bytes(Mark(made.claim(0, 1, SINGLE)).encode(made.images[0], "PNG"))
    judged = []

    def counted(*given):
        judged.append(given)
        return Judge(*given)

    monkeypatch.setattr(prove_module, "Judge", counted)
    assert main(["prove", str(path), "--bundle", str(tiny_bundle), "--bank", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["how"], told["instance"]) == ("claim", wanted)
    assert len(judged) <= 1
