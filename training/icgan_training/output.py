"""What a command says to people. Standard library only; `icgan-export` says it the same way."""

import os
import re
import sys

# All but newline and tab; and halves of characters, which bytes that are no UTF-8 become in file names.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def say(text: str) -> None:
    """Print a line for whoever reads; when that has seen enough, as `head` has, the work still goes on."""
    try:
        print(tame(text), flush=True)
    except BrokenPipeError:
        # what is said from now on, and what Python writes out at its end, goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(text: str) -> None:
    """Print a line on stderr."""
    print(tame(text), file=sys.stderr, flush=True)


def tame(text: str) -> str:
    """Text that strangers may have written, as JSON escapes what a terminal would obey or cannot show."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
