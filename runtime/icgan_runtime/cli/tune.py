"""icgan tune."""

from __future__ import annotations

import argparse
import asyncio
import math
import re
from pathlib import Path

from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.chain import MAX_BATCH
from icgan_runtime.cli import shared
from icgan_runtime.console import Parser, tell
from icgan_runtime.cpus import usable_cpus
from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.server.options import for_cores

_UNITS = {"ms": 1e-3, "s": 1.0, "": 1.0}


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(
        commands, "tune", run, "icgan tune bundles/demo --p99 50ms --out model_repository"
    )
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help=shared.BUNDLE)
    command.add_argument(
        "--p99",
        type=duration,
        required=True,
        metavar="TIME",
        help="99 %% of the requests have to be answered within it: 50ms, 0.2s",
    )
    command.add_argument(
        "-n",
        dest="samples",
        type=int,
        default=8,
        metavar="N",
        help="images that a request asks for, all of one picture (default: %(default)s)",
    )
    command.add_argument(
        "--minutes",
        type=float,
        default=10,
        metavar="M",
        help="stop after about so many (default: %(default)s)",
    )
    command.add_argument(
        "--exact",
        action="store_true",
        help="only settings that draw the pictures of the float32 graphs, but for one grey level",
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="REPOSITORY",
        help="new folder for the model repository with the best settings",
    )


def run(options: argparse.Namespace) -> int:
    """Settings that give most images per second on this machine within a bound on latency; needs `serve`.

    Each is tried on a real server with as many clients as it can bear, and at the end the best and the
    defaults take turns. Pictures are never further from float32 than the bounds of the export.
    """
    _check(options)
    try:
        from icgan_runtime.tune import measure, search, space
    except ImportError:
        raise MissingExtraError("tritonclient", "triton") from None
    from icgan_runtime.server.environment import find_environment
    from icgan_runtime.server.repository import write_repository

    bundle, environment = Bundle.open(options.bundle), find_environment()
    defaults = for_cores(usable_cpus())
    tell("checking which libraries and precisions keep the bundle's bounds")
    possible = space.space_of(bundle, options.samples, exact=options.exact)
    goal = search.Goal(options.p99, options.minutes, turn_s=min(2.0, 3 * options.minutes))
    stage = measure.stage_of(bundle, environment, options.samples, lambda line: None)
    found = asyncio.run(search.tune(possible, defaults, goal, stage, tell))
    report = search.to_json(found)
    shared.say_text(options, "\n".join(report["notes"]))
    shared.say_text(options, f"front of the search, {options.samples} images a request:")
    shared.say_text(options, search.table(report["front"]))
    if report["final"]:
        shared.say_text(options, f"defaults and best in turns, p99 within {report['bound_ms']:.0f} ms:")
        shared.say_text(options, search.table(list(report["final"].values())))
    write_repository(options.bundle, options.out, found.best, lambda line: None)
    times = f", {found.times:.2f} times the images/s of the defaults" if found.times else ""
    shared.say_text(options, f"wrote {options.out} with {report['best']}{times}")
    shared.say_text(options, f"  icgan serve {options.out}")
    shared.say_json(options, {**report, "repository": str(options.out)})
    return 0


def duration(text: str) -> float:
    """Seconds of "50ms" or "0.2s"; the type of `--p99`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|)", text.strip())
    if found is None or not 0 < float(found[1]) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: 50ms, 0.2s")
    return float(found[1]) * _UNITS[found[2]]


def _check(options: argparse.Namespace) -> None:
    if options.out.exists():
        raise RequestError("out", f"{options.out} exists: name a new folder")
    if not 1 <= options.samples <= MAX_BATCH:
        raise RequestError("n", f"{options.samples}, expected 1..{MAX_BATCH}")
    if not 0 < options.minutes < math.inf:
        raise RequestError("minutes", f"{options.minutes:g}, expected more than 0")
