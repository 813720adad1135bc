"""`icgan-train`: one file per command, with the options (`add_parser`) and what they do (`run`).

A command imports its libraries when it runs: `--help` is instant and needs none of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from icgan_runtime.console import Parser, tell
from icgan_runtime.errors import REFUSED_BY_THE_MACHINE, IcganError, MissingExtraError
from icgan_training import __version__
from icgan_training.cli import convert, evaluate, fetch, fit, mark, neighbours, prepare
from icgan_training.errors import LIBRARIES

COMMANDS = (fetch, prepare, neighbours, fit, evaluate, convert, mark)


def build_parser() -> Parser:
    """The whole command line; `args.run(args)` executes the chosen subcommand."""
    parser = Parser(
        prog="icgan-train",
        description="example: icgan-train fetch cifar10 --out data/cifar10\n\n"
        "Prepare data for, train and evaluate instance-conditioned GANs.",
    )
    parser.add_argument(
        "--version", action="version", version=f"icgan-train {__version__}", help="print the version and exit"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on stderr and status 1, a bug keeps its traceback."""
    args = build_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], None] = args.run
    try:
        run(args)
    except IcganError as error:
        tell(f"icgan-train: {error}")
        return 1
    except ModuleNotFoundError as error:
        if error.name not in LIBRARIES:
            raise
        tell(f"icgan-train: {MissingExtraError(error.name, 'train')}")
        return 1
    except OSError as error:
        if error.errno not in REFUSED_BY_THE_MACHINE:
            raise
        tell(f"icgan-train: {error}: mend that and run the same command again")
        return 1
    except KeyboardInterrupt:
        tell("icgan-train: interrupted")
        return 130
    return 0
