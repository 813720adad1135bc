"""icgan index."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from icgan_runtime.banks.index import write_index
from icgan_runtime.bundle.strict_json import to_json
from icgan_runtime.cli import shared
from icgan_runtime.console import Parser, say


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(commands, "index", run, "icgan index bundles/million")
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help=shared.BUNDLE)


def run(options: argparse.Namespace) -> int:
    """Index the bank of a bundle once, so that a large bank is ready at once.

    The approximate search (--search faiss-ivf) reads the index instead of building one at every start, and
    --search auto uses it. A second index replaces the first. What it finds is measured on the bank itself.
    """
    began = time.monotonic()
    about = write_index(options.bundle)
    if options.json:
        say(json.dumps(to_json(about)))
        return 0
    say(f"{about.count} instances in {about.cells} cells, {time.monotonic() - began:.1f} s")
    say(
        f"a query reads {about.probes} cells and scores {about.candidates} instances exactly: "
        f"{about.recall_at_1:.3f} of the nearest and {about.recall_at_10:.3f} of the ten nearest others "
        f"of {about.queries} instances are found"
    )
    return 0
