"""How a served bank follows what is added and removed: a file beside its copy says where to look."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from icgan_runtime.bundle.living import pending
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import RepositoryError
from icgan_runtime.server.options import BUNDLE, RepositoryOptions

CHANGES_NAME = "changes.json"


def changes_file(bundle: Bundle, options: RepositoryOptions) -> dict[str, bytes]:
    """The file that tells the stage where the changes of the bundle's bank are kept; none to follow none."""
    if not _followed(options):
        return {}
    where = str(bundle.root.resolve()) if options.changes == BUNDLE else options.changes
    return {CHANGES_NAME: json.dumps({"changes": where}).encode()}


def changes_of(folder: str | Path) -> str | None:
    """What such a file in the folder of a stage says; None where there is none."""
    try:
        text = Path(folder, CHANGES_NAME).read_text("utf-8")
    except FileNotFoundError:
        return None
    return str(json.loads(text)["changes"])


def refuse_changes(bundle: Bundle, options: RepositoryOptions, say: Callable[[str], None]) -> None:
    """Raise RepositoryError where changes of the bank would be left out."""
    if _followed(options):
        return
    if options.changes:
        say("the bank's changes are not followed: --search graph holds the instances in a graph")
    if count := pending(bundle):
        raise RepositoryError(
            f"{bundle.root} has {count} changes of its bank that would be left out: icgan bank compact "
            f"{bundle.root}, or follow them (--changes {BUNDLE}, and another --search than graph)"
        )


def _followed(options: RepositoryOptions) -> bool:
    return bool(options.changes) and options.search != "graph"
