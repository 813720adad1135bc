"""icgan search."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from icgan_runtime import images, sheets
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
    drawn = options.out is not None
    if drawn:
        sheets.file_format(options.out, "out")  # refused before the work is done
    rows, report = [], []
    with shared.open_pipeline(options) as pipe:
        bank = pipe.chain.bank
        if drawn and (bank is None or bank.thumbnails is None):
            raise RequestError("out", "there are no thumbnails to draw")
        ids, scores = pipe.search(list(options.pictures), k=options.k)
        for picture, row_ids, row_scores in zip(options.pictures, ids, scores, strict=True):
            labels = bank.labels[bank.rows(row_ids)] if bank is not None and bank.labels is not None else None
            found = Neighbours(row_ids, row_scores, labels)
            report.append({"picture": picture, "neighbours": shared.nearest_json(found)})
            shared.say_text(options, shared.nearest_line(picture, found))
            if drawn and bank is not None and bank.thumbnails is not None:
                thumbnails = bank.thumbnails[bank.rows(row_ids)]
                instance = images.load(picture, thumbnails.shape[1])
                rows.append(sheets.beside(instance, thumbnails, len(row_ids)))
        route = pipe.route
    if drawn:
        sheets.write_picture(options.out, sheets.grid(np.stack(rows), columns=1), "out")
        shared.say_text(options, f"wrote {options.out}")
    shared.say_result(options, route, {"pictures": report})
    return 0
