"""icgan-export bundle: a run directory becomes a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_export.cli.arguments import RUN, Commands, Steps, add_command, add_target, listed, require
from icgan_export.errors import ExportError
from icgan_runtime.bundle.coded import CODING_HELP, CODINGS
from icgan_runtime.bundle.manifest import MAX_NEIGHBOURS
from icgan_runtime.console import Parser, say, tell
from icgan_runtime.prior import MAX_CENTRES


def add_parser(commands: Commands[Parser]) -> None:
    """The command and its options."""
    command = add_command(
        commands,
        "bundle",
        "icgan-export bundle runs/cifar10 --instances 1000 --out bundles/cifar10",
        "Weights and pictures become a bundle, compared with torch before it is written.",
    )
    command.add_argument("source", type=Path, metavar="RUN", help=RUN)
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="BUNDLE",
        help="folder to write; a bundle that is there is replaced",
    )
    command.add_argument(
        "--bank",
        type=Path,
        metavar="FOLDER",
        help="take the instances from these pictures, this prepared data set or the .npy file of published "
        "stored instances (default: from what the run was trained on, or carries)",
    )
    command.add_argument(
        "--instances",
        type=int,
        default=1000,
        metavar="M",
        help="store at most M instances (default: %(default)s)",
    )
    command.add_argument(
        "--neighbours", type=int, default=10, metavar="K", help="of a search result (default: %(default)s)"
    )
    command.add_argument(
        "--precision",
        default="fp32",
        metavar="LIST",
        help="of fp32, which must be among them, fp16, bf16, int8 (default: %(default)s)",
    )
    command.add_argument(
        "--thumbnails",
        type=int,
        default=64,
        metavar="PIXELS",
        help="largest side kept of an instance, 0 for no thumbnails (default: %(default)s)",
    )
    command.add_argument(
        "--no-names",
        action="store_true",
        help="leave the names of the instances' files out of the bundle (default: searches tell them)",
    )
    command.add_argument(
        "--prior",
        type=int,
        default=0,
        metavar="K",
        help="add a prior of at most K centres, the means of 5 pictures or more each, which draws instances "
        "where no picture is given (default: none)",
    )
    command.add_argument(
        "--no-instances",
        action="store_true",
        help="with --prior: store its centres instead of instances, and no embedding, thumbnail, name or "
        "sample of a picture (default: instances are stored)",
    )
    command.add_argument("--embeddings", choices=CODINGS, default="float32", help=CODING_HELP)
    add_target(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export, compare with torch, and write; the comparisons go to stdout as a table."""
    from icgan_export.bundle import BundleOptions, write_bundle
    from icgan_training.heap import keep_freed_memory

    out: Path = options.out
    if out.exists() and not (out / "manifest.json").exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"--out {out} exists and is no bundle: choose another place")
    require("--instances", options.instances, 1)
    require("--neighbours", options.neighbours, 1, MAX_NEIGHBOURS)
    require("--thumbnails", options.thumbnails, 0)
    require("--prior", options.prior, 0, MAX_CENTRES)
    if options.no_instances and not options.prior:
        raise ExportError(
            "--no-instances leaves nothing to draw from: give --prior K too, such as --prior 64"
        )
    wanted = BundleOptions(
        precisions=listed(options.precision),
        instances=options.instances,
        neighbours=options.neighbours,
        bank=options.bank,
        thumbnail_size=options.thumbnails,
        target=options.target,
        embeddings=options.embeddings,
        names=not options.no_names,
        prior=options.prior,
        stored=not options.no_instances,
    )
    keep_freed_memory()  # every trial of a precision writes the whole graph anew
    written = write_bundle(options.source, out, wanted, Steps())
    say(written.report.table())
    if not written.left_out:
        say(f"wrote {out}")
        return 0
    say(f"wrote {out} without {', '.join(written.left_out)}")
    for precision, reason in written.left_out.items():
        tell(f"icgan-export: {precision} is left out ({reason})")
    return 1
