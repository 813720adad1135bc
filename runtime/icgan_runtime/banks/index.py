"""A bundle's bank given an index that is stored, so that a large bank is ready at once (bundle/cells.py)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from icgan_runtime.bundle import cells, manifest
from icgan_runtime.bundle.bank import FOLDER, Bank
from icgan_runtime.bundle.cells import AboutCells
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import MissingExtraError

NAMES = tuple(f"{FOLDER}/{file}" for file in (*cells.FILES, cells.ABOUT_NAME))


def write_index(path: Path) -> AboutCells:
    """Index the bank of the bundle at `path` and list the index in its manifest.

    An index that is replaced leaves the manifest before its files change, so that a bundle whose indexing was
    killed is one without an index. Raises BundleError, MissingExtraError without faiss, and RequestError for
    a bank that it does not suit.
    """
    try:
        from icgan_runtime.search.faiss import build_cells
    except ImportError:
        raise MissingExtraError("faiss", "faiss") from None
    bundle = Bundle.open(path)
    book = bundle.manifest
    bank = dataclasses.replace(Bank.of_bundle(bundle), cells=None)
    built = build_cells(bank, book.files[f"{FOLDER}/embeddings.npy"].sha256)
    others = {name: entry for name, entry in book.files.items() if name not in NAMES}
    if others != book.files:
        dataclasses.replace(book, files=others).write(path)
    built.write(path / FOLDER)
    listed = {**others, **{name: manifest.describe_file(path / name) for name in NAMES}}
    dataclasses.replace(book, files=dict(sorted(listed.items()))).write(path)
    return built.about
