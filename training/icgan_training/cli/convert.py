"""`icgan-train convert`: published checkpoints into run directories."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_runtime.console import say
from icgan_training.cli.common import Subparsers, add_command


def add_parser(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "convert",
        run,
        "icgan-train convert icgan_biggan_imagenet_res64 --out runs/imagenet64",
        "Turn a published IC-GAN experiment folder (BigGAN backbone) into a run directory.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="holds G_ema_best0.pth and state_dict_best0.pth, or best1",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run directory to write")
    parser.add_argument(
        "--encoder",
        type=Path,
        metavar="FILE",
        help="its encoder: a file of ours, or the torch ResNet-50 file (default: none, and no bundle then)",
    )


def run(args: argparse.Namespace) -> None:
    from icgan_training.official import LICENCE, convert

    experiment = convert(args.folder, args.out, encoder=args.encoder)
    config = experiment.config
    say(
        f"{args.out}: {config.resolution} px, {config.conditioning}, weights under {LICENCE} (non-commercial)"
    )
    if config.takes_embedding and args.encoder is None:
        say(f"the model takes embeddings of the {experiment.encoder} ResNet-50; give its file with --encoder")
