"""icgan detect."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from icgan_runtime import images
from icgan_runtime.cli import shared
from icgan_runtime.console import Parser
from icgan_runtime.marks.keys import read_secret
from icgan_runtime.origin.weight_key import detect

NOT_FOUND = 4


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(commands, "detect", run, "icgan detect image.png --key key.txt")
    command.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="images of one model, edited alike"
    )
    command.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="the secret that icgan-train mark was given"
    )


def run(options: argparse.Namespace) -> int:
    """Whether images carry a key that icgan-train mark put into weights. Status 0: they do; 4: not found."""
    secret = read_secret("key", options.key)
    pictures = [images.pixels(images.read(file)) for file in options.files]
    found = detect(pictures, secret)
    word = "found" if found.found else "not found"
    shared.say_text(
        options,
        f"{word}: by chance with a probability of {found.chance:.1e} at most ({len(pictures)} images)",
    )
    shared.say_json(options, {"found": found.found, "images": len(pictures), **asdict(found)})
    return 0 if found.found else NOT_FOUND
