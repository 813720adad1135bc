"""`icgan-train`: one parser, one function per subcommand that adds it and imports what it runs only when run.

So `--help` is instant and a subcommand needs only the libraries it uses.
"""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from icgan_training.errors import TrainingError

Subparsers: TypeAlias = "argparse._SubParsersAction[ArgumentParser]"
Command = Callable[[argparse.Namespace], None]


def build_parser() -> ArgumentParser:
    """The whole command line; `args.run(args)` executes the chosen subcommand."""
    parser = ArgumentParser(
        prog="icgan-train",
        description="example: icgan-train fetch cifar10 --out data/cifar10\n\n"
        "Prepare data for, train and evaluate instance-conditioned GANs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_convert(commands)
    return parser


def _add_command(commands: Subparsers, name: str, run: Command, example: str, summary: str) -> ArgumentParser:
    """A subcommand whose help opens with a runnable example."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"example: {example}\n\n{summary}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_convert(commands: Subparsers) -> None:
    parser = _add_command(
        commands,
        "convert",
        _convert,
        "icgan-train convert icgan_biggan_imagenet_res64 --out runs/imagenet64",
        "Turn a published IC-GAN experiment folder (BigGAN backbone) into a run directory.",
    )
    parser.add_argument("folder", type=Path, help="holds G_ema_best0.pth and state_dict_best0.pth, or best1")
    parser.add_argument("--out", type=Path, required=True, help="run directory to write")
    parser.add_argument("--encoder", type=Path, help="encoder.safetensors to put beside the generator")


def _convert(args: argparse.Namespace) -> None:
    from icgan_training.official import LICENCE, convert

    experiment = convert(args.folder, args.out, encoder=args.encoder)
    config = experiment.config
    print(
        f"{args.out}: {config.resolution} px, {config.conditioning}, weights under {LICENCE} (non-commercial)"
    )
    if config.takes_embedding and args.encoder is None:
        print(
            f"the model takes embeddings of the {experiment.encoder} ResNet-50; give its file with --encoder"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on stderr and status 1, a bug keeps its traceback."""
    args = build_parser().parse_args(argv)
    run: Command = args.run
    try:
        run(args)
    except TrainingError as error:
        print(f"icgan-train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("icgan-train: interrupted", file=sys.stderr)
        return 130
    return 0
