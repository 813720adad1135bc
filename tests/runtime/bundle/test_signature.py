import os
from pathlib import Path

import pytest

pytest.importorskip("model_signing")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
from cryptography.hazmat.primitives.serialization import (  # noqa: E402
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from icgan_export.cli import main as export  # noqa: E402
from icgan_runtime.bundle.opened import Bundle  # noqa: E402
from icgan_runtime.bundle.signature import SIGNATURE_NAME, check_signature, sign_bundle  # noqa: E402
from icgan_runtime.cli import main  # noqa: E402
from icgan_runtime.errors import IntegrityError, RequestError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def write_keys(folder):
    """Paths of a private and its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / "private.pem", folder / "public.pem"
    private.touch(0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path)


@pytest.fixture
def signed(tiny_bundle, copy_bundle, keys):
    bundle = copy_bundle(tiny_bundle)
    assert export(["sign", str(bundle), "--key", str(keys[0])]) == 0
    return bundle


def test_a_signed_bundle_is_accepted_and_lists_no_stranger(signed, keys):
    check_signature(signed, keys[1])
    assert Bundle.open(signed).unlisted_files() == []


def test_signing_again_is_accepted_too(signed, keys):
    sign_bundle(signed, keys[0])
    check_signature(signed, keys[1])


def test_a_bundle_may_be_named_from_where_one_stands(signed, keys, monkeypatch, capsys):
    monkeypatch.chdir(signed.parent)
    for name in (signed.name, f"{signed.name}/", f"./{signed.name}"):
        assert export(["sign", name, "--key", str(keys[0])]) == 0
        check_signature(Path(name), keys[1])
    assert f"wrote {signed.name}/{SIGNATURE_NAME}" in capsys.readouterr().out
    (signed / "stranger").write_bytes(b"")
    with pytest.raises(IntegrityError, match="stranger"):
        check_signature(Path(signed.name), keys[1])


@pytest.mark.parametrize("change", ["changed", "added", "missing"])
def test_a_bundle_that_differs_is_refused(signed, keys, change):
    graph = signed / "generator.onnx"
    if change == "changed":
        graph.write_bytes(graph.read_bytes() + b"\0")
    elif change == "added":
        (signed / "extra.txt").write_text("hello")
    else:
        graph.unlink()
    with pytest.raises(IntegrityError, match="does not fit"):
        check_signature(signed, keys[1])


def test_another_key_is_refused(signed, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(IntegrityError, match="does not fit"):
        check_signature(signed, write_keys(tmp_path / "other")[1])


def test_a_damaged_signature_is_refused(signed, keys):
    path = signed / SIGNATURE_NAME
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(IntegrityError, match="does not fit"):
        check_signature(signed, keys[1])


def test_serve_and_verify_refuse_what_is_not_signed(tiny_bundle, keys, capsys):
    assert main(["serve", str(tiny_bundle), "--require-signature", str(keys[1])]) == 1
    assert "is not signed: icgan-export sign" in capsys.readouterr().err
    assert export(["verify", str(tiny_bundle), "--key", str(keys[1])]) == 1
    assert "is not signed" in capsys.readouterr().err


def test_a_file_that_is_no_key_is_named(tiny_bundle, copy_bundle, tmp_path):
    wrong = tmp_path / "wrong.pem"
    wrong.touch(0o600)
    wrong.write_text("no key")
    bundle = copy_bundle(tiny_bundle)
    with pytest.raises(RequestError, match=r"wrong\.pem is not a key"):
        sign_bundle(bundle, wrong)
    assert not (bundle / SIGNATURE_NAME).exists()


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_private_key_that_everybody_can_read_is_refused(tiny_bundle, copy_bundle, keys):
    keys[0].chmod(0o644)
    with pytest.raises(RequestError, match="chmod o-r"):
        sign_bundle(copy_bundle(tiny_bundle), keys[0])
