"""What the three programs say: their help, and lines for people. Standard library only."""

import argparse
import os
import re
import sys
import time
from typing import Any, NoReturn, Self, TextIO


class Parser(argparse.ArgumentParser):
    """Keeps the line breaks of a description and opens the help with its first part, the example.

    Subcommands do too: argparse makes their parsers of their parent's class.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def format_help(self) -> str:
        usage, example, rest = super().format_help().split("\n\n", 2)
        return f"{example}\n\n{usage}\n\n{rest}"

    def error(self, message: str) -> NoReturn:
        if message.endswith("required: COMMAND"):  # whoever names none wants to see which there are
            self.print_help(sys.stderr)
            self.exit(2, f"\n{self.prog}: say which COMMAND\n")
        super().error(message)


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


class Progress:
    """How far long work is, with rate and time left: a line that changes on a terminal, elsewhere a line now
    and then and one at the end. Use with `with`.
    """

    def __init__(self, what: str, unit: str, total: int, done: int = 0, stream: TextIO | None = None) -> None:
        self.what, self.unit, self.total, self.done = what, unit, total, done
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._first = self._told = done
        self._began = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.done > self._told or self._terminal:
            self._tell("\n" if self._terminal else "")

    def advance(self, count: int) -> None:
        """Count `count` more as done."""
        self.done += count
        if time.monotonic() - self._last >= (0.2 if self._terminal else 10):
            self._tell("")

    def line(self) -> str:
        """Where the work stands."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = (self.done - self._first) / seconds
        left = f", {span((self.total - self.done) / rate)} left" if rate else ""
        return f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, {rate:,.1f}/s{left}"

    def _tell(self, end: str) -> None:
        self._last, self._told = time.monotonic(), self.done
        if self._terminal:
            print(f"\r\x1b[K{self.line()}", end=end, file=self._stream, flush=True)
        else:
            print(self.line(), file=self._stream, flush=True)


def span(seconds: float) -> str:
    """A length of time for people: the two largest units that it has."""
    whole = round(seconds)
    for unit, size, smaller, less in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // less} {smaller}"
    return f"{whole} s"
