"""Proof by drawing again, measured: what is found after which edit, how alike strangers are, what it costs.

    python -m benchmarks.origin BUNDLE --out bench/origin  # after each edit
    python -m benchmarks.origin BUNDLE --fill --instances 300 --seeds 1000 --backend openvino-bf16 --out ...
    python -m benchmarks.origin BUNDLE --certainty 100 --out bench/origin  # as if of a million candidates
    python -m benchmarks.origin BUNDLE --pairs 50 --out bench/origin  # of each runtime
    python -m benchmarks.origin BUNDLE --strangers 4 --seeds 1000 --out bench/origin  # false matches
    python -m benchmarks.origin BUNDLE --lookup 1000 --seeds 1000 --out bench/origin  # the search's time
    python -m benchmarks.origin BUNDLE --sign-key signer.pem --out bench/origin  # what a signature costs

A key in the weights is measured by benchmarks.weight_key.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from icgan_runtime import Pipeline, images
from icgan_runtime.chain import LocalChain
from icgan_runtime.errors import IcganError
from icgan_runtime.marks.claim import SINGLE
from icgan_runtime.marks.mark import Mark, find_signer, read_marks
from icgan_runtime.origin import recover
from icgan_runtime.origin.chance import Null, fisher
from icgan_runtime.origin.likeness import COARSE, WHOLE, features, grey, unit
from icgan_runtime.origin.prove import BANDS, FALSE_MATCH, MATCH, NOT, PROVED, Judge, Queries, prove

U8 = NDArray[np.uint8]

MILLION = 1_000_000
TIMED = 5  # searches of which the time is taken


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = (round(side * share) for side in image.size)
    return image.crop((x - x // 2, y // 2, image.width - x // 2, image.height - y + y // 2))


def noisy(image: Image.Image, deviation: float) -> Image.Image:
    pixels = np.asarray(image) + np.random.default_rng(0).normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda image: image,
    "JPEG 75": lambda image: jpeg(image, 75),
    "JPEG 50": lambda image: jpeg(image, 50),
    "half size": lambda image: scaled(image, 0.5),
    "twice the size": lambda image: scaled(image, 2),
    "5 % crop": lambda image: cropped(image, 0.05),
    "blur, radius 0.7": lambda image: image.filter(ImageFilter.GaussianBlur(0.7)),
    "noise, 5 levels": lambda image: noisy(image, 5),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by 3 degrees": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "blur, radius 2": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "quarter size": lambda image: scaled(image, 0.25),
}


# who draws, at which precision; who draws it again
PAIRS = [(backend, "fp32") for backend in ("ort-cpu", "openvino", "openvino-bf16")]
PAIRS += [
    (backend, precision) for precision in ("fp16", "bf16", "int8") for backend in ("ort-cpu", "openvino")
]
PROVERS = ("ort-cpu", "openvino")


def edited(pixels: U8, name: str) -> U8:
    return np.asarray(EDITS[name](Image.fromarray(pixels)))


def measure_proof(
    pipe: Pipeline, instances: int, seeds: int, tries: int, rest: int, index: Path, edits: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Share of images whose instance and seed are recovered among all candidates, after each edit.

    The first edit has `tries` images, the others `rest`; then come images that are none of the candidates,
    for which all of them are compared.
    """
    chain = pipe.chain
    assert isinstance(chain, LocalChain)
    queries = stored(pipe, instances)
    settings = recover.Candidates(range(seeds), range(1), 1.0)
    rng = np.random.default_rng(1)
    truth = [(int(rng.integers(instances)), int(rng.integers(seeds))) for _ in range(tries)]
    judges: dict[bytes, Judge] = {}
    for number, name in enumerate(edits):
        some, timed = (truth[:rest], 0) if number else (truth, TIMED)
        yield name, recovered(pipe, chain, queries, settings, some, name, index, judges, timed)
    beyond = [(instance, seeds + seed) for instance, seed in truth[: max(1, tries // 10)]]
    found = recovered(pipe, chain, queries, settings, beyond, "JPEG 75", index, judges, 0)
    yield "JPEG 75, of other seeds", found


def stored(pipe: Pipeline, instances: int) -> Queries:
    """Some stored instances, always the same; fewer are the first of more."""
    assert pipe.bank is not None
    rows = np.random.default_rng(0).permutation(len(pipe.bank))[:instances]
    return Queries(np.asarray(pipe.bank.embeddings[rows]), tuple(map(int, pipe.bank.ids[rows])))


def recovered(
    pipe: Pipeline,
    chain: LocalChain,
    queries: Queries,
    settings: recover.Candidates,
    truth: list[tuple[int, int]],
    edit: str,
    index: Path,
    judges: dict[bytes, Judge],
    timed: int,
) -> dict[str, Any]:
    """What is found of images of these (instance, seed), each edited and without its metadata.

    Ctrl-C ends it early. The first `timed` searches are timed as they are when nothing is known of an
    instance but its fingerprints; the others share what was drawn for it.
    """
    assert queries.ids is not None
    right, wrong, first, took, work, chances, margins = 0, 0, 0, [], [], [], []
    candidates = len(queries.embeddings) * settings.count
    stopped = _stopped_by_hand()
    for number, (instance, seed) in enumerate(truth):
        if stopped.is_set():  # what is there counts
            truth = truth[:number]
            break
        drawn = pipe.generate_from(queries.embeddings[instance], seed=seed).images[0]
        shown = edited(drawn, edit)
        data = images.encode(shown)
        start, busy = time.perf_counter(), time.process_time()
        alone = None if number < timed else judges
        verdict = prove(data, read_marks(data), chain, queries, settings, index, judges=alone)
        if number < timed:
            took.append(time.perf_counter() - start)
            work.append(time.process_time() - busy)
        if verdict.verdict in (PROVED, MATCH):
            chances += [drawing.chance for drawing in verdict.drawings]
            same = (verdict.instance, verdict.seed) == (queries.ids[instance], seed)
            right, wrong = right + same, wrong + (not same)
        # by the fingerprints alone, without stopping at the first match
        best = recover.search(shown, queries.embeddings, recover.Index(chain, settings, index), _never)
        others = [each.cosine for each in best if (each.instance, each.seed) != (instance, seed)]
        first += (best[0].instance, best[0].seed) == (instance, seed)
        if len(others) < len(best):
            own = max(each.cosine for each in best if (each.instance, each.seed) == (instance, seed))
            margins.append(own - max(others))
    found = {
        "tries": len(truth),
        "candidates": candidates,
        "recovered": right / len(truth),
        "recovered, 95 %": wilson(right, len(truth)),
        "false": wrong / len(truth),
        # the chance grows with the candidates that are counted
        "match, counted as a million": sum(chance * MILLION / candidates <= FALSE_MATCH for chance in chances)
        / len(truth),
        "largest_chance": max(chances, default=0.0),
        "first by fingerprint": first / len(truth),
        "fingerprint kept": len(margins) / len(truth),
        "cosine before the next": _spread(margins),
    }
    if timed:
        found |= {
            "timed": len(took),
            "seconds": float(np.median(took)),
            "seconds, most": max(took),
            "processor seconds": float(np.median(work)),
            "processor seconds, most": max(work),
            "peak memory, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    print(edit, json.dumps(found), flush=True)
    return found


def _stopped_by_hand() -> threading.Event:
    """Set by the first Ctrl-C."""
    stopped = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    return stopped


def _never(candidate: recover.Candidate) -> bool:
    return False


def _spread(values: list[float]) -> dict[str, float]:
    """Least, tenth percentile and median; nothing of nothing."""
    names = {"least": 0, "tenth percentile": 10, "median": 50}
    return {name: float(np.percentile(values, at)) for name, at in names.items()} if values else {}


def wilson(right: int, of: int) -> tuple[float, float]:
    """The interval, by Wilson, that holds a share with 95 %, when it was met so often."""
    share, z = right / of, 1.96
    middle, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, (middle - half) / (1 + z * z / of)), min(1.0, (middle + half) / (1 + z * z / of))


def measure_certainty(pipe: Pipeline, tries: int, candidates: int) -> dict[str, float]:
    """Share of images after JPEG 75 that are alike enough to be a match among so many candidates."""
    chain, rng = pipe.chain, np.random.default_rng(9)
    assert isinstance(chain, LocalChain)
    settings, chances = recover.Candidates(range(1), range(1), 1.0), []
    for seed in range(tries):
        embedding = np.asarray(pipe.bank.embeddings[rng.integers(len(pipe.bank))])
        drawn = pipe.generate_from(embedding, seed=seed).images[0]
        found = Judge(chain, embedding, settings).best(edited(drawn, "JPEG 75"), drawn, 2 * candidates)
        chances.append(found.chance)
        print(f"{seed + 1}: {found.chance:.1e}", flush=True)
    sure = float((np.array(chances) <= FALSE_MATCH).mean())
    return {"images": tries, "candidates": candidates, "match": sure, "largest_chance": max(chances)}


def fill_index(pipe: Pipeline, instances: int, seeds: int, folder: Path) -> dict[str, float]:
    """Draw what is not in the index yet: some minutes of it at a time, begun again until it is whole."""
    chain = pipe.chain
    assert isinstance(chain, LocalChain)
    index = recover.Index(chain, recover.Candidates(range(seeds), range(1), 1.0), folder)
    start = time.process_time()
    for embedding in stored(pipe, instances).embeddings:
        for _ in index.blocks(embedding):
            pass
        print(f"{index.drawn} drawn, {time.process_time() - start:.0f} s of processor", flush=True)
    spent = time.process_time() - start
    return {"drawn": index.drawn, "milliseconds of processor each": 1000 * spent / max(1, index.drawn)}


def measure_pairs(bundle: Path, tries: int, out: Path) -> None:
    """What is said of images that one backend drew at one precision, by another in float32."""
    report: dict[str, dict[str, Any]] = {}
    settings = recover.Candidates(range(1), range(1), 1.0)
    for drawn_by, precision in PAIRS:
        try:
            with Pipeline.load(bundle, backend=drawn_by, precision=precision, threads=1) as pipe:
                rows = np.random.default_rng(4).choice(len(pipe.bank), tries, replace=False)
                embeddings = np.asarray(pipe.bank.embeddings[rows])
                results = [pipe.generate_from(each, seed=seed) for seed, each in enumerate(embeddings)]
        except IcganError as error:
            print(f"{drawn_by}, {precision}: not run here ({error})", flush=True)
            continue
        for proved_by in PROVERS:
            with Pipeline.load(bundle, backend=proved_by, precision="fp32", threads=1) as pipe:
                assert isinstance(pipe.chain, LocalChain)
                verdicts = []
                for result, embedding in zip(results, embeddings, strict=True):
                    data = Mark(result.claim(0, 1, SINGLE)).encode(result.images[0], "PNG")
                    given = Queries(embedding[None])
                    verdicts.append(prove(data, read_marks(data), pipe.chain, given, settings))
            told = [each.verdict for each in verdicts]
            drawings = [drawing for each in verdicts for drawing in each.drawings]
            name = f"{drawn_by} {precision}, by {proved_by} fp32"
            report[name] = {"images": tries} | {word: told.count(word) for word in (PROVED, MATCH, NOT)}
            report[name] |= {
                "largest_difference": max(drawing.difference for drawing in drawings),
                "largest_chance": max(drawing.chance for drawing in drawings),
            }
            print(name, json.dumps(report[name]), flush=True)
            write(out, "pairs", report)


def measure_strangers(pipe: Pipeline, instances: int, seeds: int) -> dict[str, Any]:
    """How often unrelated images of one instance are as like as a probability says, and less: counted.

    In each of the bands that images are judged in, alone.
    """
    chain, settings = pipe.chain, recover.Candidates(range(1), range(1), 1.0)
    assert isinstance(chain, LocalChain)
    levels = [10.0**-power for power in range(2, 8)]
    counts, furthest, pairs = np.zeros((len(BANDS), len(levels)), np.int64), [0.0] * len(BANDS), 0
    for row in np.random.default_rng(2).choice(len(pipe.bank), instances, replace=False):
        embedding = np.asarray(pipe.bank.embeddings[row])
        drawn = recover.draw(
            chain, embedding, settings, np.arange(seeds, dtype=np.int64), np.zeros(seeds, np.int64)
        )
        judge = Judge(chain, embedding, settings)
        pairs += seeds * (seeds - 1) // 2
        for at, band in enumerate(BANDS):
            mean, whitening, null = judge.null(WHOLE, band)
            rows = unit((features(grey(drawn), band) - mean) @ whitening)
            cosines = (rows @ rows.T)[np.triu_indices(seeds, 1)]
            furthest[at] = max(furthest[at], (float(fisher(cosines.max())) - null.mean) / null.deviation)
            counts[at] += [int((cosines >= _cosine_of(null, level)).sum()) for level in levels]
            print(f"{band}, {pairs} pairs: {counts[at].tolist()}, {furthest[at]:.2f}", flush=True)
    bands = [f"{band.low}-{band.high}" for band in BANDS]
    counted = {band: (each / pairs).tolist() for band, each in zip(bands, counts, strict=True)}
    return {
        "pairs": pairs,
        "said": levels,
        "counted": counted,
        "furthest": dict(zip(bands, furthest, strict=True)),
    }


def _cosine_of(null: Null, probability: float) -> float:
    """The cosine from which a null says at most so likely, by bisection."""
    low, high = -1.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if null.probability(middle, 1) <= probability else (middle, high)
    return high


def measure_lookup(pipe: Pipeline, instances: int, seeds: int, folder: Path) -> dict[str, float]:
    """Seconds of a search through an index of so many instances and seeds (made up, which takes as long)."""
    chain, rng = pipe.chain, np.random.default_rng(3)
    assert isinstance(chain, LocalChain)
    settings = recover.Candidates(range(seeds), range(1), 1.0)
    index = recover.Index(chain, settings, folder)
    embeddings = unit(rng.standard_normal((instances, chain.model.embedding_dim)))
    made = np.clip(rng.normal(0, 38, (seeds, COARSE.width)), -127, 127).astype(np.int8)
    every, samples = settings.pairs()
    for embedding in embeddings:
        for start in range(0, seeds, recover.BLOCK):
            some = slice(start, start + recover.BLOCK)
            path = index.path(embedding, every[some], samples[some])
            np.save(path, made[some].view(np.uint8))
    picture = pipe.generate_from(pipe.bank.embeddings[0]).images[0]
    clock, processor = time.perf_counter(), time.process_time()
    recover.search(picture, embeddings, index, lambda candidate: False)
    took = {"seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - processor}
    assert index.drawn == 0
    print(f"{instances * seeds} fingerprints: {took}", flush=True)
    return {"candidates": instances * seeds, **took}


def measure_signing(pipe: Pipeline, key: Path) -> dict[str, dict[str, float]]:
    """Bytes and processor time that a signed manifest adds to a file."""
    result, report = pipe.generate_from(pipe.bank.embeddings[0]), {}
    claim, signer = result.claim(0, 1, SINGLE), find_signer(key)
    assert signer is not None
    for kind in ("PNG", "JPEG", "WEBP"):
        plain, took = images.encode(result.images[0], kind), []
        for _ in range(50):
            start = time.process_time()
            signed = signer.sign(plain, kind, claim)
            took.append(time.process_time() - start)
        added = len(signed) - len(plain)
        report[kind] = {"bytes": added, "milliseconds": 1000 * float(np.median(took))}
        print(f"{kind:5} + {added} bytes, {report[kind]['milliseconds']:.2f} ms of processor", flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--instances", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--rest", type=int, metavar="N", help="tries after each edit but the first, if fewer")
    parser.add_argument("--edits", nargs="+", choices=list(EDITS), default=list(EDITS))
    parser.add_argument(
        "--strangers", type=int, default=0, metavar="N", help="instances to count strangers of"
    )
    parser.add_argument("--lookup", type=int, default=0, metavar="N", help="instances of a made-up index")
    parser.add_argument("--fill", action="store_true", help="draw what the index lacks, and no more")
    parser.add_argument("--backend", default="auto", help="what draws (default: %(default)s)")
    parser.add_argument(
        "--certainty", type=int, default=0, metavar="N", help="images to judge as if of a million candidates"
    )
    parser.add_argument("--pairs", type=int, default=0, metavar="N", help="images of each backend to prove")
    parser.add_argument("--sign-key", type=Path, help="measure signing with this key alone")
    parser.add_argument(
        "--name", default="proof", help="of the file of what is found after edits (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.pairs:
        measure_pairs(options.bundle, options.pairs, options.out)
        return
    with Pipeline.load(options.bundle, backend=options.backend, threads=1) as pipe:
        if options.sign_key is not None:
            write(options.out, "signing", measure_signing(pipe, options.sign_key))
        elif options.strangers:
            write(options.out, "strangers", measure_strangers(pipe, options.strangers, options.seeds))
        elif options.lookup:
            made_up = options.out / "made-up"
            write(options.out, "lookup", measure_lookup(pipe, options.lookup, options.seeds, made_up))
        elif options.certainty:
            write(options.out, "certainty", measure_certainty(pipe, options.certainty, MILLION))
        elif options.fill:
            filled = fill_index(pipe, options.instances, options.seeds, options.out / "index")
            write(options.out, "fill", filled)
        else:
            index = options.out / "index"
            tries = (options.tries, options.tries if options.rest is None else options.rest)
            given = (options.instances, options.seeds, *tries, index, options.edits)
            found: dict[str, Any] = {}
            for edit, row in measure_proof(pipe, *given):
                found[edit] = row
                write(options.out, options.name, found)


def write(folder: Path, name: str, found: object) -> None:
    """What was measured, as a file."""
    (folder / f"{name}.json").write_text(json.dumps({name: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
