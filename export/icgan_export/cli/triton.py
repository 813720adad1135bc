"""icgan-export triton: a bundle as a model repository for Triton, and its releases."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from icgan_export.cli.arguments import BUNDLE, Commands, Steps, add_command
from icgan_export.errors import ExportError
from icgan_runtime.console import Parser, say
from icgan_runtime.server.options import add_options, from_options


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
        help="folder to write; one that is there is changed as said below",
    )
    command.add_argument(
        "--replace",
        action="store_true",
        help="write anew a repository that is there: its releases are gone",
    )
    release = command.add_argument_group(
        "releases: swap bank or weights of a running server (docs/serving.md)"
    )
    release.add_argument(
        "--add", action="store_true", help="add the bundle to REPOSITORY as its next release"
    )
    release.add_argument("--release", type=int, metavar="N", help="go back, or forward, to release N")
    add_options(command.add_argument_group("for a new repository"), gpu=True)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write a repository, add a release to one, or change the current release."""
    from icgan_runtime.server import repository
    from icgan_runtime.server.stage import RELEASES_NAME

    out: Path = options.out
    wanted = from_options(options)
    if options.add or options.release is not None:
        if options.replace:
            raise ExportError("--replace drops the releases that --add and --release keep: leave it out")
        for field in fields(wanted):
            if getattr(wanted, field.name) != field.default:
                flag = field.name.replace("_", "-")
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
    if out.exists() and not (out / RELEASES_NAME).exists():
        raise ExportError(f"--out {out} exists and is no repository of ours: choose another place")
    if out.exists() and not options.replace:
        held = [str(release["release"]) for release in repository.read_releases(out)["releases"]]
        raise ExportError(
            f"--out {out} is there and holds the releases {', '.join(held)}: "
            "--add adds the bundle as the next one, --replace drops them"
        )
    repository.write_repository(options.bundle, out, wanted, Steps())
    say(f"wrote {out}")
    return 0


def _say_loads(models: Sequence[str]) -> None:
    """The requests that a running server needs, in the order that keeps it answering."""
    for model in models:
        say(f"POST v2/repository/models/{model}/load")
