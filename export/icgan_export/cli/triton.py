"""icgan-export triton: a bundle as a model repository for Triton, and its releases."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from icgan_export.cli.arguments import BUNDLE, Commands, Steps, add_command, require
from icgan_export.errors import ExportError
from icgan_runtime.console import Parser, say
from icgan_runtime.server.models import LOOKUPS, Choices

OPTIONS = ("lookup", "precision", "cpu_precision", "generators", "max_batch", "queue_delay_us")


def add_parser(commands: Commands[Parser]) -> None:
    """The command and its options."""
    command = add_command(
        commands,
        "triton",
        "icgan-export triton bundles/cifar10 --out model_repository",
        "A bundle becomes a model repository for Triton, or another release in one.",
    )
    command.add_argument(
        "bundle", type=Path, nargs="?", metavar="BUNDLE", help=f"{BUNDLE}; leave it out with --release"
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="REPOSITORY",
        help="folder to write; a repository of ours that is there is replaced, or changed as said below",
    )
    release = command.add_argument_group(
        "releases: swap bank or weights of a running server (docs/serving.md)"
    )
    release.add_argument(
        "--add", action="store_true", help="add the bundle to REPOSITORY as its next release"
    )
    release.add_argument("--release", type=int, metavar="N", help="go back, or forward, to release N")
    choices = command.add_argument_group("choices, for a new repository")
    add_options(choices)
    command.set_defaults(run=run, given={name: command.get_default(name) for name in OPTIONS})


def run(options: argparse.Namespace) -> int:
    """Write a repository, add a release to one, or change the current release."""
    from icgan_runtime.server import repository

    out: Path = options.out
    if options.add or options.release is not None:
        for name, default in options.given.items():
            if getattr(options, name) != default:
                flag = name.replace("_", "-")
                raise ExportError(f"--{flag} is for a new repository: {out} keeps what it was made with")
    if options.release is not None:
        if options.bundle is not None or options.add:
            raise ExportError(
                f"--release {options.release} goes to one that {out} holds: leave BUNDLE and --add out"
            )
        _say_loads(repository.set_release(out, options.release))
        return 0
    if options.bundle is None:
        raise ExportError("which bundle? icgan-export triton BUNDLE --out REPOSITORY")
    if options.add:
        _say_loads(repository.add_release(options.bundle, out, Steps()))
        return 0
    if out.exists() and not (out / repository.RELEASES_NAME).exists():
        raise ExportError(f"--out {out} exists and is no repository of ours: choose another place")
    repository.write_repository(options.bundle, out, chosen(options), Steps())
    say(f"wrote {out}")
    return 0


def add_options(command: argparse._ArgumentGroup) -> None:
    """How a repository serves its bundle."""
    command.add_argument(
        "--lookup",
        choices=LOOKUPS,
        default="faiss",
        help="how neighbours are found; faiss-ivf is approximate, graph is ONNX (default: %(default)s)",
    )
    command.add_argument(
        "--precision",
        metavar="P",
        help="of the graphs that a GPU runs (default: the plans', or the highest in the bundle)",
    )
    command.add_argument(
        "--cpu-precision",
        metavar="P",
        help="of the graphs that a CPU runs (default: the highest in the bundle)",
    )
    command.add_argument(
        "--generators",
        type=int,
        default=1,
        metavar="N",
        help="on a CPU, run N generators side by side, on one thread each: more pictures per second, each "
        "later (default: 1, on all cores)",
    )
    command.add_argument(
        "--max-batch", type=int, default=32, metavar="N", help="rows per batch (default: %(default)s)"
    )
    command.add_argument(
        "--queue-delay-us",
        type=int,
        default=0,
        metavar="US",
        help="microseconds that a lone request waits for company (default: %(default)s)",
    )


def chosen(options: argparse.Namespace) -> Choices:
    """What `add_options` read. Raises ExportError for a number out of its range."""
    require("--max-batch", options.max_batch, 1)
    require("--generators", options.generators, 1)
    require("--queue-delay-us", options.queue_delay_us, 0)
    return Choices(
        lookup=options.lookup,
        precision=options.precision,
        cpu_precision=options.cpu_precision,
        cpu_generators=options.generators,
        max_batch=options.max_batch,
        queue_delay_us=options.queue_delay_us,
    )


def _say_loads(models: Sequence[str]) -> None:
    """What a running server has to be told, in the order that keeps it answering."""
    for model in models:
        say(f"POST v2/repository/models/{model}/load")
