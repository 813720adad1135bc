"""icgan push and icgan pull."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_runtime.cli import shared
from icgan_runtime.console import Parser, tell
from icgan_runtime.errors import RequestError

REFERENCE = "registry/name:tag, or registry/name@sha256:... for exactly that content"


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare both commands."""
    push = shared.add_command(
        commands, "push", run_push, "icgan push bundles/demo registry.example/bundles/demo:1"
    )
    push.add_argument("bundle", type=Path, metavar="BUNDLE", help=shared.BUNDLE)
    push.add_argument("reference", metavar="REFERENCE", help="registry/name:tag")
    pull = shared.add_command(
        commands, "pull", run_pull, "icgan pull registry.example/bundles/demo:1 --out bundles/demo"
    )
    pull.add_argument("reference", metavar="REFERENCE", help=REFERENCE)
    pull.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="new folder for the bundle")


def run_push(options: argparse.Namespace) -> int:
    """Put a bundle into an OCI registry, beside the images that serve it; needs the extra `oci`.

    Prints the reference that is pinned to its content. Credentials are those of docker login.
    """
    from icgan_runtime import registry

    _say(options, "pushed", registry.push(options.bundle, options.reference, tell))
    return 0


def run_pull(options: argparse.Namespace) -> int:
    """Fetch a bundle from an OCI registry; needs the extra `oci`.

    Every file is compared with its hash, and nothing is left behind unless all are right.
    """
    from icgan_runtime import registry

    if options.out.exists():
        raise RequestError("out", f"{options.out} exists: name a new folder")
    _say(options, "pulled", registry.pull(options.reference, options.out, tell))
    return 0


def _say(options: argparse.Namespace, done: str, pinned: str) -> None:
    shared.say_text(options, f"{done} {pinned}")
    shared.say_json(options, {"reference": pinned})
