"""Whose the weights and the pictures are, as far as it is written somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icgan_runtime.bundle.manifest import Licence
from icgan_training.data.sources import SourceNote

UNSTATED = "LicenseRef-unstated"
LONGEST = 200  # letters of a licence's first line


def licence_of_weights(config: dict[str, Any]) -> Licence:
    """What a run's `config.json` says: `"licence": "MIT"`, or `{"weights": "MIT", "notice": "..."}`."""
    licence = config.get("licence", {})
    if isinstance(licence, str):
        licence = {"weights": licence}
    return Licence(licence.get("weights", UNSTATED), licence.get("notice", ""))


def licence_of_pictures(note: SourceNote, path: Path) -> str:
    """What is noted, or the first line of the licence file in the folder or beside it, in printable text."""
    names = ("LICENSE", "LICENCE", "LICENSE.txt", "LICENSE.md")
    files = [place / name for name in names for place in (path, path.parent)]
    texts = [] if note.licence == SourceNote.licence else [note.licence]
    texts += [file.read_text("utf-8-sig", errors="replace") for file in files if file.is_file()]
    for line in (line for text in texts for line in text.splitlines()):
        words = "".join(c if c.isprintable() else " " for c in line).split()
        if words:
            return " ".join(words)[:LONGEST]
    return UNSTATED
