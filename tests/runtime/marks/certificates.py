"""Keys and certificates for tests: an authority, and a signer that hangs from it."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.now(datetime.UTC)


def name(text: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, text),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
        ]
    )


def certificate(subject, issuer, public, private, authority, until):
    uses = {
        "digital_signature": not authority,
        "key_cert_sign": authority,
        "crl_sign": authority,
        **dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        ),
    }
    built = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=10))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(authority, None), True)
        .add_extension(x509.KeyUsage(**uses), True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
    )
    if not authority:
        built = built.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return built.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write_signer(folder: Path, days: int = 100) -> tuple[Path, bytes]:
    """A PEM file to sign with, whose certificate ends in `days`, and the authority's certificate."""
    root, leaf = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    far = NOW + datetime.timedelta(days=1000)
    authority = certificate("authority", "authority", root.public_key(), root, True, far)
    until = NOW + datetime.timedelta(days=days)
    signer = certificate("signer", "authority", leaf.public_key(), root, False, until)
    key = leaf.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "signer.pem"
    path.touch(0o600)
    path.write_bytes(key + signer + authority)
    return path, authority
