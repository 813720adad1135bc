"""Where a server is and how it is reached: addresses, headers, certificates, time limits.

A gateway in front of a server may want a token (`headers`), have a certificate of a private authority (`ca`),
or want one of ours (`certificate`, `key`). User and password in an address become the header that they mean.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from icgan_runtime.errors import RequestError

SCHEMES = ("grpc", "grpcs", "http", "https")
BALANCING = ("pick_first", "round_robin")
PREPARE = ("client", "server")

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")  # RFC 9110's token
_HEADER_VALUE = re.compile(r"[ -~]*\Z")  # what both protocols take
_OWN_HEADERS = ("content-length", "transfer-encoding")  # how requests are cut out of a connection


@dataclass(frozen=True)
class Address:
    """Where and how a server is reached."""

    url: str  # as it is shown: without user and password
    protocol: str  # "grpc" or "http"
    host: str  # with port, and a path that HTTP requests begin with
    encrypted: bool
    authorization: str | None = field(default=None, repr=False)  # the header for user and password

    @classmethod
    def parse(cls, url: str) -> Address:
        """From `grpc://host:port`, `http://host:port`, or their encrypted forms. Raises RequestError."""
        try:
            parts = urlsplit(url)
            path = parts.path.strip("/") if parts.scheme.startswith("grpc") else ""  # gRPC has none
            more = path or parts.query or parts.fragment
            sound = parts.scheme in SCHEMES and parts.hostname and parts.port != 0 and not more
        except ValueError:  # half an IPv6 address, or no number from 0 to 65535 for a port
            sound = False
        if not sound:
            schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise RequestError("url", f"{_without_user(url)!r}, expected one of {schemes} and then host:port")
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
        host = parts.netloc.rpartition("@")[2] + parts.path.rstrip("/")
        return cls(
            _without_user(url), parts.scheme[:4], host, parts.scheme in ("grpcs", "https"), authorization
        )

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, which no proxy leads to."""
        name = urlsplit(f"//{self.host}").hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")


def _without_user(url: str) -> str:
    """`url` as it may be shown: what stands before an @ in its host part is a secret."""
    return re.sub(r"(?<=//)[^/@]*@", "", url)


@dataclass(frozen=True)
class ConnectionOptions:
    """How to talk to a server, and what a gateway before it wants to see. `check` it against an address."""

    timeout_s: float = 30  # of one request, with all its tries
    retries: int = 3  # while the server is unreachable or overloaded
    shared_memory: str | None = None  # "system" or "cuda": images pass through memory
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    ca: str | Path | None = None  # PEM: authorities to trust instead of the system's
    certificate: str | Path | None = None  # PEM: our own, for mutual TLS
    key: str | Path | None = None
    balancing: str = "pick_first"  # round_robin: each call to the next of the addresses that a gRPC name has
    prepare: str = "client"  # who decodes, crops and reduces picture files

    def check(self, address: Address) -> None:
        """Raise RequestError for what this address does not take, or a file that cannot be read."""
        self._check_headers(address)
        self._check_files(address)
        if self.prepare not in PREPARE:
            raise RequestError("prepare", f"{self.prepare!r}, expected one of {', '.join(PREPARE)}")
        if self.balancing not in BALANCING:
            raise RequestError("balancing", f"{self.balancing!r}, expected one of {', '.join(BALANCING)}")
        if self.balancing != "pick_first" and address.protocol != "grpc":
            raise RequestError("balancing", f"{address.url} is no gRPC address, the only kind it is for")

    def _check_headers(self, address: Address) -> None:
        for name, value in (self.headers or {}).items():
            if not _HEADER_NAME.match(name) or not isinstance(value, str) or not _HEADER_VALUE.match(value):
                raise RequestError(
                    "headers", f"{name!r}, expected a header's name and a value of one line in ASCII"
                )
            binary = address.protocol == "grpc" and name.lower().endswith("-bin")  # gRPC wants bytes there
            if name.lower() in _OWN_HEADERS or binary:
                raise RequestError("headers", f"{name!r} is not for users to set")

    def _check_files(self, address: Address) -> None:
        """Say what is wrong with a certificate here: the libraries' words for it name no file."""
        files = {"ca": self.ca, "certificate": self.certificate, "key": self.key}
        for name, path in files.items():
            if path is None:
                continue
            if not address.encrypted:
                raise RequestError(name, f"{address.url} is not encrypted: use grpcs:// or https://")
            try:
                Path(path).open("rb").close()
            except OSError as error:
                raise RequestError(name, f"{path} cannot be read ({error.strerror})") from None
        if (self.certificate is None) != (self.key is None):
            raise RequestError("certificate", "a certificate and its key go together: give both")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except ssl.SSLError:
            raise RequestError("ca", f"{self.ca} is no PEM file of certificates") from None
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password="")  # it would ask for one
        except ssl.SSLError:
            raise RequestError(
                "certificate",
                f"{self.certificate} and {self.key} are no PEM certificate and the key to it, unencrypted",
            ) from None

    def sent(self, address: Address) -> dict[str, str]:
        """The headers of every request, in lower case as gRPC wants them."""
        own = {"authorization": address.authorization} if address.authorization else {}
        return own | {name.lower(): value for name, value in (self.headers or {}).items()}


def options_from_environment() -> dict[str, Any]:
    """What the command line connects with, so that no token stands in a list of processes.

    `ICGAN_HEADERS` holds lines `Name: value`; `ICGAN_CA`, `ICGAN_CERTIFICATE` and `ICGAN_KEY` name files.
    """
    found: dict[str, Any] = {}
    for line in os.environ.get("ICGAN_HEADERS", "").splitlines():
        name, colon, value = line.partition(":")
        if not colon and line.strip():
            raise RequestError("ICGAN_HEADERS", "expected lines of the form Name: value")
        if colon:
            found.setdefault("headers", {})[name.strip()] = value.strip()
    for name in ("ca", "certificate", "key"):
        if path := os.environ.get(f"ICGAN_{name.upper()}"):
            found[name] = path
    return found
