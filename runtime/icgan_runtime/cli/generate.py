"""icgan generate."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_runtime import images
from icgan_runtime.cli import shared
from icgan_runtime.console import Parser
from icgan_runtime.rows import CONDITIONS


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(
        commands,
        "generate",
        run,
        "icgan generate bundles/demo photo.jpg -n 16 --truncation 0.7 --out grid.png",
    )
    shared.add_pipeline(command)
    command.add_argument(
        "-n", type=int, default=8, help="pictures to generate for each given one (default: %(default)s)"
    )
    command.add_argument(
        "--seed", type=int, default=0, metavar="N", help="same seed, same pictures (default: %(default)s)"
    )
    command.add_argument(
        "--truncation",
        type=_truncation,
        default=1.0,
        metavar="T",
        help="noise within ±2T, T in (0, 1]: less is more typical and less varied; or none (default: 1)",
    )
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
        help="samples per row of the sheet (default: %(default)s)",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("grid.png"),
        metavar="FILE",
        help="sheet to write, as .png, .jpg or .webp (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Pictures that follow each given picture, on one sheet: the instance on the left, samples beside it."""
    kind = shared.image_format(options.out)
    rows, report = [], []
    with shared.open_pipeline(options) as pipe:
        for picture in options.pictures:
            instance = images.load(picture, pipe.model.resolution)  # refused here, a picture is named
            result = pipe.generate(
                picture,
                n=options.n,
                seed=options.seed,
                truncation=options.truncation,
                condition=options.condition,
                label=options.label,
            )
            rows.append(shared.strip(instance, result.images, options.columns))
            report.append({"picture": picture, "neighbours": shared.nearest_json(result.neighbours)})
            shared.say_text(options, shared.nearest_line(picture, result.neighbours))
    shared.write_sheet(options.out, rows, kind)
    shared.say_text(options, f"wrote {options.out}")
    shared.say_json(
        options, {"out": str(options.out), "seed": options.seed, "n": options.n, "pictures": report}
    )
    return 0


def _truncation(text: str) -> float | None:
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number in (0, 1] nor none") from None
