"""icgan bank add, remove, list and compact."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from icgan_runtime.banks import change
from icgan_runtime.banks.compact import compact
from icgan_runtime.bundle.living import open_living
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.cli import shared
from icgan_runtime.console import Parser, tell
from icgan_runtime.errors import RequestError
from icgan_runtime.pipeline import Pipeline
from icgan_runtime.server.stage import RELEASES_NAME

ACTIONS = ("add", "remove", "list", "compact")  # second words of `icgan bank`
CHANGES = "ICGAN_CHANGES"
WHERE = (
    "PostgreSQL database that keeps the changes for several servers, postgresql://HOST/NAME (default: that "
    f"of {CHANGES}, else a file in the bundle)"
)


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the commands."""
    add = _command(commands, "add", run_add, "icgan bank add bundles/demo photo.jpg --label Orange")
    add.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="picture, folder of pictures, data set of icgan-train prepare, or .npy of icgan embed",
    )
    add.add_argument(
        "--names", type=Path, metavar="FILE", help="names of the rows of a .npy, one a line (default: none)"
    )
    add.add_argument(
        "--label",
        metavar="CLASS",
        help="number or name, where the bank's instances have classes and SOURCE does not say",
    )
    shared.add_backend(add.add_argument_group("what embeds the pictures"))
    remove = _command(commands, "remove", run_remove, "icgan bank remove bundles/demo 17 --name photo.jpg")
    remove.add_argument(
        "ids",
        nargs="*",
        type=int,
        metavar="ID",
        help="of an instance, as icgan search and bank list print it",
    )
    remove.add_argument(
        "--name", action="append", default=[], help="of an instance's file; give it again for another"
    )
    listed = _command(commands, "list", run_list, "icgan bank list bundles/demo")
    listed.add_argument("--state", metavar="STATE", help="an earlier state (default: the newest)")
    compacted = _command(commands, "compact", run_compact, "icgan bank compact bundles/demo")
    compacted.add_argument(
        "--keep-changes",
        action="store_true",
        help="let the database keep what the bundle holds now, for servers with an older release",
    )


def _command(
    commands: shared.Commands[Parser], name: str, run: Callable[[argparse.Namespace], int], example: str
) -> Parser:
    command = shared.add_command(commands, f"bank {name}", run, example)
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help=shared.BUNDLE)
    command.add_argument("--changes", metavar="ADDRESS", help=WHERE)
    return command


def run_add(options: argparse.Namespace) -> int:
    """Add pictures to a bundle's bank; whatever serves the bundle finds them with its next search.

    What is printed as added is on the disk. A picture that is there under its name is left out, so that the
    same command goes on after it was killed.
    """
    where = _where(options)
    added: list[int] = []
    known, state = 0, None
    with (
        Pipeline.load(
            options.bundle,
            backend=options.backend,
            precision=options.precision,
            search="numpy",
            threads=options.threads,
        ) as pipe,
        change.Writer(options.bundle, where) as writer,
    ):
        for done in change.add(writer, pipe, options.sources, options.names, options.label):
            for number, name in zip(done.ids, done.names, strict=True):
                shared.say_text(options, f"added {number}  {name}".rstrip())
            added += done.ids
            known, state = known + len(done.known), done.state
        route = pipe.route
    if known:
        tell(f"left out: {known} that are in the bank already")
    shared.say_text(options, f"{len(added)} added, the bank is in state {state}")
    shared.say_result(options, route, {"added": added, "known": known, "state": str(state)})
    return 0


def run_remove(options: argparse.Namespace) -> int:
    """Take pictures out of a bundle's bank: they are in no answer from then on.

    Their embeddings, thumbnails and names stay on the disk until icgan bank compact.
    """
    if not options.ids and not options.name:
        options.parser.error("which? give an ID or --name")
    with change.Writer(options.bundle, _where(options)) as writer:
        gone, state = change.remove(writer, options.ids, options.name)
    shared.say_text(options, f"{len(gone)} removed, the bank is in state {state}")
    shared.say_json(options, {"removed": list(gone), "state": str(state)})
    return 0


def run_list(options: argparse.Namespace) -> int:
    """The instances of a bundle's bank: id, file, class; and its state, which answers name."""
    living, log = open_living(Bundle.open(_bundle(options)), _where(options), options.state)
    log.close()
    bank = living.bank()
    removed = len(living.base) + len(living.added_ids) - len(bank)
    shared.say_text(
        options,
        f"{len(bank)} instances, state {living.state}: {len(living.base)} stored, "
        f"{len(living.added_ids)} added and {removed} removed since the bank was written",
    )
    rows = []
    for row, number in enumerate(bank.ids.tolist()):
        about: dict[str, object] = {"id": number}
        if bank.names is not None:
            about["name"] = bank.names[row]
        if bank.labels is not None:
            called = bank.classes(bank.labels[row : row + 1])
            about["class"] = called[0] if called and called[0] else int(bank.labels[row])
        shared.say_text(options, "  ".join(str(value) for value in about.values()))
        rows.append(about)
    shared.say_json(options, {"state": str(living.state), "instances": rows})
    return 0


def run_compact(options: argparse.Namespace) -> int:
    """Write the changes of a bundle's bank into it: what was removed is on the disk no longer.

    The bundle is written anew beside the old one and takes its place in one moment. Earlier states of the
    bank cannot come back. Other copies of the bundle, and releases of it in repositories, are as they were.
    """
    base = compact(_bundle(options), _where(options), options.keep_changes)
    if base is None:
        shared.say_text(options, f"{options.bundle}: nothing has changed")
    else:
        shared.say_text(options, f"wrote {options.bundle}: its bank is stored in state {base.state}")
    shared.say_json(options, {"state": None if base is None else str(base.state)})
    return 0


def _bundle(options: argparse.Namespace) -> Path:
    """The bundle that is named. RequestError for a repository, which follows one."""
    path: Path = options.bundle
    if (path / RELEASES_NAME).is_file():
        raise RequestError("bundle", f"{path} is a repository: name the bundle whose changes it follows")
    return path


def _where(options: argparse.Namespace) -> str:
    _bundle(options)
    where: str = options.changes or os.environ.get(CHANGES, "")
    return where
