"""What a command says on stdout. Standard library only; `icgan-export` says it the same way."""

import os
import sys


def say(text: str) -> None:
    """Print a line for whoever reads; when that has seen enough, as `head` has, the work still goes on."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # what is said from now on, and what Python writes out at its end, goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
