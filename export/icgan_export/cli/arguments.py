"""What several commands share: their arguments, the checks of them, and the lines that show progress."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from icgan_export.errors import ExportError
from icgan_runtime.console import Parser, tell

Commands = argparse._SubParsersAction  # argparse has no public name for it

RUN = "run directory of icgan-train fit or convert"
BUNDLE = "folder that icgan-export bundle wrote"


def add_command(commands: Commands[Parser], name: str, example: str, summary: str) -> Parser:
    """A subcommand whose help opens with a runnable example."""
    return commands.add_parser(name, help=summary, description=f"example: {example}\n\n{summary}")


def add_target(command: Parser) -> None:
    """The option --target."""
    command.add_argument(
        "--target",
        choices=("onnxruntime", "openvino", "tensorrt"),
        default="onnxruntime",
        help="whose fastest form the generator takes; ONNX Runtime and OpenVINO read each "
        "(default: %(default)s)",
    )


def listed(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated list, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def require(flag: str, value: int, least: int, most: int | None = None) -> None:
    """Raise ExportError, before any work is done, unless `value` lies in least..most."""
    if value < least or (most is not None and value > most):
        end = "" if most is None else f" and at most {most}"
        raise ExportError(f"{flag} is {value}, it must be at least {least}{end}")


def require_run(path: Path) -> None:
    """Raise ExportError, before any library is loaded, for what is no run directory."""
    if not (path / "config.json").is_file():
        raise ExportError(f"{path / 'config.json'} does not exist; {path} is no {RUN}")


class Steps:
    """One line per step with the seconds since the start, on stderr."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def __call__(self, text: str) -> None:
        tell(f"[{time.monotonic() - self.started:6.1f} s] {text}")
