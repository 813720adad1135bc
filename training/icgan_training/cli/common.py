"""What the commands share: how one is added, and the values of options. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from icgan_runtime.console import Parser

Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"
Command = Callable[[argparse.Namespace], None]


def add_command(commands: Subparsers, name: str, run: Command, example: str, summary: str) -> Parser:
    """A subcommand whose help opens with a runnable example."""
    parser = commands.add_parser(
        name, help=summary.partition("\n")[0], description=f"example: {example}\n\n{summary}"
    )
    parser.set_defaults(run=run)
    return parser


def count(text: str) -> int:
    """A number of pictures such as 400000, 400k or 2.5M."""
    factor = {"k": 1_000, "M": 1_000_000}.get(text[-1:], 1)
    try:
        number = round(float(text if factor == 1 else text[:-1]) * factor)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number as 400000, 400k or 2.5M") from None
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def location(text: str) -> Path | str:
    """A path, or the URL of a folder in an object storage."""
    return text if "://" in text else Path(text)


def truncation(text: str) -> float | None:
    """A bound of the noise, or none."""
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number in (0, 1] nor none") from None
