"""icgan bench."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icgan_runtime import files, images
from icgan_runtime.cli import shared
from icgan_runtime.client.connection import options_from_environment
from icgan_runtime.console import Parser, tell
from icgan_runtime.errors import RequestError

# Options that only one of the two uses heeds.
_OF_RUNNERS = ("against", "target", "edge", "batches", "rounds", "threads")
_OF_SERVERS = ("seconds",)


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(
        commands,
        "bench",
        run,
        "icgan bench bundles/demo --against onnxruntime,openvino --out report/\n"
        "         icgan bench bundles/demo --edge edge/ --target mnn,ncnn,litert:int8 --out report/\n"
        "         icgan bench --url grpc://localhost:8001 photo.jpg --out report/",
    )
    command.add_argument("bundle", metavar="BUNDLE", help=f"{shared.BUNDLE}; with --url, a picture instead")
    command.add_argument("--url", help=shared.URL)
    command.add_argument(
        "--seconds",
        type=float,
        default=10,
        metavar="S",
        help="of each load scenario, with --url (default: %(default)s)",
    )
    command.add_argument(
        "--against",
        default="onnxruntime",
        metavar="RUNNERS",
        help="comma-separated, the first is the base: onnxruntime, onnxruntime-cuda, openvino, each with "
        ":fp16 or :int8 for a precision; torch, or torch:RUN where the weights have moved "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--target",
        metavar="LIST",
        help="edge runtimes beside them, of the folders in --edge; each with :fp16 or :int8 for a precision "
        "(default: none)",
    )
    command.add_argument("--edge", metavar="FOLDER", help="what icgan-export edge wrote, for --target")
    command.add_argument(
        "--batches", default="1,8", metavar="LIST", help="comma-separated sizes (default: %(default)s)"
    )
    command.add_argument(
        "--rounds", type=int, default=20, metavar="N", help="timed rounds (default: %(default)s)"
    )
    command.add_argument("--threads", type=int, default=0, metavar="N", help=shared.THREADS)
    command.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder for bench.json and bench.txt (default: none)"
    )


def run(options: argparse.Namespace) -> int:
    """How fast encoder and generator run, beside other ways; with --url, what load a server takes."""
    from icgan_runtime import bench, load

    remote = options.url is not None
    ignored, reason = (_OF_RUNNERS, "beside --url") if remote else (_OF_SERVERS, "without --url")
    shared.refuse_given(options, ignored, f"means nothing {reason}: leave it out")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise RequestError("out", f"{options.out} is no folder; name one for the report")
    if remote:
        images.load(options.bundle, 1)  # a bad picture is the caller's mistake, not the server's
        picture = images.read(options.bundle)
        report = load.measure(
            options.url,
            picture,
            seconds=options.seconds,
            progress=tell,
            connection=options_from_environment(),
        )
        return _report(options, load.table(report), report)
    if (options.target is None) != (options.edge is None):
        raise RequestError("target", "--target and --edge go together: which runtimes, in which folder")
    edge = [f"edge:{Path(options.edge, name)}" for name in shared.split_list(options.target or "")]
    report = bench.bench(
        options.bundle,
        [*shared.split_list(options.against), *edge],
        batches=[_whole("batches", part) for part in shared.split_list(options.batches)],
        rounds=options.rounds,
        threads=options.threads,
        progress=tell,
    )
    return _report(options, bench.table(report), report)


def _report(options: argparse.Namespace, table: str, report: Mapping[str, Any]) -> int:
    """Print a benchmark's table, or its JSON where that is asked for; both into a folder."""
    shared.say_text(options, table)
    out: Path | None = options.out
    if out is not None:
        files.write_whole(out / "bench.json", (json.dumps(report, indent=1) + "\n").encode(), "out")
        files.write_whole(out / "bench.txt", (table + "\n").encode(), "out")
    shared.say_json(options, report)
    return 0


def _whole(field: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RequestError(field, f"{text!r}, expected whole numbers separated by commas") from None
