"""icgan bank."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from icgan_runtime.banks.write import BankOptions, write_new_bank
from icgan_runtime.bundle.coded import CODING_HELP, CODINGS
from icgan_runtime.bundle.manifest import MAX_NEIGHBOURS, MAX_RESOLUTION
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.cli import shared
from icgan_runtime.console import Parser
from icgan_runtime.errors import RequestError
from icgan_runtime.pipeline import Pipeline


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(
        commands, "bank", run, "icgan bank bundles/demo --from photos --out bundles/mine"
    )
    command.add_argument("bundle", metavar="BUNDLE", help=shared.BUNDLE)
    command.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="SOURCE",
        help="folder of pictures (its sub-folders are classes if all lie in such), data set of icgan-train "
        "prepare, or .npy of icgan embed",
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="BUNDLE",
        help="bundle to write; one that is there is replaced",
    )
    command.add_argument(
        "--instances",
        type=int,
        metavar="M",
        help="store at most M, spread over all by k-means (default: all)",
    )
    command.add_argument(
        "--neighbours", type=int, default=10, metavar="K", help="of a search result (default: %(default)s)"
    )
    command.add_argument(
        "--thumbnails",
        type=int,
        default=64,
        metavar="PIXELS",
        help="largest side kept of a picture, 0 for none (default: %(default)s)",
    )
    command.add_argument("--embeddings", choices=CODINGS, default="float32", help=CODING_HELP)
    command.add_argument("--no-names", action="store_true", help="leave the names of the files out")
    command.add_argument(
        "--names", type=Path, metavar="FILE", help="names of the rows of a .npy, one a line (default: none)"
    )
    command.add_argument(
        "--licence",
        help="of the pictures (default: what SOURCE says: dataset.json, source.json, LICENSE)",
    )
    shared.add_where(command)


def run(options: argparse.Namespace) -> int:
    """The same model with other stored pictures: a bundle with a new bank.

    Graphs are copied, so nothing is exported and torch is not needed. samples.npz keeps its pinned pictures.
    """
    limits = (("neighbours", MAX_NEIGHBOURS), ("instances", 1 << 32), ("thumbnails", MAX_RESOLUTION))
    for name, most in limits:
        value, least = getattr(options, name), 0 if name == "thumbnails" else 1
        if value is not None and not least <= value <= most:
            raise RequestError(name, f"{value}, expected {least}..{most}")
    out: Path = options.out
    if out.exists() and not (out / "manifest.json").exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError("out", f"{out} exists and is no bundle: choose another place")
    if out.resolve() == Path(options.bundle).resolve():
        raise RequestError("out", f"{out} is the bundle itself: name another folder")
    began = time.monotonic()
    wanted = BankOptions(
        options.instances,
        options.neighbours,
        options.thumbnails,
        not options.no_names,
        options.names,
        licence=options.licence,
        embeddings=options.embeddings,
    )
    where = {name: getattr(options, name) for name in shared.IN_PROCESS}
    with Pipeline.load(options.bundle, **where) as pipe:
        bank = write_new_bank(pipe, Bundle.open(options.bundle), options.source, out, wanted)
        route = pipe.route
    seconds = time.monotonic() - began
    shared.say_text(options, f"wrote {out}: {len(bank)} instances, {seconds:.1f} s")
    shared.say_result(options, route, {"out": str(out), "instances": len(bank)})
    return 0
