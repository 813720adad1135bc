"""What several commands share: where they run, and what they print."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icgan_runtime.backends.select import BACKENDS
from icgan_runtime.bundle.manifest import PRECISIONS
from icgan_runtime.client.connection import options_from_environment
from icgan_runtime.console import Parser, say, tell
from icgan_runtime.images import FORMATS
from icgan_runtime.pipeline import Pipeline
from icgan_runtime.request import Neighbours
from icgan_runtime.route import Route
from icgan_runtime.search.choose import SEARCHES

BUNDLE = "folder that icgan-export bundle wrote"
URL = "a server instead of a bundle: grpc://localhost:8001 or http://localhost:8000"
THREADS = "threads per graph, 0 for one per core (default: %(default)s)"

SHOWN = 3  # neighbours in one line

# Options of `add_where` that a server has chosen already.
IN_PROCESS = ("backend", "precision", "search", "threads", "state")

Commands = argparse._SubParsersAction  # argparse has no public name for it


def add_command(
    commands: Commands[Parser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    example: str,
    *,
    has_json: bool = True,
) -> Parser:
    """A command described by the docstring of `run`, its help opening with a runnable example."""
    summary = (run.__doc__ or "").strip()
    command = commands.add_parser(
        name, help=summary.splitlines()[0], description=f"example: {example}\n\n{summary}"
    )
    command.set_defaults(run=run, parser=command)
    if has_json:
        command.add_argument(
            "--json", action="store_true", help="print the result as one line of JSON instead of text"
        )
    return command


def add_pipeline(command: Parser, more: str = "", alone: bool = False) -> None:
    """BUNDLE or --url, the pictures (and what `more` says can stand for one), and what runs them.

    `alone`: a server can be asked without any picture.
    """
    optional: dict[str, Any] = {"nargs": "?"} if alone else {}
    command.add_argument("bundle", metavar="BUNDLE", help=f"{BUNDLE}; leave it out with --url", **optional)
    command.add_argument(
        "pictures",
        nargs="*",
        metavar="PICTURE",
        help=f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]} file{more}",
    )
    add_where(command).add_argument("--url", help=URL)


def add_where(command: Parser) -> argparse._ArgumentGroup:
    """What runs the graphs; the group is for `--url` to join."""
    group = command.add_argument_group(
        "where it runs (in this process without --url, which excludes the others)"
    )
    add_backend(group)
    group.add_argument(
        "--search",
        choices=SEARCHES,
        default="auto",
        help="how neighbours are found; faiss-ivf is approximate (default: %(default)s, faiss where it is "
        "installed)",
    )
    group.add_argument(
        "--state",
        metavar="STATE",
        help="of a bank that changes, as an answer named it: 12-9f86d081884c7d65 (default: the newest)",
    )
    return group


def add_backend(group: argparse._ArgumentGroup) -> None:
    """The library that runs the graphs, and how."""
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="what runs the graphs (default: %(default)s, the best that is here)",
    )
    group.add_argument(
        "--precision", choices=PRECISIONS, help="of the graphs (default: the highest in the bundle)"
    )
    group.add_argument("--threads", type=int, default=0, metavar="N", help=THREADS)


def open_pipeline(options: argparse.Namespace, alone: bool = False) -> Pipeline:
    """The pipeline that the options ask for. With --url, what stands in the bundle's place is a picture.

    `alone`: there may be no picture.
    """
    if options.url is not None:
        options.pictures = [options.bundle, *options.pictures] if options.bundle else options.pictures
    elif options.bundle is None:
        options.parser.error("the following arguments are required: BUNDLE")
    if not options.pictures and not getattr(options, "instance", None) and not alone:
        options.parser.error("the following arguments are required: PICTURE")
    if options.url is not None:
        refuse_given(options, IN_PROCESS, "is the server's choice: leave it out beside --url")
        return Pipeline.connect(options.url, **options_from_environment())
    return Pipeline.load(
        options.bundle,
        backend=options.backend,
        precision=options.precision,
        search=options.search,
        threads=options.threads,
        state=options.state,
    )


def refuse_given(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Refuse options that this use of a command would ignore, unless they are at their defaults."""
    flags = {
        action.dest: action.option_strings[-1] for action in options.parser._actions if action.option_strings
    }
    for name in names:
        if getattr(options, name) != options.parser.get_default(name):
            options.parser.error(f"{flags[name]} {why}")


def split_list(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def say_text(options: argparse.Namespace, text: str) -> None:
    """Print `text` for people, unless JSON is asked for."""
    if not options.json:
        say(text)


def say_json(options: argparse.Namespace, value: object) -> None:
    """Print `value` as a line of JSON, if that is asked for."""
    if options.json:
        say(json.dumps(value))


def say_result(options: argparse.Namespace, route: Route, value: Mapping[str, object]) -> None:
    """At the end of a command that runs graphs: on what they ran, on stderr, and all as JSON if asked for."""
    tell(f"route: {route}")
    say_json(options, {"route": route.to_json(), **value})


def nearest_line(picture: str, found: Neighbours) -> str:
    """A picture's neighbours for people, the first of them."""
    count = len(found.ids)
    near = [f"{found.title(place)} ({found.scores[place]:.3f})" for place in range(min(count, SHOWN))]
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    return f"{picture}: nearest {', '.join(near)}{more}"


def nearest_table(picture: str, found: Neighbours) -> str:
    """All of a picture's neighbours for people, a line each: score, id, file, class."""
    lines = [f"{picture}:"]
    for place, (number, score) in enumerate(zip(found.ids, found.scores, strict=True)):
        words = [f"{score:.3f}", f"{number:>8}"]
        words += [found.names[place]] if found.names is not None else []
        if found.classes is not None and found.classes[place]:
            words.append(f"({found.classes[place]})")
        lines.append("  ".join(["", *words]))
    return "\n".join(lines)


def warn_outside(picture: str, found: Neighbours) -> None:
    """A line on stderr about a picture that is unlike anything stored."""
    if found.outside:
        tell(
            f"warning: {picture} is less like any stored picture ({found.scores[0]:.3f}) than 99 % of them "
            f"are to each other ({found.outside_below:.3f}): the model has not learnt such pictures"
        )


def nearest_json(picture: str, found: Neighbours) -> dict[str, Any]:
    """A picture and its neighbours as plain JSON."""
    rows = []
    for place, (number, score) in enumerate(zip(found.ids.tolist(), found.scores.tolist(), strict=True)):
        row = {"id": number, "score": score}
        if found.labels is not None:
            row["label"] = int(found.labels[place])
        row |= {"class": found.classes[place]} if found.classes is not None else {}
        row |= {"name": found.names[place]} if found.names is not None else {}
        rows.append(row)
    limit = (
        {}
        if found.outside_below is None
        else {"outside": found.outside, "outside_below": found.outside_below}
    )
    state = {} if found.bank_state is None else {"bank_state": found.bank_state}
    return {"picture": picture, "neighbours": rows, **limit, **state}


def add_noise(command: Parser) -> None:
    """The options --seed and --truncation."""
    command.add_argument(
        "--seed", type=int, default=0, metavar="N", help="same seed, same images (default: %(default)s)"
    )
    command.add_argument(
        "--truncation",
        type=truncation,
        default=1.0,
        metavar="T",
        help="noise within ±2T, T in (0, 1]: less is more typical and less varied; or none (default: 1)",
    )


def truncation(text: str) -> float | None:
    """A number, or none; the type of `--truncation`."""
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number in (0, 1] nor none") from None
