"""icgan search."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from icgan_runtime import captions, images, sheets
from icgan_runtime.bundle.bank import Bank
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
        for picture, found in zip(
            options.pictures, pipe.nearest(list(options.pictures), k=options.k), strict=True
        ):
            report.append(shared.nearest_json(picture, found))
            shared.say_text(options, shared.nearest_table(picture, found))
            shared.warn_outside(picture, found)
            if drawn and bank is not None:
                rows.append(_strip(picture, found, bank))
        route = pipe.route
    if drawn:
        sheets.write_picture(options.out, sheets.grid(np.stack(rows), columns=1), "out")
        shared.say_text(options, f"wrote {options.out}")
    shared.say_result(options, route, {"pictures": report})
    return 0


def _strip(picture: str, found: Neighbours, bank: Bank) -> images.U8:
    """The picture on the left, its neighbours' thumbnails beside it, with scores and names below."""
    assert bank.thumbnails is not None
    thumbnails = bank.thumbnails[bank.rows(found.ids)]
    words = [(Path(picture).name, "outside what is stored" if found.outside else "")]
    for place, score in enumerate(found.scores):
        named = found.names is not None and found.names[place]  # else the title has the class
        called = found.classes[place] if named and found.classes is not None else ""
        words.append((f"{score:.3f}  {called}", found.title(place)))
    cells = captions.below([images.load(picture, thumbnails.shape[1]), *thumbnails], words)
    return sheets.beside(cells[0], cells[1:], len(cells) - 1)
