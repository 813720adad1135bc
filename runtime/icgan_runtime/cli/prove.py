"""icgan prove."""

from __future__ import annotations

import argparse
import contextlib
import math
from functools import partial
from pathlib import Path

import numpy as np

from icgan_runtime import files, images
from icgan_runtime.backends.select import BACKENDS
from icgan_runtime.bundle.arrays import read_npy
from icgan_runtime.chain import LocalChain
from icgan_runtime.cli import shared
from icgan_runtime.console import Parser, tell
from icgan_runtime.errors import RequestError
from icgan_runtime.marks.mark import Marks, read_marks
from icgan_runtime.origin import page
from icgan_runtime.origin.prove import MATCH, PROVED, Queries, Verdict, prove
from icgan_runtime.origin.recover import Candidates
from icgan_runtime.pipeline import Pipeline
from icgan_runtime.request import check_truncation, embedding_rows
from icgan_runtime.rows import CONDITIONS

STATUS = {PROVED: 0, MATCH: 3}
NOT_STATUS = 4


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(
        commands, "prove", run, "icgan prove image.png --bundle bundles/demo --picture photo.jpg"
    )
    command.add_argument(
        "file", type=Path, metavar="FILE", help="the image in question: PNG, JPEG, WEBP, ..."
    )
    command.add_argument("--bundle", required=True, metavar="BUNDLE", help=shared.BUNDLE)
    group = command.add_argument_group("what it follows (one of these, unless the file holds the embedding)")
    group.add_argument(
        "--picture",
        action="append",
        metavar="PICTURE",
        help="the picture that was followed; once more for each further strip of a sheet",
    )
    group.add_argument("--embedding", type=Path, metavar="FILE", help=".npy file of icgan embed")
    group.add_argument("--bank", action="store_true", help="any of the stored instances")
    group = command.add_argument_group("where the file's claim is missing or false, what is searched")
    group.add_argument("--seeds", type=_range, default="0-99", metavar="A-B", help="(default: %(default)s)")
    group.add_argument("--samples", type=_range, default="0-0", metavar="A-B", help="(default: %(default)s)")
    group.add_argument("--truncation", default="1", metavar="T", help="or none (default: %(default)s)")
    group.add_argument("--condition", choices=CONDITIONS, default="query", help="(default: %(default)s)")
    group.add_argument(
        "--index",
        type=Path,
        metavar="DIR",
        help="keep fingerprints of what is drawn here: a later search, or this one begun again, uses them",
    )
    group = command.add_argument_group("how")
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="what draws; openvino-bf16 fills an index in some half of the time (default: %(default)s)",
    )
    group.add_argument("--threads", type=int, default=0, metavar="N", help=shared.THREADS)
    group.add_argument(
        "--trust",
        type=Path,
        metavar="FILE",
        help="PEM certificates of the authorities whose signatures count",
    )
    group.add_argument(
        "--page", type=Path, metavar="FILE", help="HTML page with both images and the difference"
    )


def run(options: argparse.Namespace) -> int:
    """Whether a bundle drew this image: it is drawn again and compared. Status 0: proved.

    Status 3: a match, so alike that chance is excluded, though not in every pixel; 4: not from this bundle,
    as far as was searched; 1: the question cannot be answered.
    """
    given = [options.picture is not None, options.embedding is not None, options.bank]
    if sum(given) > 1:
        options.parser.error("give one of --picture, --embedding, --bank")
    data = images.read(options.file)
    trusted = None if options.trust is None else files.read_bounded(options.trust, 1 << 20)
    marks = read_marks(data, trusted)
    with _open(options, marks) as pipe:
        chain = pipe.chain
        assert isinstance(chain, LocalChain)
        truncation = math.inf if options.truncation == "none" else _number(options.truncation)
        settings = Candidates(options.seeds, options.samples, truncation, options.condition)
        verdict = prove(data, marks, chain, _queries(options, pipe), settings, options.index, _progress)
    if options.page is not None:
        files.write_whole(options.page, page.render(str(options.file), verdict), "page")
    _say(options, verdict)
    return STATUS.get(verdict.verdict, NOT_STATUS)


def _open(options: argparse.Namespace, marks: Marks) -> Pipeline:
    """The bundle, at the precision that the claim names, if it is there."""
    wanted = None if marks.claim is None else marks.claim.source.precision
    if wanted is not None:
        from icgan_runtime.bundle.opened import Bundle

        held = {graph.precision for graph in Bundle.open(options.bundle).manifest.graphs}
        wanted = wanted if wanted in held else None
    load = partial(
        Pipeline.load,
        options.bundle,
        backend=options.backend,
        precision=wanted,
        threads=options.threads,
    )
    claimed = None if marks.claim is None else marks.claim.source.state
    if claimed is not None:  # of a bank that has changed since, perhaps
        with contextlib.suppress(RequestError):
            return load(state=claimed)
    return load()


def _queries(options: argparse.Namespace, pipe: Pipeline) -> Queries | None:
    if options.picture is not None:
        return Queries(pipe.embed(options.picture))
    if options.embedding is not None:
        held = read_npy(files.read_bounded(options.embedding, 1 << 28), str(options.embedding))
        return Queries(embedding_rows(held, pipe.model.embedding_dim))
    if options.bank:
        return Queries(np.asarray(pipe.bank.embeddings), tuple(map(int, pipe.bank.ids)))
    return None


def _say(options: argparse.Namespace, verdict: Verdict) -> None:
    report = verdict.to_json()
    if verdict.seed is not None:
        where = "" if verdict.instance is None else f", instance {verdict.instance}"
        shared.say_text(options, f"{verdict.verdict}: seed {verdict.seed}, sample {verdict.sample}{where}")
    elif verdict.how == "claimed noise":
        shared.say_text(options, f"{verdict.verdict}: drawn from the noise in its claim")
    else:
        shared.say_text(options, f"{verdict.verdict}: {verdict.tried} candidates tried")
    if verdict.verdict == PROVED:
        shared.say_text(options, f"  drawn again, at most {report['largest_difference']} grey levels apart")
    elif verdict.drawings:
        chance = f"{report['false_match_probability']:.1e}"
        words = f"  likeness {report['cosine']:.3f}, by chance with {chance} at most (edit: {verdict.edit})"
        shared.say_text(options, words)
    signature = report["marks"]["signature"]
    state = (
        report["marks"]["kind"]
        if signature is None
        else f"signed by {signature['signer']}: {signature['state']}"
    )
    shared.say_text(options, f"  metadata: {state}")
    for note in verdict.notes:
        shared.say_text(options, f"  {note}")
    shared.say_json(options, report)


def _progress(done: int, of: int, drawn: int) -> None:
    if of > 1 and (done == of or done % max(1, of // 20) == 0):
        tell(f"prove: {done} of {of} instances searched, {drawn} images drawn")


def _number(text: str) -> float:
    try:
        return check_truncation(float(text))
    except ValueError:
        raise RequestError("truncation", f"{text!r}, expected a number in (0, 1] or none") from None


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no range; write A-B") from None
