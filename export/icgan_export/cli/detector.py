"""icgan-export detector: what looks for a key in the weights, as one ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_export.cli.arguments import Commands, add_command
from icgan_runtime import files
from icgan_runtime.console import Parser, say
from icgan_runtime.marks.keys import read_secret

MODE = 0o600  # of the file: who reads the direction out of it can take the key out of pictures


def add_parser(commands: Commands[Parser]) -> None:
    """The command and its options."""
    command = add_command(
        commands,
        "detector",
        "icgan-export detector --key key.txt --out detector.onnx",
        "What icgan detect does, as one ONNX file for other applications. It holds the key.",
    )
    command.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="the secret that icgan-train mark was given"
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="ONNX file to write, readable by you alone"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the graph: `image` uint8 [N, H, W, 3] -> `chance` [1] and `each` [N]."""
    secret = read_secret("key", options.key)
    files.refuse_folder(options.out, "out")
    # torch, which tracing needs, takes seconds to load: arguments are checked before
    from icgan_export.detector import detector_graph

    data = detector_graph(secret).SerializeToString(deterministic=True)
    files.write_whole(options.out, data, "out", MODE)
    size = len(data) / 1000
    say(f"wrote {options.out}, {size:.0f} kB: a chance of 1e-6 or less means that the key is there")
    say("Whoever reads this file can take the key out of pictures: keep it as you keep the key.")
    return 0
