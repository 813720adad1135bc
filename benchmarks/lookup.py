"""Which lookup for how many instances: latency, recall, memory and time to load of every form.

    python -m benchmarks.lookup --data data/cifar10-32 --counts 1000 100000 1000000 --out bench/lookup

There are no million real embeddings here, so a bank is grown from a real one: rows between a stored embedding
and one of its 50 nearest, turned into `width` dimensions by a fixed rotation that keeps all inner products.
Queries are grown the same way and are not stored. Each form runs in a process of its own: seconds until it
answers (the bank's file is in the page cache; a stored index was written before), resident memory above the
bank's own, milliseconds of single queries, and how often the first and the first ten neighbours are those of
the exact search. Whatever is not timed, the building of an index above all, can go on beside other work: with
--pause the program then waits for a line on its input, so that a busy machine can be made quiet for the
seconds that count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import about, leave, page, table
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.cells import ABOUT_NAME, read_cells
from icgan_runtime.files import atomic_file
from icgan_runtime.search.choose import choose_search

F32 = NDArray[np.float32]
K = 10
QUERIES = 500
ROWS_AT_ONCE = 2000
STORED = "faiss-ivf, stored"
FORMS = ("numpy", "faiss", "faiss-ivf", STORED, "graph")
GRAPH_UP_TO = 100_000  # a larger one passes ONNX's 2 GB
NUMPY_UP_TO = 100_000  # beyond, it is faiss only slower


def grown(embeddings: F32, neighbours: NDArray[np.int64], count: int, width: int, seed: int) -> F32:
    """`count` unit rows among `embeddings` [N, D], each on the way from a row to one of its neighbours."""
    rng = np.random.default_rng(seed)
    dims = embeddings.shape[1]
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), dims)
    rows = np.empty((count, width), np.float32)
    for start in range(0, count, ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        a = rng.integers(0, len(embeddings), len(part))
        b = neighbours[a, rng.integers(0, neighbours.shape[1], len(part))]
        share = rng.uniform(0, 0.5, (len(part), 1)).astype(np.float32)
        between = (1 - share) * embeddings[a] + share * embeddings[b]
        between += rng.standard_normal(between.shape, np.float32) * np.float32(0.1 / np.sqrt(dims))
        part[:, :dims] = signs * between / np.linalg.norm(between, axis=1, keepdims=True)
        part[:, dims:] = 0
        rotate(part)
    return rows


def rotate(rows: F32) -> None:
    """Walsh-Hadamard transform of each row, scaled to keep lengths: spreads every component over all."""
    width = rows.shape[1]
    step = 1
    while step < width:
        pairs = rows.reshape(len(rows), -1, 2, step)
        total = pairs[:, :, 0] + pairs[:, :, 1]
        pairs[:, :, 1] = pairs[:, :, 0] - pairs[:, :, 1]
        pairs[:, :, 0] = total
        step *= 2
    rows /= np.float32(np.sqrt(width))


def grow(folder: Path, embeddings: F32, neighbours: NDArray[np.int64], count: int, width: int) -> None:
    """Write the bank and the queries, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "bank.npy").exists():
        np.save(folder / "queries.npy", grown(embeddings, neighbours, QUERIES, width, seed=1))
        with atomic_file(folder / "bank.npy") as path, path.open("wb") as file:
            np.save(file, grown(embeddings, neighbours, count, width, seed=2))


def opened(folder: Path) -> Bank:
    embeddings = np.load(folder / "bank.npy", mmap_mode="r")
    return Bank("benchmark", embeddings, np.arange(len(embeddings)), None, None)


def store(folder: Path) -> None:
    """Write the index that `icgan index` would write, unless it is there."""
    from icgan_runtime.search.faiss import build_cells

    if not (folder / ABOUT_NAME).exists():
        build_cells(opened(folder)).write(folder)


def indexed(bank: Bank, folder: Path) -> Bank:
    """The bank with the index of its folder, mapped."""

    def array(name: str, *_: object) -> NDArray[Any]:
        return np.load(folder / name, mmap_mode="r")

    return replace(bank, cells=read_cells((folder / ABOUT_NAME).read_bytes(), *bank.embeddings.shape, array))


def measure(form: str, folder: Path, parent: Any) -> None:
    """In a process of its own: send what `form` costs and finds, timing when `parent` says so."""
    bank, queries = opened(folder), np.load(folder / "queries.npy")
    if form == STORED:
        subprocess.run([sys.executable, "-m", "benchmarks.lookup", "--index", str(folder)], check=True)
    before = resident_mib()
    started = time.perf_counter()
    if form == "graph":
        import onnxruntime

        from icgan_export.lower.index import lookup_graph

        model = lookup_graph(np.asarray(bank.embeddings), bank.ids, K, {}).SerializeToString()
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        del model

        def find(rows: F32) -> NDArray[np.int64]:
            ids: NDArray[np.int64] = session.run(["ids"], {"embedding": rows})[0]
            return ids
    else:
        if form == STORED:
            bank = indexed(bank, folder)
        search = choose_search(bank, "faiss-ivf" if form == STORED else form)

        def find(rows: F32) -> NDArray[np.int64]:
            return search(rows, K)[0]

    find(queries[:1])
    seconds = time.perf_counter() - started
    memory = resident_mib() - before
    found = find(queries)
    parent.send(None)
    parent.recv()
    number = QUERIES if len(bank) <= 100_000 or form.startswith("faiss-ivf") else 40
    taken = []
    for row in range(number):
        begun = time.perf_counter()
        find(queries[row : row + 1])
        taken.append(1e3 * (time.perf_counter() - begun))
    p50, p99 = np.percentile(taken, (50, 99))
    parent.send(
        {
            "seconds_to_load": seconds,
            "mib": memory,
            "p50_ms": p50,
            "p99_ms": p99,
            "queries_timed": number,
            "found": found,
        }
    )


def resident_mib() -> float:
    """Anonymous memory: what is mapped from the bank's file belongs to the page cache."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder written by icgan-train prepare")
    parser.add_argument("--width", type=int, default=2048, help="a power of two (default 2048, ResNet-50's)")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--work", type=Path, help="folder that keeps the grown banks for the next time")
    parser.add_argument("--pause", action="store_true", help="wait for a line on stdin before timing")
    parser.add_argument("--out", type=Path)
    if sys.argv[1:2] == ["--index"]:  # in a process of its own, so that its memory is not counted
        store(Path(sys.argv[2]))
        return
    options = parser.parse_args()
    if "faiss" not in options.forms:
        parser.error("--forms: faiss must be among them, the others are compared with it")
    embeddings = np.load(options.data / "embeddings.npy", mmap_mode="r")
    neighbours = np.load(options.data / "neighbours.npy", mmap_mode="r")[:, :50]
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=options.out) as scratch:
        for count in options.counts:
            folder = (options.work or Path(scratch)) / f"{count}x{options.width}"
            grow(folder, embeddings, neighbours, count, options.width)
            exact = None
            for form in sorted(options.forms, key=lambda form: form != "faiss"):  # the measure of the others
                if count > {"graph": GRAPH_UP_TO, "numpy": NUMPY_UP_TO}.get(form, count):
                    continue
                print(f"{count} instances, {form}", file=sys.stderr, flush=True)
                here, there = context.Pipe()
                process = context.Process(target=measure, args=(form, folder, there))
                process.start()
                here.recv()
                if options.pause:
                    print("ready to be timed: send a line", file=sys.stderr, flush=True)
                    sys.stdin.readline()
                here.send(None)
                row = here.recv()
                print("timed", file=sys.stderr, flush=True)
                process.join()
                found = row.pop("found")
                exact = found if form == "faiss" else exact
                assert exact is not None
                overlap = [len(set(a) & set(b)) / K for a, b in zip(found, exact, strict=True)]
                row |= {
                    "instances": count,
                    "form": form,
                    "recall_at_1": float((found[:, 0] == exact[:, 0]).mean()),
                    "recall_at_10": float(np.mean(overlap)),
                }
                rows.append(row)
    report = about("benchmarks.lookup") | {
        "width": options.width,
        "grown_from": f"{len(embeddings)} embeddings of {embeddings.shape[1]} in {options.data.name}",
        "rows": rows,
    }
    leave(report, markdown(report), options.out, "lookup")


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["instances", "form", "to load s", "MiB", "p50 ms", "p99 ms", "recall@1", "recall@10"]
    rows = [
        [
            f"{row['instances']:,}",
            row["form"],
            f"{row['seconds_to_load']:.1f}",
            f"{row['mib']:.0f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['recall_at_1']:.3f}",
            f"{row['recall_at_10']:.3f}",
        ]
        for row in sorted(report["rows"], key=lambda row: (row["instances"], FORMS.index(row["form"])))
    ]
    title = f"Lookup among instances of {report['width']} components"
    notes = f"Grown from {report['grown_from']}; recall over {QUERIES} queries."
    return page(title, report, notes, table(heads, rows))


if __name__ == "__main__":
    main()
