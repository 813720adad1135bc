"""A bundle's signature, in the format of OpenSSF model signing: one file beside the manifest.

It covers every file of the folder, so that a changed, added or missing one is refused. Signed and checked
with a plain key pair on this machine; nothing is sent anywhere. The only file that imports model_signing.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from icgan_runtime import files
from icgan_runtime.bundle.manifest import Manifest
from icgan_runtime.errors import IntegrityError, MissingExtraError, RequestError

SIGNATURE_NAME = "model.sig"
MAX_SIGNATURE_BYTES = 16 << 20


def sign_bundle(bundle: Path, private_key: Path) -> Path:
    """Write the signature of a bundle with a private key (ECDSA, PEM), and return its path.

    Raises BundleError for what is no bundle, RequestError for a key that cannot be used.
    """
    Manifest.read(bundle)
    signing, _, hashing = _library()
    _check_key(private_key, secret=True)
    path = bundle / SIGNATURE_NAME
    ignored = _all_but(path, hashing)
    with _key_errors(private_key):
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    with tempfile.TemporaryDirectory() as scratch:  # within the bundle it would be signed itself
        written = Path(scratch) / SIGNATURE_NAME
        config.set_hashing_config(ignored).sign(bundle.absolute(), written)
        files.write_whole(path, written.read_bytes(), "bundle")
    return path


def check_signature(bundle: Path, public_key: Path) -> None:
    """Raise IntegrityError unless the bundle carries a signature of this key over exactly its files.

    Raises RequestError for a key that cannot be used.
    """
    _, verifying, hashing = _library()
    _check_key(public_key, secret=False)
    path = bundle / SIGNATURE_NAME
    if not path.is_file():
        raise IntegrityError(SIGNATURE_NAME, f"{bundle} is not signed: icgan-export sign {bundle} --key KEY")
    if path.stat().st_size > MAX_SIGNATURE_BYTES:
        raise IntegrityError(SIGNATURE_NAME, f"larger than {MAX_SIGNATURE_BYTES} bytes")
    with _key_errors(public_key):
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    ignored = _all_but(path, hashing)  # not guessed from the signature, which may name more to leave out
    try:
        config.set_hashing_config(ignored).verify(bundle.absolute(), path)
    except Exception as error:  # of every layer, without a common base
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise IntegrityError(SIGNATURE_NAME, f"does not fit {bundle} and {public_key} ({reason})") from None


def _all_but(path: Path, hashing: Any) -> Any:
    """To hash every file of the folder but this.

    Here and where the folder is named the names are absolute: relative ones are not brought together.
    """
    return hashing.Config().set_ignored_paths(paths=[path.absolute()], ignore_git_paths=False)


def _check_key(path: Path, secret: bool) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise RequestError("key", f"{path} cannot be read ({error.strerror})") from None
    if secret and os.name == "posix" and mode & stat.S_IROTH:
        raise RequestError("key", f"{path} can be read by every user of this machine: chmod o-r {path}")


@contextmanager
def _key_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what cryptography says of a file that is no such key
        raise RequestError(
            "key", f"{path} is not a key of an elliptic curve in PEM ({type(error).__name__})"
        ) from None


def _library() -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError:
        raise MissingExtraError("model-signing", "sign") from None
    return signing, verifying, hashing
