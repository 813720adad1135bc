"""What commands that write generated images ask of their marks of origin, and say of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_runtime.cli import shared
from icgan_runtime.marks.claim import EMBEDDING
from icgan_runtime.marks.mark import find_signer

MARKS = {
    "signed": "marked as generated and signed",
    "unsigned": "marked as generated, unsigned",
    "none": "not marked as generated",
}


def add_marks(command: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Options of what the files say; the group is for others to join."""
    group = command.add_argument_group("marks of origin (docs/origin.md)")
    group.add_argument(
        "--sign-key",
        type=Path,
        metavar="FILE",
        help="PEM file with a private key and its certificates: the sheet carries a signed C2PA manifest "
        "(default: that of ICGAN_SIGN_KEY; without one, unsigned metadata)",
    )
    group.add_argument(
        "--no-mark",
        action="store_true",
        help="write a file that does not say it is generated; in the EU its provider may owe a mark",
    )
    group.add_argument(
        "--embedding",
        choices=EMBEDDING,
        default="none",
        help="what the mark says of the picture that was followed; its whole embedding can reveal it, and "
        "needs no --picture to prove (default: %(default)s)",
    )
    return group


def kind_of(options: argparse.Namespace) -> str:
    """Of the files to come: "signed", "unsigned" or "none". RequestError for a key that cannot sign."""
    if options.no_mark:
        return "none"
    return "unsigned" if find_signer(options.sign_key) is None else "signed"


def say_written(options: argparse.Namespace, out: Path, kind: str, files: int | None = None) -> None:
    """A line for people; `files`: how many, where they went into a folder."""
    how_many = "" if files is None else f": {files} file{'s' if files > 1 else ''}"
    shared.say_text(options, f"wrote {out}{how_many}, {MARKS[kind]}")
