"""icgan serve."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from icgan_runtime.bundle.signature import check_signature
from icgan_runtime.cli import shared
from icgan_runtime.console import Parser, escape
from icgan_runtime.errors import RequestError
from icgan_runtime.server import options as repository_options

if TYPE_CHECKING:
    from icgan_runtime.server.process import Server, ServerOptions

CONTROL_KEY = "ICGAN_CONTROL_KEY"


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(
        commands, "serve", run, "icgan serve bundles/demo --http-port 8000 --grpc-port 8001"
    )
    command.add_argument(
        "bundle",
        type=Path,
        metavar="BUNDLE",
        help=f"{shared.BUNDLE}, or a model repository of icgan-export triton",
    )
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
    command.add_argument(
        "--traces",
        metavar="URL",
        help="send traces of the stages of requests to this OpenTelemetry collector, over HTTP: "
        "http://localhost:4318/v1/traces (default: none are made)",
    )
    command.add_argument(
        "--trace-every",
        type=int,
        default=1,
        metavar="N",
        help="trace one of N requests (default: %(default)s, all)",
    )
    models = command.add_argument_group(
        "how a bundle is served (as of icgan-export triton; a repository knows it already)"
    )
    repository_options.add_options(models, gpu=False)


def run(options: argparse.Namespace) -> int:
    """A Triton server for this machine, until Ctrl-C; needs the extra `serve`.

    The environment variable ICGAN_CONTROL_KEY is the key to loading models, for whoever changes the release
    of a repository. Without it nobody has one.
    """
    from icgan_runtime.server.process import LOOPBACK, Ports, ServerOptions

    # as Ctrl-C, which a background job of a script is started without
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ports = Ports(options.http_port, options.grpc_port, options.metrics_port)
    key = os.environ.get(CONTROL_KEY) or None
    settings = ServerOptions(
        ports, options.host, control_key=key, traces=_collector(options), trace_every=options.trace_every
    )
    with _served(options, settings) as server:
        try:
            program = _program()
            host = LOOPBACK if options.host == "0.0.0.0" else options.host
            for line in (
                f"serving {options.bundle} until Ctrl-C, metrics at {server.metrics_url}",
                f"  {program} generate --url grpc://{host}:{options.grpc_port} photo.jpg --out grid.png",
                f"  {program} generate --url http://{host}:{options.http_port} photo.jpg --out grid.png",
            ):
                shared.say_text(options, line)
            addresses = {"http": server.http_url, "grpc": server.grpc_url, "metrics": server.metrics_url}
            shared.say_json(options, addresses)
            server.wait()
        except KeyboardInterrupt:  # whoever reads the addresses may stop it at once
            shared.say_text(options, "stopping when the requests in flight are answered")
    return 0


def _served(options: argparse.Namespace, server: ServerOptions) -> AbstractContextManager[Server]:
    """What is to be served: a bundle as the options say, or a repository as it is."""
    from icgan_runtime.server import serve_bundle

    if serve_bundle.is_repository(options.bundle):
        names = ["require_signature", *repository_options.declared(options)]
        shared.refuse_given(
            options, names, f"is for a bundle: {options.bundle} is a repository, made already"
        )
        return serve_bundle.serve_repository(options.bundle, server, options.log, report)
    if options.require_signature is not None:
        check_signature(options.bundle, options.require_signature)
        if options.changes == repository_options.BUNDLE:
            options.changes = ""  # which nobody signs
    wanted = repository_options.from_options(options)
    return serve_bundle.serve_bundle(options.bundle, server, wanted, options.log, report)


def _program() -> str:
    """What to type for `icgan`: it as it was called. Another environment's may have no client for servers."""
    called = Path(sys.argv[0])
    found = shutil.which("icgan")
    if called.name != "icgan" or (found and called.exists() and os.path.samefile(found, called)):
        return "icgan"
    return shlex.quote(str(called))


def _collector(options: argparse.Namespace) -> str | None:
    """Where traces go. Raises RequestError for what is no address, or a number that is none."""
    if options.trace_every < 1:
        raise RequestError("trace-every", f"{options.trace_every}, expected at least 1")
    url: str | None = options.traces
    if url is not None and not re.fullmatch(r"https?://[^\s,/]+(/[^\s,]*)?", url):
        raise RequestError("traces", f"{url!r}, expected an address like http://localhost:4318/v1/traces")
    return url


def report(line: str) -> None:
    """One line on stderr, past Python's buffers: a full disk under it costs lines, not the service."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"{escape(line)}\n".encode())
