"""icgan signer."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from icgan_runtime.cli import shared
from icgan_runtime.console import Parser


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(
        commands, "signer", run, "icgan signer --key signer.pem --socket /run/icgan/socket"
    )
    command.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="FILE",
        help="private key and certificates, PEM; read once, at the start",
    )
    command.add_argument(
        "--socket",
        type=Path,
        required=True,
        metavar="FILE",
        help="socket to listen at; the server's stages find it by ICGAN_SIGN_SOCKET",
    )


def run(options: argparse.Namespace) -> int:
    """Signs the files of a server in a process of its own, so that no stage can read the key; until Ctrl-C.

    icgan serve does this itself with the key of ICGAN_SIGN_KEY. This is for a server in a container: give the
    key to this command's container alone, under another user, and share the socket's folder.
    """
    from icgan_runtime.marks.signing import signing  # sockets that Windows has not

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with signing(options.key, options.socket):
        shared.say_text(options, f"signing at {options.socket} until Ctrl-C")
        shared.say_json(options, {"socket": str(options.socket)})
        try:
            signal.pause()
        except KeyboardInterrupt:
            shared.say_text(options, "stopping")
    return 0
