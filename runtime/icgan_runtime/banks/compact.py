"""A bank's changes written into the bank itself: what was removed is on the disk no longer, the log is short.

The new bundle is written beside the old one while others read and change that. At the end, in one moment, it
takes the old one's place, with a log of what came meanwhile. Killed at any time there is the old bundle or
the new one; what a kill leaves beside it the next compaction removes.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from icgan_runtime import files
from icgan_runtime.banks.index import write_index
from icgan_runtime.banks.write import write_with_bank
from icgan_runtime.bundle.bank import FOLDER, Bank, base_of, label_names
from icgan_runtime.bundle.change_log import ChangeLog, FileLog, sync_folder, write_log
from icgan_runtime.bundle.changes import LOG_NAME, Base
from icgan_runtime.bundle.living import PickedNames, open_living
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.signature import SIGNATURE_NAME
from icgan_runtime.console import tell
from icgan_runtime.errors import MissingExtraError, RequestError


def compact(path: Path, where: str = "", keep: bool = False) -> Base | None:
    """Write the changes of a bundle's bank into it; where its bank stands now, None if nothing had changed.

    `where` the changes are kept (bundle/logs.py). With `keep` a database keeps them, for servers that hold an
    older bank; without, it forgets all that the bundle's bank holds. Raises BundleError, RequestError.
    """
    with _alone(path):
        new = path.with_name(f".{path.name}.compacting")
        _remove(new)  # what a kill left
        bundle = Bundle.open(path)
        living, log = open_living(bundle, where)
        base, signed = None, (path / SIGNATURE_NAME).exists()
        if living.bank() is not living.base:
            lineage = base_of(bundle, living.base).lineage
            base = Base(lineage, living.state.number, living.state.digest, living.next_id)
            try:
                _write(bundle, living.bank(), base, new)
                _take_place(new, path, log, base)
            finally:
                _remove(new)
            if signed:
                tell(f"{path} was signed and is another bundle now: sign it again")
        if not keep:
            log.forget(living.state)
        log.close()
        return base


def _take_place(new: Path, path: Path, log: ChangeLog, base: Base) -> None:
    """Let the bundle in `new`, whose bank is at `base`, be the one at `path`, with what came since."""
    with log.locked() if isinstance(log, FileLog) else nullcontext():
        if isinstance(log, FileLog):
            write_log(new / LOG_NAME, base, [record.changes for record in log.read(base.state)])
        _sync(new)
        files.take_place(new, path)
        sync_folder(path.parent)


def _write(bundle: Bundle, bank: Bank, base: Base, folder: Path) -> None:
    """The bundle with this state of its bank."""
    names = bank.names.whole() if isinstance(bank.names, PickedNames) else bank.names
    (folder / FOLDER).mkdir(parents=True)
    dataclasses.replace(bank, names=names, checked=True).write(folder / FOLDER)
    stored = Bank.read(folder / FOLDER)  # from its files, so that a large one is not held in memory
    indexed = any(name.startswith(f"{FOLDER}/index") for name in bundle.manifest.files)
    neighbours = bundle.manifest.bank.neighbours
    write_with_bank(bundle, stored, label_names(bundle.manifest), neighbours, folder, base)
    if indexed:
        try:
            write_index(folder)
        except (MissingExtraError, RequestError) as error:
            tell(f"the bank has no stored index any more ({error}): icgan index {bundle.root}")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """The only compaction of a bundle."""
    import fcntl

    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise RequestError("bundle", f"{path} cannot be opened ({error.strerror})") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                yield
                return
        finally:
            os.close(descriptor)


def _sync(folder: Path) -> None:
    """Put a folder with all that is in it on the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            with open(Path(root, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
        sync_folder(folder.parent)
