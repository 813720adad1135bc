"""`icgan-train neighbours`: a sheet of neighbourhoods, to look at before training on them."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_runtime.console import say
from icgan_training.cli.common import Subparsers, add_command
from icgan_training.errors import DataError


def add_parser(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "neighbours",
        run,
        "icgan-train neighbours data/mine --out neighbours.png",
        "Draw pictures of a prepared data set with their neighbours, and say what may spoil a training.\n"
        "A model learns to draw what stands on the right of a row when it is shown what stands on the left.",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder that icgan-train prepare wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="sheet to write, a .png")
    parser.add_argument(
        "--rows", type=int, default=12, metavar="N", help="pictures, evenly spread (default: %(default)s)"
    )
    parser.add_argument(
        "-k",
        type=int,
        default=8,
        help="neighbours of each, the last always among them (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    for name, value in (("--rows", args.rows), ("-k", args.k)):
        if value < 1:
            raise DataError(f"{name} is {value}, it must be at least 1")
    if args.out.suffix.lower() != ".png":
        raise DataError(f"--out {args.out}: the sheet is a .png")

    from icgan_training.data.advice import likeness, warnings
    from icgan_training.data.dataset import PreparedDataset
    from icgan_training.data.grid import write_grid
    from icgan_training.data.neighbourhoods import neighbourhoods

    data = PreparedDataset.open(args.data)
    write_grid(args.out, neighbourhoods(data, args.rows, args.k))
    found = likeness(data)
    say(str(found))
    for warning in warnings(data, found):
        say(f"warning: {warning}")
    say(f"wrote {args.out}")
