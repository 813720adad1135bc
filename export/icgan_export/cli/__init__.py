"""icgan-export: one file per command, each with `add_parser` (its options) and `run` (what it does)."""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Sequence

from icgan_export.cli import bundle, detector, edge, engine, lpips, onnx, sign, triton, verify
from icgan_export.errors import ExportError
from icgan_runtime import __version__
from icgan_runtime.console import Parser, tell
from icgan_runtime.errors import REFUSED_BY_THE_MACHINE, IcganError, MissingExtraError
from icgan_training.errors import LIBRARIES, TrainingError

COMMANDS = (bundle, onnx, engine, edge, verify, sign, detector, lpips, triton)  # in the order of the help


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 after a one-line message about a user's mistake."""
    options = build_parser().parse_args(arguments)
    # before torch is loaded: its idle threads would spin, on cores that others and its own next step need
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # loading torch makes a million objects that stay: looking through them for cycles took a sixth of that
    gc.set_threshold(200_000, 10, 10)
    try:
        status: int = options.run(options)
    except (ExportError, IcganError, TrainingError) as error:
        tell(f"icgan-export: {error}")
        return 1
    except ModuleNotFoundError as error:
        if error.name not in {*LIBRARIES, "onnx", "onnxscript"}:
            raise
        tell(f"icgan-export: {MissingExtraError(error.name, 'export')}")
        return 1
    except OSError as error:
        if error.errno not in REFUSED_BY_THE_MACHINE:
            raise
        tell(f"icgan-export: {error}: mend that and run the same command again")
        return 1
    except KeyboardInterrupt:
        tell("icgan-export: interrupted")
        return 130
    return status


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(
        prog="icgan-export",
        description="example: icgan-export bundle runs/cifar10 --precision fp32,fp16 --out bundles/cifar10"
        "\n\nMake bundles of trained weights, which icgan runs, and what servers and other programs take.",
    )
    top.add_argument(
        "--version",
        action="version",
        version=f"icgan-export {__version__}",
        help="print the version and exit",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return top
