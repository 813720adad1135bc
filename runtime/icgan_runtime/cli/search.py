"""icgan search."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_runtime import images
from icgan_runtime.cli import shared
from icgan_runtime.console import Parser
from icgan_runtime.errors import RequestError
from icgan_runtime.request import Neighbours


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(
        commands, "search", run, "icgan search bundles/demo photo.jpg -k 5 --out neighbours.png"
    )
    shared.add_pipeline(command)
    command.add_argument("-k", type=int, help="how many instances (default: the bundle's k)")
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="draw the instances' thumbnails on a sheet, as .png, .jpg or .webp; not with --url",
    )


def run(options: argparse.Namespace) -> int:
    """The stored instances nearest to each picture."""
    kind = None if options.out is None else shared.image_format(options.out)
    rows, report = [], []
    with shared.open_pipeline(options) as pipe:
        bank = pipe.chain.bank
        if kind is not None and (bank is None or bank.thumbnails is None):
            raise RequestError("out", "there are no thumbnails at hand to draw")
        ids, scores = pipe.search(pipe.embed(list(options.pictures)), k=options.k)
        for picture, row_ids, row_scores in zip(options.pictures, ids, scores, strict=True):
            labels = bank.labels[bank.rows(row_ids)] if bank is not None and bank.labels is not None else None
            found = Neighbours(row_ids, row_scores, labels)
            report.append({"picture": picture, "neighbours": shared.nearest_json(found)})
            shared.say_text(options, shared.nearest_line(picture, found))
            if kind is not None and bank is not None and bank.thumbnails is not None:
                thumbnails = bank.thumbnails[bank.rows(row_ids)]
                instance = images.load(picture, thumbnails.shape[1])
                rows.append(shared.strip(instance, thumbnails, len(row_ids)))
    if kind is not None:
        shared.write_sheet(options.out, rows, kind)
        shared.say_text(options, f"wrote {options.out}")
    shared.say_json(options, {"pictures": report})
    return 0
