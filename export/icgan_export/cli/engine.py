"""icgan-export engine: TensorRT plans of a bundle's graphs."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_export.cli.arguments import BUNDLE, Commands, Steps, add_command, listed
from icgan_export.errors import ExportError
from icgan_runtime.bundle.manifest import PRECISIONS, ROLES
from icgan_runtime.console import Parser, say


def add_parser(commands: Commands[Parser]) -> None:
    """The command and its options."""
    command = add_command(
        commands,
        "engine",
        "icgan-export engine bundles/cifar10 --precision fp16 --max-batch 32",
        "TensorRT plans for this machine, added to the bundle.",
    )
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help=BUNDLE)
    command.add_argument(
        "--precision",
        default="fp16",
        metavar="P",
        help="of the bundle's graphs to build from: fp32, fp16, bf16 or int8 (default: %(default)s)",
    )
    command.add_argument(
        "--roles",
        default="encoder,generator",
        metavar="LIST",
        help="the graphs to build plans of: encoder, lookup, generator (default: %(default)s)",
    )
    command.add_argument(
        "--best-batch", type=int, default=8, metavar="N", help="batch to tune for (default: %(default)s)"
    )
    command.add_argument(
        "--max-batch", type=int, default=32, metavar="N", help="largest batch (default: %(default)s)"
    )
    command.add_argument(
        "--level", type=int, default=3, metavar="0-5", help="optimisation level (default: %(default)s)"
    )
    command.add_argument(
        "--library",
        choices=("auto", "tensorrt", "tensorrt_rtx"),
        default="auto",
        help="tensorrt builds for this machine's GPU; tensorrt_rtx needs no GPU to build "
        "(default: %(default)s, the first that can)",
    )
    command.add_argument(
        "--compute-capability",
        metavar="X.Y",
        help="the GPU to build for, tensorrt_rtx only (default: this machine's, or 8.9)",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Build the plans; one line for each goes to stdout."""
    from icgan_export.engine import PlanOptions, add_engines

    plan = PlanOptions(
        best_batch=options.best_batch,
        max_batch=options.max_batch,
        level=options.level,
        compute_capability=options.compute_capability,
    )
    roles = listed(options.roles)
    for role in roles:
        if role not in ROLES:
            raise ExportError(f"--roles {role}: choose from {', '.join(ROLES)}")
    if options.precision not in PRECISIONS:
        raise ExportError(f"--precision {options.precision}: choose from {', '.join(PRECISIONS)}")
    for line in add_engines(options.bundle, options.precision, roles, options.library, plan, Steps()):
        say(line)
    return 0
