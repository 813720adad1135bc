"""A bundle in an OCI registry, beside the images that serve it; the only file that imports oras.

Every file of the bundle is one blob, so that a bundle of another bank shares its graphs with the one before.
The manifest holds nothing but their names, sizes and hashes: the same bundle has the same digest in every
registry. Whatever comes back is compared with the digest that was asked for and with the bundle's own hashes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from icgan_runtime import files
from icgan_runtime.bundle.living import pending
from icgan_runtime.bundle.manifest import MANIFEST_NAME
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.signature import MAX_SIGNATURE_BYTES, SIGNATURE_NAME
from icgan_runtime.errors import (
    IntegrityError,
    MissingExtraError,
    RequestError,
    ServiceError,
    UnavailableError,
)

BUNDLE_TYPE = "application/vnd.icgan.bundle.v1"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
FILE_TYPE = "application/octet-stream"
TITLE = "org.opencontainers.image.title"  # of a blob: its name in the bundle
MAX_MANIFEST_BYTES = 4 << 20  # what registries take
LOCAL = ("localhost", "127.0.0.1", "[::1]")  # asked without TLS

Say = Callable[[str], None]


class Blob(NamedTuple):
    """A file in the registry."""

    digest: str  # "sha256:..."
    size: int


def push(path: Path, reference: str, say: Say = print) -> str:
    """Put a bundle into a registry as `reference`, and return the reference that is pinned to its content.

    Every file is verified first. Credentials are those of `docker login`. Raises BundleError, RequestError
    for a reference that is none, ServiceError where the registry refuses.
    """
    bundle = Bundle.open(path)
    bundle.verify_files()
    if count := pending(bundle):
        raise RequestError(
            "bundle", f"{path} has {count} changes of its bank: icgan bank compact {path} first"
        )
    names = [MANIFEST_NAME, *sorted(bundle.manifest.files)]
    names += [SIGNATURE_NAME] if (path / SIGNATURE_NAME).is_file() else []
    found = {name: _blob(path / name) for name in names}
    place = _Place(reference)
    if place.pinned:
        raise RequestError("reference", f"{reference} is pinned to content: name a tag to push to")
    for name, blob in found.items():
        say(f"{name}: {blob.size} bytes")
        place.send(path / name, blob)
    config = found[MANIFEST_NAME]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": BUNDLE_TYPE,
        "config": {"mediaType": f"{BUNDLE_TYPE}+json", "digest": config.digest, "size": config.size},
        "layers": [
            {
                "mediaType": FILE_TYPE,
                "digest": blob.digest,
                "size": blob.size,
                "annotations": {TITLE: name},
            }
            for name, blob in found.items()
        ],
    }
    return place.write_manifest(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())


def pull(reference: str, out: Path, say: Say = print) -> str:
    """Fetch the bundle that `reference` names into the new folder `out`; returns the pinned reference.

    Nothing is left behind unless every file came as its digest says. Raises RequestError, ServiceError, and
    IntegrityError for content that is not what was asked for or no bundle.
    """
    place = _Place(reference)
    pinned, manifest = place.read_manifest()
    blobs = _blobs(reference, manifest)
    with files.atomic_directory(out) as folder:
        place.fetch(blobs[MANIFEST_NAME], folder / MANIFEST_NAME)
        bundle = Bundle.open(folder)  # which says what else belongs to it, under names that stay inside
        wanted = {
            name: Blob(f"sha256:{entry.sha256}", entry.bytes) for name, entry in bundle.manifest.files.items()
        }
        if signature := blobs.get(SIGNATURE_NAME):
            if signature.size > MAX_SIGNATURE_BYTES:
                raise IntegrityError(SIGNATURE_NAME, f"larger than {MAX_SIGNATURE_BYTES} bytes")
            wanted[SIGNATURE_NAME] = signature
        for name, blob in wanted.items():
            if blobs.get(name) != blob:
                raise IntegrityError(name, f"is not in {pinned} as the bundle's manifest says")
            say(f"{name}: {blob.size} bytes")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            place.fetch(blob, folder / name)
    return pinned


class _Place:
    """One repository of a registry, at one reference."""

    def __init__(self, reference: str) -> None:
        try:
            import oras.container
            import oras.provider
        except ImportError:
            raise MissingExtraError("oras", "oci") from None
        host = reference.partition("/")[0]
        if "/" not in reference or not ("." in host or ":" in host or host == "localhost"):
            raise RequestError(
                "reference", f"{reference!r}, expected one like registry.example/bundles/demo:1"
            )
        try:
            self._container = oras.container.Container(reference)
        except ValueError:
            raise RequestError(
                "reference", f"{reference!r}, expected one like registry.example/bundles/demo:1"
            ) from None
        plain = host.rpartition(":")[0] in LOCAL or host in LOCAL
        self._registry = oras.provider.Registry(insecure=plain)
        # without its five tries, which keep a registry that is not there a secret for two minutes
        once = oras.provider.Registry.do_request.__wrapped__
        self._registry.do_request = partial(once, self._registry)
        self._registry.auth.load_configs(self._container)
        self._address = f"{'http' if plain else 'https'}://{self._container.manifest_url()}"
        self._name = f"{self._container.registry}/{self._container.api_prefix}"
        self.pinned: str | None = self._container.digest

    def send(self, path: Path, blob: Blob) -> None:
        layer = {"mediaType": FILE_TYPE, "digest": blob.digest, "size": blob.size}
        with self._errors():
            answer = self._registry.upload_blob(str(path), self._container, layer)
        self._check(answer, (200, 201, 202))

    def write_manifest(self, manifest: bytes) -> str:
        with self._errors():
            answer = self._registry.do_request(
                self._address, "PUT", data=manifest, headers={"Content-Type": MANIFEST_TYPE}
            )
        self._check(answer, (200, 201))
        return f"{self._name}@sha256:{files.sha256(manifest)}"

    def read_manifest(self) -> tuple[str, Mapping[str, Any]]:
        """The pinned reference, and what it holds."""
        with self._errors():
            answer = self._registry.do_request(
                self._address, "GET", headers={"Accept": MANIFEST_TYPE}, stream=True
            )
        self._check(answer, (200,))
        with self._errors():
            data = b"".join(_bounded(answer, MAX_MANIFEST_BYTES, self._name))
        digest = f"sha256:{files.sha256(data)}"
        if self.pinned not in (None, digest):
            raise IntegrityError(self._name, f"{digest} came, {self.pinned} was asked for")
        try:
            manifest = json.loads(data)
        except ValueError:
            raise IntegrityError(self._name, "its manifest is no JSON") from None
        return f"{self._name}@{digest}", manifest if isinstance(manifest, dict) else {}

    def fetch(self, blob: Blob, path: Path) -> None:
        """Write a blob whose bytes are those of its digest."""
        with self._errors():
            answer = self._registry.get_blob(self._container, blob.digest, stream=True)
        self._check(answer, (200,))
        with self._errors(), path.open("wb") as file:
            for piece in _bounded(answer, blob.size, path.name):
                file.write(piece)
        if _blob(path) != blob:
            raise IntegrityError(path.name, f"not what {blob.digest} stands for")

    def _check(self, answer: Any, good: tuple[int, ...]) -> None:
        if answer.status_code in good:
            return
        hint = {401: ": docker login", 403: ": docker login", 404: ": there is none"}
        raise ServiceError(f"{self._name}: {answer.status_code}{hint.get(answer.status_code, '')}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the libraries raise, as one line."""
        import oras.auth
        import requests

        try:
            yield
        except requests.RequestException as error:
            raise UnavailableError(f"{self._name}: {type(error).__name__}, is the registry there?") from None
        except (ValueError, oras.auth.AuthenticationException):  # no credentials that the registry takes
            raise ServiceError(f"{self._name}: docker login {self._container.registry}") from None


def _bounded(answer: Any, limit: int, name: str) -> Iterator[bytes]:
    """The body in pieces. Raises IntegrityError for one of more than `limit` bytes."""
    length = 0
    for piece in answer.iter_content(files.PIECE):
        length += len(piece)
        if length > limit:
            raise IntegrityError(name, f"more than {limit} bytes came")
        yield piece


def _blob(path: Path) -> Blob:
    return Blob(f"sha256:{files.sha256_of_file(path)}", path.stat().st_size)


def _blobs(reference: str, manifest: Mapping[str, Any]) -> dict[str, Blob]:
    """The files that a manifest lists. Raises IntegrityError where it is not that of a bundle."""
    try:
        if manifest["config"]["mediaType"] != f"{BUNDLE_TYPE}+json":
            raise KeyError
        found = {
            str(layer["annotations"][TITLE]): Blob(str(layer["digest"]), int(layer["size"]))
            for layer in manifest["layers"]
        }
        if MANIFEST_NAME not in found:
            raise KeyError
    except (KeyError, TypeError, ValueError):
        raise IntegrityError(reference, "holds no bundle that icgan push put there") from None
    return found
