"""icgan-export sign: a bundle's files under a key."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_export.cli.arguments import BUNDLE, Commands, add_command
from icgan_runtime.bundle.signature import sign_bundle
from icgan_runtime.console import Parser, say


def add_parser(commands: Commands[Parser]) -> None:
    """The command and its options."""
    command = add_command(
        commands,
        "sign",
        "icgan-export sign bundles/cifar10 --key private.pem",
        "Sign a bundle, so that whoever has the public key can refuse a changed one.",
    )
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help=BUNDLE)
    command.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="FILE",
        help="private key: openssl ecparam -name prime256v1 -genkey -noout -out private.pem; the public one: "
        "openssl ec -in private.pem -pubout -out public.pem",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the signature beside the manifest; what changes the bundle later makes it void."""
    say(f"wrote {sign_bundle(options.bundle, options.key)}")
    return 0
