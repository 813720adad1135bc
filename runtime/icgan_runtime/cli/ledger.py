"""icgan ledger."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from icgan_runtime.cli import shared
from icgan_runtime.console import Parser
from icgan_runtime.origin.ledger import verify


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(commands, "ledger", run, "icgan ledger generated.jsonl")
    command.add_argument("file", type=Path, metavar="FILE", help="what icgan generate --ledger wrote")


def run(options: argparse.Namespace) -> int:
    """Whether a log of what was generated is whole: no line changed, removed or put in."""
    report = verify(options.file)
    if report.broken is not None:
        shared.say_text(options, f"BROKEN at line {report.broken}: {report.problem}")
    else:
        shared.say_text(options, f"whole: {report.lines} lines, the last has the hash {report.last}")
    if report.torn:
        shared.say_text(options, "  a line after it was cut short, as a kill does; the next one replaces it")
    shared.say_json(options, {"whole": report.broken is None, **asdict(report)})
    return 0 if report.broken is None else 1
