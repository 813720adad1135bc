import os
import struct

import numpy as np
import pytest

from icgan_runtime import Pipeline, images
from icgan_runtime.errors import RequestError
from icgan_runtime.marks import metadata
from icgan_runtime.marks.claim import read_claim
from icgan_runtime.marks.mark import KEY_VARIABLE, Mark, find_signer, read_marks
from icgan_runtime.sheets import FORMATS
from tests.models.make_models import make_bundle

PICTURE = np.full((9, 9, 3), 200, np.uint8)
KINDS = sorted(set(FORMATS.values()))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    with Pipeline.load(make_bundle(tmp_path_factory.mktemp("marks") / "bundle")) as pipe:
        return pipe.generate(PICTURE, n=3, seed=7, truncation=0.5)


@pytest.fixture
def signer(tmp_path):
    pytest.importorskip("c2pa")
    from tests.runtime.marks.certificates import write_signer

    return write_signer(tmp_path)


@pytest.fixture
def claim(result):
    from icgan_runtime import sheets

    return result.claim(0, 3, sheets.layout(3))


def state(marks):
    """What is said of a file's signature."""
    return marks.signature and marks.signature["state"]


def sheet() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_a_key_says_that_it_is_generated_and_by_what(kind, claim, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    data = Mark(claim).encode(sheet(), kind)
    marks = read_marks(data)
    assert (marks.kind, marks.generated, marks.claim) == ("unsigned", True, claim)
    assert np.array_equal(images.pixels(data), images.pixels(images.encode(sheet(), kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_signed_file_is_valid_and_trusted_by_those_who_trust_its_authority(kind, claim, signer):
    key, authority = signer
    data = Mark(claim, key).encode(sheet(), kind)
    plain = images.encode(sheet(), kind)
    assert len(data) - len(plain) <= 4096
    assert np.array_equal(images.pixels(data), images.pixels(plain))
    marks = read_marks(data)
    assert (marks.kind, marks.generated, marks.claim, marks.notes) == ("signed", True, claim, ())
    assert state(marks) == "Valid"
    assert state(read_marks(data, authority)) == "Trusted"


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_makes_a_signature_invalid(kind, claim, signer):
    data = bytearray(Mark(claim, signer[0]).encode(sheet(), kind))
    place = {"PNG": data.find(b"IDAT") + 40, "JPEG": len(data) - 40, "WEBP": data.find(b"VP8L") + 40}[kind]
    data[place] ^= 1
    marks = read_marks(bytes(data))
    assert state(marks) == "Invalid"
    assert "changed after signing" in marks.notes[0]


def test_the_key_may_come_from_the_environment(claim, signer, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, str(signer[0]))
    assert read_marks(Mark(claim).encode(sheet(), "PNG")).kind == "signed"


def test_an_expired_certificate_signs_nothing(tmp_path):
    pytest.importorskip("c2pa")
    from tests.runtime.marks.certificates import write_signer

    with pytest.raises(RequestError, match="the certificate is valid from"):
        find_signer(write_signer(tmp_path, days=-1)[0])


def test_a_certificate_of_another_key_signs_nothing(tmp_path, signer):
    from tests.runtime.marks.certificates import write_signer

    (tmp_path / "other").mkdir()
    other = write_signer(tmp_path / "other")[0].read_bytes()
    mixed = tmp_path / "mixed.pem"
    mixed.touch(0o600)
    key = signer[0].read_bytes().partition(b"-----BEGIN CERT")[0]
    mixed.write_bytes(key + other[other.find(b"-----BEGIN CERT") :])
    with pytest.raises(RequestError, match="belongs to another key"):
        find_signer(mixed)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_key_that_everybody_can_read_is_refused(signer):
    signer[0].chmod(0o644)
    with pytest.raises(RequestError, match="chmod o-r"):
        find_signer(signer[0])


def test_a_missing_key_is_said_without_a_traceback(tmp_path):
    pytest.importorskip("c2pa")
    with pytest.raises(RequestError, match="cannot be read"):
        find_signer(tmp_path / "none.pem")


def test_no_error_of_a_key_shows_it(signer):
    pem = signer[0].read_bytes()
    body = pem.split(b"\n")[1].decode()
    signer[0].write_bytes(pem.replace(b"-----END PRIVATE KEY-----", b"-----END-----"))
    with pytest.raises(RequestError) as caught:
        find_signer(signer[0])
    assert body not in str(caught.value)


def test_an_embedding_is_written_only_when_it_is_asked_for(result, tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    told = {}
    for wanted in ("none", "hash", "whole"):
        (path,) = result.save(tmp_path / f"{wanted}.png", embedding=wanted)
        told[wanted] = read_marks(path.read_bytes()).claim
    assert (told["none"].embedding, told["none"].embedding_sha256) == (None, None)
    assert told["hash"].embedding is None
    assert told["hash"].embedding_sha256 == told["whole"].embedding_sha256
    assert np.array_equal(np.array(told["whole"].embedding, np.float32), result.embedding)


def test_every_file_of_a_folder_claims_its_own_sample(result, tmp_path):
    claims = [read_marks(path.read_bytes()).claim for path in result.save(tmp_path / "images")]
    assert [(claim.seed, claim.first, claim.n) for claim in claims] == [(7, 0, 1), (7, 1, 1), (7, 2, 1)]


def test_a_service_answers_the_bytes_that_would_be_saved(result, tmp_path):
    for kind, name in (("PNG", "a.png"), ("WEBP", "a.webp")):
        (path,) = result.save(tmp_path / name)
        assert result.encode(kind) == path.read_bytes()
    assert read_marks(result.encode(mark=False)).kind == "none"
    for wrong in ({"kind": "GIF"}, {"embedding": "all"}):
        with pytest.raises(RequestError, match=next(iter(wrong))):
            result.encode(**wrong)


def test_a_file_without_a_mark_says_nothing(result, tmp_path):
    (path,) = result.save(tmp_path / "x.webp", mark=False)
    marks = read_marks(path.read_bytes())
    assert (marks.kind, marks.generated, marks.claim) == ("none", False, None)


def test_a_claim_with_impossible_numbers_is_refused(claim):
    for name, value in (("seed", -1), ("n", 0), ("truncation", 2), ("version", 9), ("surprise", 1)):
        text = claim.to_text().replace('"version":1,', f'"version":1,"{name}":{value},', 1)
        if name not in ("version", "surprise"):
            before, _, after = text.partition(f'"{name}":{value},')
            start = after.find(f'"{name}":')
            after = after[:start] + after[start:].replace(after[start:].split(",")[0], f'"{name}":{value}', 1)
            text = before + after
        with pytest.raises(RequestError, match="claim"):
            read_claim(text)


def test_metadata_of_an_impossible_length_is_not_read(claim, monkeypatch):
    data = Mark(claim).encode(sheet(), "PNG")
    monkeypatch.setattr(metadata, "MAX_XMP_BYTES", 100)
    marks = read_marks(data)
    assert marks.claim is None
    assert "at most 100 are read" in marks.notes[-1]


def test_a_large_manifest_is_not_parsed(claim, signer, monkeypatch):
    from icgan_runtime.marks import signed

    data = Mark(claim, signer[0]).encode(sheet(), "PNG")
    monkeypatch.setattr(signed, "MAX_MANIFEST_BYTES", 100)
    assert "at most 100 are read" in read_marks(data).notes[0]


def test_a_damaged_manifest_is_a_note(claim, signer):
    data = Mark(claim, signer[0]).encode(sheet(), "PNG")
    place = data.find(b"caBX")
    (size,) = struct.unpack(">I", data[place - 4 : place])
    damaged = data[: place + 4] + bytes(size) + data[place + 4 + size :]
    assert "damaged" in read_marks(damaged).notes[0]
