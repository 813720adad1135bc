"""icgan generate."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from icgan_runtime import captions, sheets
from icgan_runtime.cli import shared
from icgan_runtime.cli.follow import EMBEDDINGS, Followed, add_instance, followed, generate
from icgan_runtime.cli.marking import add_marks, kind_of, say_written
from icgan_runtime.console import Parser
from icgan_runtime.errors import RequestError
from icgan_runtime.marks.claim import SINGLE, Claim
from icgan_runtime.marks.mark import Mark
from icgan_runtime.origin import ledger
from icgan_runtime.request import Result
from icgan_runtime.rows import CONDITIONS


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(
        commands,
        "generate",
        run,
        "icgan generate bundles/demo photo.jpg -n 16 --truncation 0.7 --out grid.png",
    )
    more = f"; or a {EMBEDDINGS} of `icgan embed`, each row of which is followed"
    alone = "; none: each image follows an instance that the bundle's prior draws"
    shared.add_pipeline(command, more + alone, alone=True)
    add_instance(command)
    command.add_argument(
        "-n", type=int, default=8, help="images to generate for each picture (default: %(default)s)"
    )
    shared.add_noise(command)
    command.add_argument(
        "--condition",
        choices=CONDITIONS,
        default="query",
        help="what is followed: the picture itself, its nearest stored instance, or one drawn from the k "
        "nearest (default: %(default)s)",
    )
    command.add_argument(
        "--label", type=int, metavar="N", help="class, for models with labels (default: the instance's own)"
    )
    command.add_argument(
        "--columns",
        type=int,
        default=8,
        metavar="N",
        help="images per row of the sheet (default: %(default)s)",
    )
    command.add_argument(
        "--captions",
        action="store_true",
        help="a line under each picture's images: its name, seed, truncation and nearest stored instance",
    )
    command.add_argument(
        "--out",
        default="grid.png",
        metavar="FILE",
        help="sheet to write, as .png, .jpg or .webp; or a folder (without suffix, or with / at its end), "
        "for one PNG file per image (default: %(default)s)",
    )
    add_marks(command).add_argument(
        "--ledger", type=Path, metavar="FILE", help="append a line to this log of what was generated"
    )


def run(options: argparse.Namespace) -> int:
    """Images that follow each picture, on one sheet: the picture on the left, its images beside it."""
    pictures = [options.bundle] * (options.url is not None and bool(options.bundle)) + options.pictures
    wanted = followed(options, pictures)
    if not wanted:
        return _without_picture(options)
    out = Path(options.out)
    folders = _folders(options.out, wanted)
    if folders is None:
        sheets.file_format(out, "out")  # refused before the work is done
    kind = kind_of(options)
    settings = {name: getattr(options, name) for name in ("n", "seed", "truncation", "condition", "label")}
    rows, report, files = [], [], 0
    with shared.open_pipeline(options) as pipe:
        for each in wanted:
            shown, result = generate(pipe, each, settings)
            if folders is None:
                strip = sheets.beside(shown, result.images, options.columns)
                rows.append(captions.under(strip, _caption(each, result)) if options.captions else strip)
            else:
                folder = f"{folders[each]}/"
                paths = result.save(folder, not options.no_mark, options.sign_key, options.embedding)
                files += len(paths)
                for j, path in enumerate(paths):
                    _log(options, result.claim(j, 1, SINGLE), path.read_bytes())
            report.append(shared.nearest_json(each.name, result.neighbours))
            shared.say_text(options, shared.nearest_line(each.name, result.neighbours))
            shared.warn_outside(each.name, result.neighbours)
        route = pipe.route
    if folders is None:
        height = captions.LINE if options.captions else 0
        layout = sheets.layout(options.n, options.columns, shown.shape[1], len(rows), height)
        claim = result.claim(0, options.n, layout, options.embedding if len(rows) == 1 else "none")
        mark = None if options.no_mark else Mark(claim, options.sign_key)
        written = sheets.write_picture(out, sheets.grid(np.stack(rows), columns=1), "out", mark)
        _log(options, claim, written)
    say_written(options, out, kind, files or None)
    data = {"out": str(out), "seed": options.seed, "n": options.n, "mark": kind, "pictures": report}
    shared.say_result(options, route, data)
    return 0


def _without_picture(options: argparse.Namespace) -> int:
    """Images of instances that the prior draws, each of its own."""
    for flag, given in (("--captions", options.captions), ("--embedding", options.embedding != "none")):
        if given:
            options.parser.error(f"{flag} is of a picture that is followed: name one")
    out = Path(options.out)
    folder = sheets.names_folder(options.out)
    if not folder:
        sheets.file_format(out, "out")  # refused before the work is done
    settings = {name: getattr(options, name) for name in ("n", "seed", "truncation", "condition", "label")}
    with shared.open_pipeline(options, alone=True) as pipe:
        result, route = pipe.generate(**settings), pipe.route
    kind, mark, key = kind_of(options), not options.no_mark, options.sign_key
    if folder:
        paths = result.save(options.out, mark, key)
        for j, path in enumerate(paths):
            _log(options, result.claim(j, 1), path.read_bytes())
    else:
        claim = result.claim(0, options.n, sheets.layout(options.n, options.columns))
        written = sheets.write_picture(
            out, result.sheet(options.columns), "out", Mark(claim, key) if mark else None
        )
        _log(options, claim, written)
    say_written(options, out, kind, len(paths) if folder else None)
    labels = None if result.labels is None else result.labels.tolist()
    data = {"out": str(out), "seed": options.seed, "n": options.n, "mark": kind, "pictures": []}
    shared.say_result(options, route, data | ({} if labels is None else {"labels": labels}))
    return 0


def _caption(each: Followed, result: Result) -> str:
    """What was followed, and how, for the line under its images."""
    request, near = result.request, result.neighbours
    limit = "" if math.isinf(request.truncation) else f"truncation {request.truncation:g}, "
    name = Path(each.name).name if each.row is None else each.name
    outside = ", outside what is stored" if result.outside else ""
    return f"{name}: seed {request.seed}, {limit}nearest {near.title(0)} ({near.scores[0]:.3f}){outside}"


def _log(options: argparse.Namespace, claim: Claim | None, file: bytes) -> None:
    if options.ledger is not None and claim is not None:
        ledger.append(options.ledger, claim, file)


def _folders(name: str, wanted: list[Followed]) -> dict[Followed, Path] | None:
    """Where each picture's images go if --out is a folder: into it, or each picture's into one below it."""
    out = Path(name)
    if not sheets.names_folder(name):
        return None
    if len(wanted) == 1:
        return {wanted[0]: out}
    folders = {each: out / each.folder for each in wanted}
    if len(set(folders.values())) < len(wanted):
        raise RequestError("out", f"{out}: two pictures have the same name; give them to two commands")
    return folders
