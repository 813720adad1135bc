"""Writes commands.txt: what `icgan COMMAND --help` says, for tests/runtime/cli/test_commands.py.

python -m tests.golden.make_commands
"""

from __future__ import annotations

import contextlib
import io
import textwrap
import unittest.mock
from pathlib import Path

from icgan_runtime.cli import build_parser

COMMANDS = (
    "",
    "generate",
    "rank",
    "interpolate",
    "guide",
    "invert",
    "synthesize",
    "embed",
    "search",
    "serve",
    "signer",
    "info",
    "prove",
    "detect",
    "ledger",
    "bench",
)
OUT = Path(__file__).with_name("commands.txt")


def help_of(command: str) -> str:
    """The words of a command's help, one space between them: how Python breaks its lines varies."""
    stream = io.StringIO()
    wide = {"COLUMNS": "10000"}  # else words are broken at their hyphens
    with (
        unittest.mock.patch.dict("os.environ", wide),
        contextlib.redirect_stdout(stream),
        contextlib.suppress(SystemExit),
    ):
        build_parser().parse_args([*[command][: bool(command)], "--help"])
    return " ".join(stream.getvalue().split())


if __name__ == "__main__":
    wrap = textwrap.TextWrapper(110, break_on_hyphens=False, break_long_words=False)
    OUT.write_text("\n\n".join(wrap.fill(help_of(command)) for command in COMMANDS) + "\n")
