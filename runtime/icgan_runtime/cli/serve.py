"""icgan serve."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path

from icgan_runtime.bundle.signature import check_signature
from icgan_runtime.cli import shared
from icgan_runtime.console import Parser, escape
from icgan_runtime.server import options as repository_options


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(
        commands, "serve", run, "icgan serve bundles/demo --http-port 8000 --grpc-port 8001"
    )
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help=shared.BUNDLE)
    command.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: %(default)s)"
    )
    for name, port in (("HTTP", 8000), ("gRPC", 8001), ("metrics", 8002)):
        command.add_argument(
            f"--{name.lower()}-port",
            type=int,
            default=port,
            metavar="PORT",
            help=f"port for {name} (default: %(default)s)",
        )
    command.add_argument(
        "--log",
        choices=("error", "warning", "info"),
        default="warning",
        help="show the server's log from this level up (default: %(default)s)",
    )
    command.add_argument(
        "--require-signature",
        type=Path,
        metavar="FILE",
        help="public key: refuse a bundle that icgan-export sign did not sign with its private key",
    )
    models = command.add_argument_group("how the bundle is served (the same as of icgan-export triton)")
    repository_options.add_options(models, gpu=False)


def run(options: argparse.Namespace) -> int:
    """A Triton server for this machine, until Ctrl-C; needs the extra `serve`."""
    from icgan_runtime.server.process import LOOPBACK, Ports, ServerOptions
    from icgan_runtime.server.serve_bundle import serve_bundle

    # as Ctrl-C, which a background job of a script is started without
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.require_signature is not None:
        check_signature(options.bundle, options.require_signature)
    ports = Ports(options.http_port, options.grpc_port, options.metrics_port)
    served = serve_bundle(
        options.bundle,
        ServerOptions(ports, options.host),
        repository_options.from_options(options),
        options.log,
        report,
    )
    with served as server:
        try:
            host = LOOPBACK if options.host == "0.0.0.0" else options.host
            for line in (
                f"serving {options.bundle} until Ctrl-C, metrics at {server.metrics_url}",
                f"  icgan generate --url grpc://{host}:{options.grpc_port} photo.jpg --out grid.png",
                f"  icgan generate --url http://{host}:{options.http_port} photo.jpg --out grid.png",
            ):
                shared.say_text(options, line)
            addresses = {"http": server.http_url, "grpc": server.grpc_url, "metrics": server.metrics_url}
            shared.say_json(options, addresses)
            server.wait()
        except KeyboardInterrupt:  # whoever reads the addresses may stop it at once
            shared.say_text(options, "stopping when the requests in flight are answered")
    return 0


def report(line: str) -> None:
    """One line on stderr, past Python's buffers: a full disk under it costs lines, not the service."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"{escape(line)}\n".encode())
