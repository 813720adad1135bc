"""The command `icgan`, of a file for each of its commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from icgan_runtime import __version__
from icgan_runtime.cli import (
    bank,
    bank_changes,
    bench,
    detect,
    embed,
    generate,
    index,
    info,
    ledger,
    prove,
    registry,
    search,
    serve,
    signer,
    steer,
    synthesize,
    tune,
)
from icgan_runtime.console import Parser, tell
from icgan_runtime.errors import REFUSED_BY_THE_MACHINE, IcganError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. A user's mistake is one line on stderr and status 1; a bug keeps its traceback."""
    options = parse(arguments)
    try:
        status: int = options.run(options)
        return status
    except IcganError as error:
        tell(f"icgan: {error}")
        return 1
    except OSError as error:
        if error.errno not in REFUSED_BY_THE_MACHINE:
            raise
        tell(f"icgan: {error}: mend that and run the same command again")
        return 1
    except KeyboardInterrupt:
        tell("icgan: interrupted")
        return 130


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command, its pictures before, between or after them.

    argparse fills PICTURE from the words before the first option and does not know what the others are.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["bank"] and words[1:2] and words[1] in bank_changes.ACTIONS:
        words[:2] = [f"bank {words[1]}"]  # a command of two words; `icgan bank BUNDLE` is one of its own
    parser = build_parser()
    options, others = parser.parse_known_args(words)
    if "pictures" in options and not any(word.startswith("-") for word in others):
        options.pictures += others
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    return options


def build_parser() -> argparse.ArgumentParser:
    """The command line; `options.run(options)` runs the chosen command."""
    parser = Parser(
        prog="icgan",
        description="example: icgan generate bundles/demo photo.jpg -n 8 --seed 0 --out grid.png\n\n"
        "Instance-conditioned image generation from an exported bundle, without torch.",
    )
    parser.add_argument(
        "--version", action="version", version=f"icgan {__version__}", help="print the version and exit"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (
        generate,
        steer,
        synthesize,
        embed,
        search,
        bank,
        bank_changes,
        index,
        serve,
        signer,
        tune,
        info,
        prove,
        detect,
        ledger,
        registry,
        bench,
    ):
        command.add_parser(commands)
    return parser
