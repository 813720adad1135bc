"""`icgan-train prepare`: pictures into the arrays that training reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_runtime.console import say
from icgan_training.cli.common import Subparsers, add_command, count


def add_parser(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "prepare",
        run,
        "icgan-train prepare data/groceries --resolution 64 --encoder efficientnet-lite0 "
        "--neighbours 10 --out data/groceries64",
        "Turn pictures into the arrays that training reads: decoded, embedded, with neighbourhoods.\n"
        "A killed run continues where it stopped when started again. Also under torchrun.",
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder of pictures, folder with one sub-folder per class, fetched data set, or a .csv or "
        ".parquet list with the columns path and, if there are labels, label; also .hdf5 of the published "
        "system, WebDataset .tar (or a folder of them), Parquet with pictures, and what datasets saved",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DATA", help="folder to write")
    parser.add_argument(
        "--resolution", type=int, required=True, metavar="PIXELS", help="side of the prepared pictures"
    )
    parser.add_argument(
        "--encoder",
        required=True,
        help="efficientnet-lite0 or resnet50, fetched once; a weights file (ours, or a torch ResNet-50); or "
        "timm:NAME, any model of timm that takes square RGB pictures, with --weights",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weights of --encoder timm:NAME: safetensors or a torch state dict, as timm or the publisher "
        "names them (default: none)",
    )
    parser.add_argument(
        "--input-size",
        type=int,
        metavar="PIXELS",
        help="side that pictures are enlarged to before the encoder (default: what its file, or timm, says)",
    )
    parser.add_argument(
        "--neighbours", type=int, default=50, metavar="K", help="of each picture (default: 50)"
    )
    parser.add_argument(
        "--exact-up-to",
        type=count,
        default=200_000,
        metavar="N",
        help="above this many pictures neighbours are approximate (default: 200k)",
    )
    parser.add_argument("--no-labels", action="store_true", help="ignore sub-folder names and label columns")


def run(args: argparse.Namespace) -> None:
    from icgan_training.data.prepare import prepare
    from icgan_training.distributed import join, leave, local_device

    processes = join(local_device())
    prepare(
        args.source,
        args.out,
        resolution=args.resolution,
        encoder=args.encoder,
        weights=args.weights,
        input_size=args.input_size,
        neighbours=args.neighbours,
        exact_up_to=args.exact_up_to,
        use_labels=not args.no_labels,
        processes=processes,
    )
    leave()
    if processes.first:
        say(f"{args.out} is ready")
