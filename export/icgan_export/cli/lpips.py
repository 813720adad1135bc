"""icgan-export lpips: a perceptual distance of pictures, as one ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_export.cli.arguments import Commands, add_command
from icgan_runtime import files
from icgan_runtime.console import Parser, say


def add_parser(commands: Commands[Parser]) -> None:
    """The command and its options."""
    command = add_command(
        commands,
        "lpips",
        "icgan-export lpips lpips-alexnet.safetensors --out lpips.onnx",
        "LPIPS as one ONNX file, for icgan invert --features and other applications.",
    )
    command.add_argument(
        "weights", type=Path, metavar="FILE", help="what icgan-train fetch lpips-alexnet wrote"
    )
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="ONNX file to write")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the graph: `image` uint8 [N, H, W, 3] -> `features` float32 [N, F]."""
    files.refuse_folder(options.out, "out")
    # torch takes seconds to load: arguments are checked before
    from icgan_export.lpips import lpips_graph
    from icgan_training.networks.lpips import load_lpips

    data = lpips_graph(load_lpips(options.weights)).SerializeToString(deterministic=True)
    files.write_whole(options.out, data, "out")
    size = len(data) / 1e6
    say(f"wrote {options.out}, {size:.1f} MB: LPIPS is the squared distance of two pictures' features")
    return 0
