"""What the three programs say: their help, and lines for people. Standard library only."""

import argparse
import os
import re
import sys
from typing import Any


class Parser(argparse.ArgumentParser):
    """Keeps the line breaks of a description and opens the help with its first part, the example.

    Subcommands do too: argparse makes their parsers of their parent's class.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def format_help(self) -> str:
        usage, example, rest = super().format_help().split("\n\n", 2)
        return f"{example}\n\n{usage}\n\n{rest}"


# All but newline and tab; and lone surrogates, which bytes that are no UTF-8 become in file names.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def say(text: str) -> None:
    """Print a line for whoever reads; when that has seen enough, as `head` has, the work still goes on.

    What the terminal has no letters for is shown as escapes.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(escape(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # what is said from now on, and what Python writes out at its end, goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(text: str) -> None:
    """Print a line on stderr, where Python escapes what the terminal has no letters for by itself."""
    print(escape(text), file=sys.stderr, flush=True)


def escape(text: str) -> str:
    """Text that strangers may have written; control characters and lone surrogates as JSON writes them."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
