"""Is a search worth its pictures? Guided and inverted images beside the best of as many draws, and the time.

    python -m benchmarks.steer bundles/demo examples/photos/*.jpg --lpips WEIGHTS --out bench/steer

guide: for each photo, and for the mixture of all, the brightness of the middle less that of the whole is made
large by 100 iterations of 16 images. Beside it the best of as many draws of the same space: how many of their
standard deviations lie between the two. invert: LPIPS (AlexNet) of what is found to the photo at the model's
resolution, beside the nearest of 1,000 draws of the same embedding, chosen by LPIPS itself; its weights:
`icgan-train fetch lpips-alexnet --out DIR`. Once by the comparison that needs no network, once by LPIPS as
`icgan-export lpips` writes it. A sheet shows for each photo: the photo, a draw, the brightest
draw, the guided image, the draw again, the nearest draw, the inverted image.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import about, leave, page, table
from icgan_export.lpips import lpips_graph
from icgan_runtime import Pipeline, images, sheets
from icgan_runtime.request import make_request
from icgan_runtime.steer.space import Space
from icgan_training.networks.lpips import Lpips, load_lpips

DRAWS = 1000


def bright_middle(pictures: np.ndarray) -> np.ndarray:
    """Grey levels by which the middle quarter is brighter than the whole."""
    grey = pictures.astype(np.float32).mean(axis=-1)
    quarter = grey.shape[1] // 4
    middle = grey[:, quarter:-quarter, quarter:-quarter]
    return middle.mean(axis=(1, 2)) - grey.mean(axis=(1, 2))


def draws(pipe: Pipeline, embeddings: np.ndarray, count: int) -> np.ndarray:
    """Random images of the space that a search goes through."""
    space = Space(pipe.model, embeddings, make_request(1, 0, 1.0, "query", None, 0))
    rng, found = np.random.default_rng(0), []
    for _ in range(0, count, 16):
        points = rng.normal(size=(16, space.dim))
        found.append(pipe.chain.draw_latents(space.latents(space.noise(points), space.weights(points))))
    return np.concatenate(found)[:count]


def guided(
    pipe: Pipeline, name: str, embeddings: np.ndarray, iterations: int
) -> tuple[dict[str, Any], list[Any]]:
    """A search, the draws beside it, and the three images to look at."""
    wall, processor = time.perf_counter(), time.process_time()
    found = pipe.guide(embeddings, bright_middle, iterations=iterations)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    random = draws(pipe, embeddings, iterations * 16)
    scores = bright_middle(random)
    best = float(scores.max())
    row = {
        "pictures": name,
        "guided": float(found.scores[0]),
        "best_draw": best,
        "mean_draw": float(scores.mean()),
        "deviation": float(scores.std()),
        "deviations_above": (float(found.scores[0]) - best) / float(scores.std()),
        "wall_s": wall,
        "processor_s": processor,
    }
    return row, [random[0], random[scores.argmax()], found.images[0]]


def distances(lpips: Lpips, photo: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """LPIPS of pictures [N, R, R, 3] to a photo."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 50):
            some = torch.from_numpy(pictures[start : start + 50])
            parts.append(lpips(some, torch.from_numpy(photo)[None].expand_as(some)).numpy())
    return np.concatenate(parts)


def inverted(
    pipe: Pipeline, lpips: Lpips, graph: Path, photo: str, iterations: int
) -> tuple[dict[str, Any], list[Any]]:
    """A search for a photo, and the draw of its embedding that is nearest to it."""
    shown = images.load(photo, pipe.model.resolution)
    processor = time.process_time()
    plain = pipe.invert(photo, iterations=iterations)
    between = time.process_time()
    found = pipe.invert(photo, features=graph, iterations=iterations)
    after = time.process_time()
    random = pipe.generate(photo, n=DRAWS).images
    near = distances(lpips, shown, random)
    row = {
        "photo": Path(photo).name,
        "inverted": float(distances(lpips, shown, plain.images)[0]),
        "inverted_by_lpips": float(distances(lpips, shown, found.images)[0]),
        "nearest_draw": float(near.min()),
        "mean_draw": float(near.mean()),
        "processor_s": between - processor,
        "processor_by_lpips_s": after - between,
    }
    return row, [random[0], random[near.argmin()], found.images[0]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("photos", nargs="+")
    parser.add_argument(
        "--lpips", type=Path, required=True, help="weights of icgan-train fetch lpips-alexnet"
    )
    parser.add_argument(
        "--iterations", type=int, default=100, help="of a guided search (default: %(default)s)"
    )
    parser.add_argument("--invert", type=int, default=200, help="iterations of those (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lpips = load_lpips(options.lpips)
    guides, inverses, strips = [], [], []
    folder = tempfile.TemporaryDirectory()
    graph = Path(folder.name) / "lpips.onnx"
    graph.write_bytes(lpips_graph(lpips).SerializeToString())
    with folder, Pipeline.load(options.bundle, threads=options.threads) as pipe:
        for photo in options.photos:
            row, seen = guided(pipe, Path(photo).name, pipe.embed(photo), options.iterations)
            guides.append(row)
            print(row, flush=True)
            back, found = inverted(pipe, lpips, graph, photo, options.invert)
            inverses.append(back)
            strips += [images.load(photo, pipe.model.resolution), *seen, *found]
            print(back, flush=True)
        if len(options.photos) > 1:
            everything = pipe.embed(list(options.photos))
            guides.append(guided(pipe, "all", everything, options.iterations)[0])
    report = about("benchmarks.steer", ["onnxruntime", "cmaes", "numpy", "torch"])
    report |= {"threads": options.threads, "guide": guides, "invert": inverses}
    text = page(
        "Steering",
        report,
        f"{options.iterations} iterations of 16 guided, {options.invert} inverted, beside {DRAWS} draws.",
        table(
            ["photo", "guided", "best of as many draws", "deviations above", "s", "processor s"],
            [
                [
                    each["pictures"],
                    f"{each['guided']:.1f}",
                    f"{each['best_draw']:.1f}",
                    f"{each['deviations_above']:.1f}",
                    f"{each['wall_s']:.1f}",
                    f"{each['processor_s']:.1f}",
                ]
                for each in guides
            ],
        )
        + "\n"
        + table(
            [
                "photo",
                "LPIPS, inverted",
                "by LPIPS",
                "nearest of 1,000 draws",
                "mean draw",
                "processor s",
                "by LPIPS",
            ],
            [
                [
                    each["photo"],
                    f"{each['inverted']:.3f}",
                    f"{each['inverted_by_lpips']:.3f}",
                    f"{each['nearest_draw']:.3f}",
                    f"{each['mean_draw']:.3f}",
                    f"{each['processor_s']:.1f}",
                    f"{each['processor_by_lpips_s']:.1f}",
                ]
                for each in inverses
            ],
        ),
    )
    leave(report, text, options.out, "steer")
    if options.out is not None:
        sheets.write_picture(options.out / "steer.png", sheets.grid(np.stack(strips), 7), "out")


if __name__ == "__main__":
    main()
