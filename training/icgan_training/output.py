"""What a command says: its help, and lines on stdout. Standard library only; `icgan-export` uses it too."""

import argparse
import os
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


def say(text: str) -> None:
    """Print a line for whoever reads; when that has seen enough, as `head` has, the work still goes on.

    What the terminal has no letters for, or bytes of a file's name that are no text, are shown as escapes.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # what is said from now on, and what Python writes out at its end, goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
