"""An opened bundle: a folder whose files are handed out only after they match the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icgan_runtime import files
from icgan_runtime.bundle.changes import LOG_NAME
from icgan_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from icgan_runtime.bundle.signature import SIGNATURE_NAME
from icgan_runtime.errors import IntegrityError
from icgan_runtime.identity import FileEntry

# Read whole and hash in memory up to here; larger files are hashed in pieces and mapped.
MAX_READ_BYTES = 2 << 30


@dataclass(frozen=True)
class Bundle:
    """A folder with a valid manifest. The files behind it are checked when they are asked for."""

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read and validate the manifest. Raises BundleError."""
        return cls(Path(path), Manifest.read(path))

    def read(self, name: str, limit: int = MAX_READ_BYTES) -> bytes:
        """The verified bytes of a listed file of at most `limit`: what was hashed is what the caller gets."""
        path, entry = self._locate(name)
        data = files.read_bounded(path, limit, name)
        _compare(name, entry, len(data), files.sha256(data))
        return data

    def path(self, name: str) -> Path:
        """The path of a listed file whose size and hash have just been verified, to map or to hand on."""
        path, entry = self._locate(name)
        try:
            _compare(name, entry, path.stat().st_size, files.sha256_of_file(path))
        except OSError as error:
            raise IntegrityError(name, f"cannot be read ({error.strerror})") from None
        return path

    def verify_files(self) -> None:
        """Hash every listed file; IntegrityError names the first that differs."""
        for name in self.manifest.files:
            self.path(name)

    def unlisted_files(self) -> list[str]:
        """Files that lie in the folder without being in the manifest; the runtime never opens them."""
        found = {path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if not path.is_dir()}
        return sorted(found - set(self.manifest.files) - {MANIFEST_NAME, SIGNATURE_NAME, LOG_NAME})

    def _locate(self, name: str) -> tuple[Path, FileEntry]:
        entry = self.manifest.files.get(name)
        if entry is None:
            raise IntegrityError(name, "not listed in the manifest")
        path = files.locate(self.root, name)
        _compare(name, entry, path.stat().st_size, entry.sha256)
        return path, entry


def _compare(name: str, entry: FileEntry, size: int, digest: str) -> None:
    if size != entry.bytes:
        raise IntegrityError(
            name, f"has {size} bytes, the manifest says {entry.bytes}; export the bundle again"
        )
    if digest != entry.sha256:
        raise IntegrityError(
            name,
            f"SHA-256 {digest[:12]}... is not the manifest's {entry.sha256[:12]}...; export the bundle again",
        )
