"""icgan synthesize."""

from __future__ import annotations

import argparse

from icgan_runtime.cli import shared
from icgan_runtime.console import Parser
from icgan_runtime.errors import RequestError
from icgan_runtime.rows import CONDITIONS
from icgan_runtime.synthesize.labels import RULES
from icgan_runtime.synthesize.recipe import FORMATS, IMAGES, Settings
from icgan_runtime.synthesize.run import SUMS, synthesize
from icgan_runtime.synthesize.scores import NONE, SIMILARITY
from icgan_runtime.synthesize.work import Job


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(
        commands, "synthesize", run, "icgan synthesize bundles/demo --from photos/ --per 10 --out variants"
    )
    command.add_argument(
        "bundle", metavar="BUNDLE", nargs="?", help=f"{shared.BUNDLE}; leave it out with --url"
    )
    command.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="SOURCE",
        help="the instances: a folder of pictures, all below it; a folder of icgan-train prepare; a .npy "
        "file of embeddings; or bank",
    )
    command.add_argument("--out", required=True, metavar="FOLDER", help="where the shards go")
    _add_what(command)
    _add_how(command)
    shared.add_where(command).add_argument(
        "--url", action="append", help=f"{shared.URL}; again for more servers of the same model"
    )


def _add_what(command: Parser) -> None:
    given = Settings()
    group = command.add_argument_group("what is generated")
    group.add_argument(
        "--per",
        type=int,
        default=given.per,
        metavar="N",
        help="variants of each instance (default: %(default)s)",
    )
    group.add_argument(
        "--best-of",
        type=int,
        metavar="M",
        help="generate M of each instance and keep the N with the best score",
    )
    group.add_argument(
        "--scorer",
        metavar="SCORER",
        help=f"{SIMILARITY}: of a variant's embedding to its instance's; an .onnx file from `image` (uint8 "
        f"[N, H, W, 3]) to a number, more is better; or {NONE} (default: {SIMILARITY} with --best-of)",
    )
    group.add_argument(
        "--label",
        default="own",
        metavar="RULE",
        help=f"class of each variant, of {', '.join(RULES)}, a number, or a file: .npy with an int64 for "
        "each instance, .csv with lines id,label (default: %(default)s, the instance's)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=given.seed,
        metavar="N",
        help="same seed, same variants (default: %(default)s)",
    )
    group.add_argument(
        "--truncation",
        type=shared.truncation,
        default=given.truncation,
        metavar="T",
        help="noise within ±2T, T in (0, 1]: less is more typical and less varied; or none (default: 1)",
    )
    group.add_argument(
        "--condition",
        choices=CONDITIONS,
        default=given.condition,
        help="what is followed: the instance itself, its nearest stored instance, or one drawn from the k "
        "nearest (default: %(default)s)",
    )


def _add_how(command: Parser) -> None:
    given = Settings()
    group = command.add_argument_group("how it is written, and by how many")
    group.add_argument(
        "--no-mark",
        action="store_true",
        help="write images that do not say they are generated; in the EU their provider may owe a mark",
    )
    group.add_argument(
        "--format",
        choices=FORMATS,
        default=given.format,
        help="tar shards of WebDataset, Parquet as datasets reads it, or folders of files (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--image",
        choices=IMAGES,
        default=given.image,
        help="format of the images; jpeg loses a little and is the quickest (default: %(default)s)",
    )
    group.add_argument(
        "--shard",
        type=int,
        default=given.shard,
        metavar="N",
        help="variants of a shard, the most that is lost when a worker is (default: %(default)s)",
    )
    group.add_argument(
        "--part",
        type=_part,
        default=(0, 1),
        metavar="K/N",
        help="make the K-th of N parts only, K from 0: for N commands at once with the same --out",
    )
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="spread over the Ray cluster there, or over this machine's cores: local",
    )
    group.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="shards in the making at once with --ray, 0 for as many as fit (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Variants of every instance of a data set, in shards that any number of workers write alike.

    Interrupted, killed or out of space: the same command goes on where it stopped.
    """
    scorer = options.scorer or (NONE if options.best_of is None else SIMILARITY)
    if (options.bundle is None) == (options.url is None):
        options.parser.error("give BUNDLE or --url, one of them")
    if options.url is not None:
        shared.refuse_given(options, shared.IN_PROCESS, "is the server's choice: leave it out beside --url")
    if options.workers < 0:
        raise RequestError("workers", f"{options.workers}, expected at least 0")
    if options.workers and options.ray is None:
        options.parser.error("--workers goes with --ray")
    settings = Settings(
        per=options.per,
        best_of=options.best_of,
        seed=options.seed,
        truncation=options.truncation,
        condition=options.condition,
        format=options.format,
        image=options.image,
        mark=not options.no_mark,
        shard=options.shard,
    )
    job = Job(
        source=options.source,
        out=options.out,
        bundle=options.bundle,
        urls=tuple(options.url or ()),
        backend=options.backend,
        precision=options.precision,
        search=options.search,
        threads=options.threads,
        state=options.state,
        label=options.label,
        scorer=scorer,
        settings=settings,
    )
    done = synthesize(job, part=options.part, ray=options.ray, workers=options.workers)
    state = f"complete, see {SUMS}" if done.complete else "not complete yet"
    shards = f"{done.recipe.units} shards of recipe {done.recipe.id}"
    shared.say_text(options, f"wrote {done.written} variants into {options.out}: {shards}, {state}")
    data = {
        "out": options.out,
        "recipe": done.recipe.id,
        "shards": done.recipe.units,
        "written": done.written,
        "skipped": done.skipped,
        "complete": done.complete,
    }
    shared.say_result(options, done.route, data)
    return 0


def _part(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r}, expected K/N with K from 0 to N - 1")
    return int(part), int(parts)
