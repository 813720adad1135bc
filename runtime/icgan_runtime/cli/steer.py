"""icgan rank, interpolate, guide, invert."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from icgan_runtime import sheets
from icgan_runtime.cli import shared
from icgan_runtime.cli.follow import EMBEDDINGS, add_instance, followed, query
from icgan_runtime.cli.marking import add_marks, kind_of, say_written
from icgan_runtime.console import Parser, tell
from icgan_runtime.errors import RequestError
from icgan_runtime.images import Picture
from icgan_runtime.pipeline import F32, Pipeline
from icgan_runtime.steer.scorers import Scorer, as_features, onnx_scorer, text_scorer
from icgan_runtime.steer.steered import Steered

WORDS = ("image_encoder", "text_encoder", "tokenizer")
BEST = "sheet of the images, best first, as .png, .jpg or .webp; or a folder, for one PNG file per image"
MORE = f"; or a {EMBEDDINGS} of `icgan embed`, each row of which is one"

Find = Callable[[argparse.Namespace, Pipeline, list[Picture | F32]], Steered]


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the commands."""
    rank = _add(
        commands,
        "rank",
        rank_pictures,
        "icgan rank bundles/demo photo.jpg --scorer score.onnx -n 4 --of 64 --out best.png",
        ("best.png", BEST),
    )
    rank.add_argument("-n", type=int, default=4, help="images to keep (default: %(default)s)")
    rank.add_argument("--of", type=int, default=64, metavar="N", help="of so many (default: %(default)s)")
    _add_scorer(rank)
    way = _add(
        commands,
        "interpolate",
        interpolate_pictures,
        "icgan interpolate bundles/demo apples.jpg pears.jpg --out path.webp",
        ("path.webp", "animated .webp; as .png or .jpg a sheet of all images, or a folder of PNG files"),
    )
    way.add_argument("--frames", type=int, default=24, metavar="N", help="images (default: %(default)s)")
    way.add_argument(
        "--end-seed", type=int, metavar="N", help="seed of the last image (default: that of --seed)"
    )
    way.add_argument(
        "--frame-ms",
        type=int,
        default=80,
        metavar="MS",
        help="milliseconds that each image is shown (default: %(default)s)",
    )
    guide = _add(
        commands,
        "guide",
        guide_pictures,
        "icgan guide bundles/demo photo.jpg --scorer score.onnx --out guided.png",
        ("guided.png", BEST),
    )
    _add_effort(guide, 100)
    _add_scorer(guide)
    inverse = _add(
        commands,
        "invert",
        invert_picture,
        "icgan invert bundles/demo photo.jpg --out inverted.png",
        ("inverted.png", BEST),
    )
    _add_effort(inverse, 200)
    inverse.add_argument(
        "--features",
        metavar="FILE",
        help="ONNX file that sees how alike images are: an image in, numbers out; "
        "LPIPS: icgan-export lpips (default: colours, scale by scale, and the encoder)",
    )


def rank_pictures(options: argparse.Namespace) -> int:
    """The best of many images that follow a picture, by what a scorer says of them."""
    scorer = _scorer(options)

    def find(options: argparse.Namespace, pipe: Pipeline, queries: list[Picture | F32]) -> Steered:
        if len(queries) != 1:
            options.parser.error("rank follows one PICTURE")
        return pipe.rank(queries[0], scorer, n=options.n, of=options.of, **_settings(options))

    return _run(options, find)


def interpolate_pictures(options: argparse.Namespace) -> int:
    """Images on the way from one picture and seed to another picture, another seed, or both."""

    def find(options: argparse.Namespace, pipe: Pipeline, queries: list[Picture | F32]) -> Steered:
        if len(queries) > 2:
            options.parser.error("interpolate goes from one PICTURE to another")
        start, *end = queries
        way = {"frames": options.frames, "end_seed": options.end_seed}
        return pipe.interpolate(start, end[0] if end else None, **way, **_settings(options))

    return _run(options, find)


def guide_pictures(options: argparse.Namespace) -> int:
    """Images that a scorer likes, by a search over the noise and, of several pictures, their mixture."""
    scorer = _scorer(options)

    def find(options: argparse.Namespace, pipe: Pipeline, queries: list[Picture | F32]) -> Steered:
        return pipe.guide(queries, scorer, **_effort(options), **_settings(options))

    return _run(options, find)


def invert_picture(options: argparse.Namespace) -> int:
    """The noise of which the image is most like a picture, and its mixture with further PICTUREs."""

    seen = None if options.features is None else as_features(options.features, options.threads)

    def find(options: argparse.Namespace, pipe: Pipeline, queries: list[Picture | F32]) -> Steered:
        picture, *among = queries
        if isinstance(picture, np.ndarray):
            raise RequestError("picture", "an embedding, expected a picture file to compare with")
        return pipe.invert(
            picture, among=among or None, features=seen, **_effort(options), **_settings(options)
        )

    return _run(options, find)


def _run(options: argparse.Namespace, find: Find) -> int:
    """Look for images and write them."""
    out = Path(options.out)
    into_folder = sheets.names_folder(options.out)
    is_film = options.frames is not None and out.suffix.lower() == ".webp"
    if not into_folder:
        sheets.file_format(out, "out")  # refused before the work is done
    kind = kind_of(options)
    with shared.open_pipeline(options) as pipe:
        queries = [query(pipe, each) for each in followed(options, options.pictures)]
        found, route = find(options, pipe, queries), pipe.route
    origin = (not options.no_mark, options.sign_key, options.embedding)
    if is_film:
        found.animate(out, options.frame_ms, *origin)
    else:
        found.save(options.out, *origin)
    images = _images_json(found)
    for place, each in enumerate(images if found.scores is not None else []):
        where = f" (sample {each['sample']})" if "sample" in each else ""
        shared.say_text(options, f"{place}: score {each['score']:.4g}{where}")
    say_written(options, out, kind, len(images) if into_folder else None)
    data = {"out": str(out), "seed": options.seed, "n": len(images), "mark": kind, "images": images}
    shared.say_result(options, route, data)
    return 0


def _images_json(found: Steered) -> list[dict[str, Any]]:
    """Of each image its score, and its number in the seed, where it has them."""
    images: list[dict[str, Any]] = [{} for _ in found.images]
    for row, image in enumerate(images):
        image |= {} if found.scores is None else {"score": float(found.scores[row])}
        image |= {} if found.samples is None else {"sample": int(found.samples[row])}
        image |= {} if found.weights is None else {"weights": found.weights[row].tolist()}
    return images


def _add(
    commands: shared.Commands[Parser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    example: str,
    out: tuple[str, str],
) -> Parser:
    """What the four share."""
    command = shared.add_command(commands, name, run, example)
    command.set_defaults(frames=None)
    shared.add_pipeline(command, MORE)
    add_instance(command)
    shared.add_noise(command)
    command.add_argument("--label", type=int, metavar="N", help="class, for models with labels")
    file, words = out
    command.add_argument("--out", default=file, metavar="FILE", help=f"{words} (default: %(default)s)")
    add_marks(command)
    return command


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {"seed": options.seed, "truncation": options.truncation, "label": options.label}


def _add_effort(command: Parser, iterations: int) -> None:
    command.add_argument(
        "-n", type=int, default=1, help="images, each of a search of its own (default: %(default)s)"
    )
    command.add_argument(
        "--iterations", type=int, default=iterations, metavar="N", help="of a search (default: %(default)s)"
    )
    command.add_argument(
        "--population", type=int, default=16, metavar="N", help="images of each (default: %(default)s)"
    )


def _effort(options: argparse.Namespace) -> dict[str, Any]:
    def progress(done: int, best: float) -> None:
        if sys.stderr.isatty() or done % 25 == 0:
            tell(f"{done} of {options.n * options.iterations} iterations, best score {best:.4g}")

    names = ("n", "iterations", "population")
    return {name: getattr(options, name) for name in names} | {"progress": progress}


def _add_scorer(command: Parser) -> None:
    group = command.add_argument_group("what is wanted (docs/steering.md): a file that scores, or words")
    group.add_argument("--scorer", metavar="FILE", help="ONNX file: an image in, a score out")
    group.add_argument("--text", metavar="WORDS", help="what is to be seen, with the three files below")
    group.add_argument("--image-encoder", metavar="FILE", help="ONNX file of a pair like CLIP's")
    group.add_argument("--text-encoder", metavar="FILE", help="the other one: input_ids in")
    group.add_argument("--tokenizer", metavar="FILE", help="its tokenizer.json")


def _scorer(options: argparse.Namespace) -> Scorer:
    """What the options ask for. Ends the command where they are not one thing and whole."""
    given = [name for name in WORDS if getattr(options, name) is not None]
    if (options.scorer is None) == (options.text is None):
        options.parser.error("give one of --scorer and --text")
    if options.scorer is not None:
        if given:
            options.parser.error(f"--{given[0].replace('_', '-')} means nothing without --text")
        return onnx_scorer(options.scorer, options.threads)
    if len(given) < len(WORDS):
        options.parser.error("--text needs --image-encoder, --text-encoder and --tokenizer")
    images, texts, tokenizer = (getattr(options, name) for name in WORDS)
    return text_scorer(options.text, images, texts, tokenizer, threads=options.threads)
