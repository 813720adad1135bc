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
        "Turn published IC-GAN weights of either backbone into a run directory.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="holds G_ema_best0.pth and state_dict_best0.pth, or best1; or a StyleGAN2 snapshot: "
        "best-network-snapshot.pkl, or G_ema_state_dict.pth beside config.json",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run directory to write")
    parser.add_argument(
        "--encoder",
        type=Path,
        metavar="FILE",
        help="its encoder: a file of ours, or the torch ResNet-50 file (default: none, and no bundle then)",
    )
    parser.add_argument(
        "--squeeze",
        action="store_true",
        help="the weights were trained on pictures squeezed to the square, not cropped, as those that are "
        "called coco were (default: by their name)",
    )


def run(args: argparse.Namespace) -> None:
    from icgan_training.networks.backbones import AnyConfig
    from icgan_training.official import LICENCE, check_free, convert
    from icgan_training.official_stylegan2 import ENCODER, convert_stylegan2, find_stylegan2

    check_free(args.out)
    config: AnyConfig
    if (snapshot := find_stylegan2(args.folder)) is not None:
        config = convert_stylegan2(
            snapshot, args.out, encoder=args.encoder, squeezed=args.squeeze
        ).generator.config
        encoder = ENCODER
    else:
        experiment = convert(args.folder, args.out, encoder=args.encoder, squeezed=args.squeeze)
        config, encoder = experiment.config, experiment.encoder
    say(
        f"{args.out}: {config.resolution} px, {config.conditioning}, weights under {LICENCE} (non-commercial)"
    )
    if config.takes_embedding and args.encoder is None:
        say(f"the model takes embeddings of the {encoder} ResNet-50; give its file with --encoder")
