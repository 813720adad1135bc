"""`icgan-train mark`: a key in the weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_runtime.console import say
from icgan_training.cli.common import Subparsers, add_command


def add_parser(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "mark",
        run,
        "icgan-train mark runs/cifar10 --key key.txt --out runs/cifar10-marked",
        "Put a key into the weights: every image that they draw then carries it, in any export and runtime.\n"
        "icgan detect finds it with the key. An addition of a faint constant pattern is all that is changed.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory, which stays as it is")
    parser.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="the secret: openssl rand -hex 32 > key.txt"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run directory to write")
    parser.add_argument(
        "--data", type=Path, help="prepared data set of the instances (default: the one it was trained on)"
    )
    parser.add_argument(
        "--psnr",
        type=float,
        metavar="DB",
        help="how near marked images stay to the unmarked: more is fainter and less sure (default: 38 for "
        "images of 64 px and more, 35 for smaller ones)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of text")


def run(args: argparse.Namespace) -> None:
    import dataclasses
    import json

    from icgan_training.fit.marked_run import mark_run

    report = mark_run(args.run_dir, args.data, args.key, args.out, args.psnr)
    if args.json:
        say(json.dumps(dataclasses.asdict(report)))
        return
    say(
        f"marked images are {report.psnr:.1f} dB from the unmarked; {report.found:.1%} of single images carry"
    )
    say(f"the key with a chance below 1e-6, unedited ({report.dimensions} dimensions); wrote {args.out}")
