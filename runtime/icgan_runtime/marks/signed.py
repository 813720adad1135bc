"""Signed metadata: a C2PA manifest inside the picture file. The only file that imports c2pa.

The manifest says that a trained algorithm created the picture and carries the claim; a certificate signs both
and a hash of the file, so that a changed byte shows. It proves who signed, not that the claim is true
(prove.py does), and whoever wants to can cut it out of the file.
"""

from __future__ import annotations

import datetime
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from icgan_runtime import __version__
from icgan_runtime.errors import RequestError
from icgan_runtime.marks.claim import Claim, read_claim
from icgan_runtime.marks.keys import read_key_file
from icgan_runtime.marks.metadata import (
    TRAINED_ALGORITHMIC_MEDIA,
    jpeg_segments,
    png_chunks,
    riff_chunks,
)

LABEL = "icgan.origin"
MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
MAX_MANIFEST_BYTES = 4 << 20  # with the thumbnails that other programs add
_PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
# Nothing is fetched from anywhere, nothing is drawn small, and what was signed is not read back at once.
_SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
}


@dataclass(frozen=True)
class Signed:
    """A manifest as it was found: `state` is Trusted, Valid or Invalid."""

    state: str
    signer: str
    problems: tuple[str, ...]  # codes of the C2PA specification
    claim: Claim | None
    created_by_algorithm: bool


class Signer:
    """Signs picture files with a private key and its certificates."""

    def __init__(self, pem: bytes, field: str = "sign_key") -> None:
        """`pem`: a private key, its certificate, and those it hangs from, one after the other.

        Raises RequestError for a missing part, a key of a kind that C2PA has no name for, a certificate of
        another key, and one that has expired.
        """
        private, certificates = _PRIVATE.findall(pem), _CERTIFICATE.findall(pem)
        if len(private) != 1 or not certificates:
            raise RequestError(
                field,
                f"{len(private)} private keys and {len(certificates)} certificates, expected one key and its "
                "chain of certificates in one PEM file",
            )
        try:
            key = load_pem_private_key(private[0], None)
            leaf = x509.load_pem_x509_certificate(certificates[0])
        except (ValueError, TypeError):
            raise RequestError(field, "the key or its certificate cannot be read; is it encrypted?") from None
        if key.public_key() != leaf.public_key():
            raise RequestError(field, "the first certificate belongs to another key")
        end, start = leaf.not_valid_after_utc, leaf.not_valid_before_utc
        now = datetime.datetime.now(datetime.UTC)
        if not start <= now <= end:
            raise RequestError(
                field, f"the certificate is valid from {start:%Y-%m-%d} to {end:%Y-%m-%d} only"
            )
        info = c2pa.C2paSignerInfo(_algorithm(key, field), b"\n".join(certificates), private[0], None)
        try:
            self._signer = c2pa.Signer.from_info(info)
            self._context = c2pa.Context(c2pa.Settings.from_dict(_SETTINGS))
        except c2pa.C2paError as error:
            raise RequestError(field, f"cannot sign ({_reason(error)})") from None
        self._field = field

    @classmethod
    def read(cls, path: str | Path, field: str = "sign_key") -> Signer:
        """A signer from a PEM file that not everybody may read."""
        return cls(read_key_file(field, path), field)

    def sign(self, data: bytes, kind: str, claim: Claim | None) -> bytes:
        """The file with a manifest in it; its pixels are the same to the last bit."""
        assertions: list[dict[str, Any]] = [
            {
                "label": "c2pa.actions",
                "data": {
                    "actions": [{"action": "c2pa.created", "digitalSourceType": TRAINED_ALGORITHMIC_MEDIA}]
                },
            }
        ]
        if claim is not None:
            assertions.append({"label": LABEL, "data": {"claim": claim.to_text()}})
        manifest = {
            "claim_generator_info": [{"name": "icgan", "version": __version__}],
            "format": MIME[kind],
            "assertions": assertions,
        }
        written = io.BytesIO()
        try:
            builder = c2pa.Builder(json.dumps(manifest), self._context)
            builder.sign(self._signer, MIME[kind], io.BytesIO(data), written)
        except c2pa.C2paError as error:
            raise RequestError(self._field, f"cannot sign ({_reason(error)})") from None
        return written.getvalue()


def read_signed(data: bytes, trusted: bytes | None = None) -> Signed | None:
    """The manifest of a picture file, or None. Raises RequestError for one that is too large or damaged.

    `trusted`: PEM certificates of authorities; a sound manifest is Trusted if its signer's hangs from one of
    them, otherwise Valid.
    """
    size, kind = manifest_size(data)
    if size == 0:
        return None
    if size > MAX_MANIFEST_BYTES:
        raise RequestError("manifest", f"{size} bytes, at most {MAX_MANIFEST_BYTES} are read")
    settings = dict(_SETTINGS)
    if trusted is not None:
        settings["trust"] = {"trust_anchors": trusted.decode("ascii", "replace")}
    try:
        with c2pa.Context(c2pa.Settings.from_dict(settings)) as context:
            reader = c2pa.Reader(MIME[kind], io.BytesIO(data), context=context)
            report = json.loads(reader.json())
    except (c2pa.C2paError, ValueError) as error:
        raise RequestError("manifest", f"damaged ({_reason(error)})") from None
    return _signed(report)


def manifest_size(data: bytes) -> tuple[int, str]:
    """Bytes of the C2PA manifests in a file, found without parsing them, and the file's format."""
    if data.startswith(b"\x89PNG"):
        return sum(len(body) for name, body in png_chunks(data) if name == b"caBX"), "PNG"
    if data.startswith(b"\xff\xd8"):
        boxes = (body for mark, body in jpeg_segments(data) if mark == 0xEB and body.startswith(b"JP"))
        return sum(map(len, boxes)), "JPEG"
    if data.startswith(b"RIFF"):
        return sum(len(body) for name, body in riff_chunks(data) if name == b"C2PA"), "WEBP"
    return 0, ""


def _signed(report: dict[str, Any]) -> Signed:
    state = str(report.get("validation_state", "Invalid"))
    manifest = report.get("manifests", {}).get(report.get("active_manifest"), {})
    issuer = manifest.get("signature_info", {})
    claim, created = None, False
    for assertion in manifest.get("assertions", []):
        content = assertion.get("data")
        if assertion.get("label") == LABEL and isinstance(content, dict):
            claim = read_claim(str(content.get("claim")))
        if str(assertion.get("label")).startswith("c2pa.actions"):
            created |= TRAINED_ALGORITHMIC_MEDIA in json.dumps(content)
    problems = tuple(str(item.get("code")) for item in report.get("validation_status", []))
    signer = " ".join(str(issuer.get(name, "")) for name in ("issuer", "common_name")).strip()
    return Signed(state, signer or "unknown", problems, claim, created)


def _algorithm(key: object, field: str) -> Any:
    names = {256: c2pa.C2paSigningAlg.ES256, 384: c2pa.C2paSigningAlg.ES384, 521: c2pa.C2paSigningAlg.ES512}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size in names:
        return names[key.curve.key_size]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return c2pa.C2paSigningAlg.ED25519
    if isinstance(key, rsa.RSAPrivateKey):
        return c2pa.C2paSigningAlg.PS256
    raise RequestError(field, "a key of a kind that C2PA does not know: use ECDSA (P-256), Ed25519 or RSA")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
