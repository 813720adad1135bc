"""What `icgan synthesize` keeps of the bare generator's rate, interleaved, and how its memory grows.

    python -m benchmarks.synthesize bundles/demo --images 320 --rounds 5 --out bench/synthesize
    python -m benchmarks.synthesize bundles/demo --memory 1000 20000 --out bench/synthesize

The bare generator runs batches of 32 and throws its images away: no noise drawn, none encoded, nothing
written. `--memory` runs the command once in a process of its own and reads its resident set as the variants
reach each of the numbers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import about, leave, page, table
from icgan_runtime.bench import interleave
from icgan_runtime.chain import MAX_BATCH
from icgan_runtime.synthesize.recipe import IMAGES, Settings
from icgan_runtime.synthesize.work import Job, Worker

LIBRARIES = ("onnxruntime", "numpy", "pillow")
WATCHED = """
import json, sys
from pathlib import Path
from icgan_runtime.synthesize.recipe import Settings
from icgan_runtime.synthesize.work import Job, Worker

bundle, rows, out, threads, *marks = sys.argv[1:]
worker = Worker.open(Job(rows, out, bundle, threads=int(threads), settings=Settings(per=10)))
made, seen = 0, {}
for number in range(worker.recipe.units):
    made += worker.make(number)[0]
    if str(made) in marks:
        status = Path("/proc/self/status").read_text()
        seen[made] = int(status.split("VmRSS:")[1].split()[0]) / 1024
        print(f"{made} variants, {seen[made]:.1f} MiB", file=sys.stderr, flush=True)
print(json.dumps(seen))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--images", type=int, default=320, help="of a round, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--processor",
        action="store_true",
        help="processor time instead of time, for a machine that others use",
    )
    parser.add_argument("--memory", type=int, nargs="+", metavar="N", help="thousands of variants")
    parser.add_argument("--out", type=Path, help="folder of the report")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="synthesize-") as scratch:
        if args.memory:
            memory(args, Path(scratch))
        else:
            rate(args, Path(scratch))


def rate(args: argparse.Namespace, scratch: Path) -> None:
    """Rounds of the bare generator and of a run into each format of images."""
    rows = unit_rows(args.bundle, args.images // 10)
    np.save(scratch / "rows.npy", rows)
    workers = {
        kind: Worker.open(
            Job(
                str(scratch / "rows.npy"),
                str(scratch / kind),
                args.bundle,
                threads=args.threads,
                settings=Settings(image=kind, shard=args.images),
            )
        )
        for kind in IMAGES
    }
    chain: Any = workers["png"].chain
    feeds = {
        "noise": np.random.default_rng(0).standard_normal((MAX_BATCH, chain.model.dim_z)).astype(np.float32),
        "embedding": np.resize(rows, (MAX_BATCH, rows.shape[1])),
    }

    def bare() -> None:
        for _ in range(args.images // MAX_BATCH):
            chain.generator.run(feeds)

    def whole(worker: Worker) -> None:
        for number in range(worker.recipe.units):
            worker.make(number)

    work = {"bare generator": bare} | {
        f"synthesize, {name}": lambda worker=worker: whole(worker) for name, worker in workers.items()
    }
    clock = time.process_time if args.processor else time.perf_counter
    timings = interleave(work, args.rounds, warm_up=1, clock=clock)
    base = timings["bare generator"]
    found = [
        {
            "what": name,
            "images_per_second": args.images / timing.median,
            "share": timing.ratio(base),
        }
        for name, timing in timings.items()
    ]
    report = about("benchmarks.synthesize", LIBRARIES) | {
        "threads": args.threads,
        "processor_time": args.processor,
        "rows": found,
    }
    cells = [[row["what"], f"{row['images_per_second']:.1f}", f"{row['share']:.3f}"] for row in found]
    unit = "images per second of processor time" if args.processor else "images/s"
    notes = f"threads: {args.threads}; {args.rounds} rounds of {args.images} images of {chain.model.name}."
    text = page("synthesize beside the bare generator", report, notes, table(["what", unit, "share"], cells))
    leave(report, text, args.out, "rate")


def memory(args: argparse.Namespace, scratch: Path) -> None:
    """Resident memory as the variants reach some numbers."""
    np.save(scratch / "rows.npy", unit_rows(args.bundle, max(args.memory) // 10))
    words = [
        args.bundle,
        str(scratch / "rows.npy"),
        str(scratch / "out"),
        str(args.threads),
        *map(str, args.memory),
    ]
    done = subprocess.run([sys.executable, "-c", WATCHED, *words], stdout=subprocess.PIPE, check=True)
    seen = {int(made): mib for made, mib in json.loads(done.stdout).items()}
    size = sum(path.stat().st_size for path in (scratch / "out").iterdir()) >> 20
    shutil.rmtree(scratch / "out")
    report = about("benchmarks.synthesize", LIBRARIES) | {"resident_mib": seen, "written_mib": size}
    text = page(
        "Memory of synthesize",
        report,
        f"threads: {args.threads}; {size} MiB were written.",
        table(["variants", "resident MiB"], [[made, f"{mib:.1f}"] for made, mib in seen.items()]),
    )
    leave(report, text, args.out, "memory")


def unit_rows(bundle: str, count: int) -> Any:
    """Random embeddings [count, D]."""
    width = json.loads((Path(bundle) / "manifest.json").read_text())["model"]["embedding_dim"]
    rows = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
