"""Compressed forms of faiss over one bank, re-ranked exactly: memory, building, time of a query, recall.

    python -m benchmarks.compressed --rows 100000 --width 2048 --out bench/lookup

The rows are those of `benchmarks.neighbours`, around 1,000 centres; the queries are drawn alike and are not
among them. Each form proposes four times as many candidates as are wanted, and these are scored with the rows
themselves, which a bank keeps anyway: so recall is what the form proposes, not how it orders. Times are of
one thread's processor, which other programs disturb the least; memory is what the form takes beside the rows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.neighbours import BLOCK, block
from benchmarks.report import about, leave, page, table
from icgan_runtime.bundle.coded import CODINGS, decode, encode

K, CANDIDATES, QUERIES = 10, 40, 500
FORMS = {  # name -> faiss's factory string; {cells} is the root of the number of rows
    "flat, float32": "Flat",
    "flat, SQfp16": "SQfp16",
    "flat, SQ8": "SQ8",
    "flat, PQ fast-scan": "PQ256x4fs",
    "flat, RaBitQ": "RaBitQ",
    "cells, float32": "IVF{cells},Flat",
    "cells, SQfp16": "IVF{cells},SQfp16",
    "cells, SQ8": "IVF{cells},SQ8",
    "cells, PQ fast-scan": "IVF{cells},PQ256x4fs",
    "cells, RaBitQ": "IVF{cells},RaBitQ",
    "cells, RaBitQ fast-scan": "IVF{cells},RaBitQfs",
    "256 axes, cells, SQ8": "PCA256,IVF{cells},SQ8",
}
PROBES = 32


def measure(form: str, rows: NDArray[np.float32], queries: NDArray[np.float32], true: Any) -> dict[str, Any]:
    """What one form costs and finds."""
    cells = int(len(rows) ** 0.5)
    started = time.thread_time()
    index: Any = faiss.index_factory(rows.shape[1], form.format(cells=cells), faiss.METRIC_INNER_PRODUCT)
    index.train(rows[:: max(1, len(rows) // (40 * cells))])
    index.add(rows)
    build = time.thread_time() - started
    if "IVF" in form:
        faiss.ParameterSpace().set_index_parameter(index, "nprobe", PROBES)
    taken, first, ten = [], [], []
    for query, expected in zip(queries, true, strict=True):
        started = time.thread_time()
        found = index.search(query[None], CANDIDATES)[1][0]
        found = found[found >= 0]
        best = found[np.argsort(-(rows[found] @ query), kind="stable")[:K]]
        taken.append(1e3 * (time.thread_time() - started))
        first.append(expected[0] in best)
        ten.append(len(set(best.tolist()) & set(expected.tolist())) / K)
    return {
        "bytes_per_row": len(faiss.serialize_index(index)) / len(rows),
        "build_s": build,
        "p50_ms": float(np.percentile(taken, 50)),
        "p99_ms": float(np.percentile(taken, 99)),
        "recall_at_1": float(np.mean(first)),
        "recall_at_10": float(np.mean(ten)),
    }


def stored(coding: str, rows: NDArray[np.float32], queries: NDArray[np.float32], true: Any) -> list[str]:
    """What a bank loses that stores its embeddings so: exact search among the decoded rows."""
    read = decode(encode(rows, coding))
    scores, found = faiss.knn(queries, read, K, metric=faiss.METRIC_INNER_PRODUCT)
    pairs = list(zip(found, true, strict=True))
    exact = np.stack([rows[some] @ query for some, query in zip(found, queries, strict=True)])
    error = np.abs(scores - exact)
    ten = np.mean([len(set(a.tolist()) & set(b.tolist())) / K for a, b in pairs])
    return [
        coding,
        f"{rows.shape[1] * CODINGS[coding].itemsize}",
        f"{error.mean():.1e}",
        f"{error.max():.1e}",
        f"{np.mean([a[0] == b[0] for a, b in pairs]):.3f}",
        f"{ten:.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--out", type=Path, help="folder of the report")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    parts = range(0, options.rows, BLOCK)
    rows = np.concatenate(
        [block(n, min(BLOCK, options.rows - start), options.width) for n, start in enumerate(parts)]
    )
    queries = block(1 << 20, QUERIES, options.width)
    true = faiss.knn(queries, rows, K, metric=faiss.METRIC_INNER_PRODUCT)[1]
    found = {name: measure(form, rows, queries, true) for name, form in FORMS.items()}
    report = about("benchmarks.compressed", ("numpy", "faiss-cpu")) | {"rows": found}
    heads = ["form", "faiss", "bytes a row", "build s", "p50 ms", "p99 ms", "recall@1", "recall@10"]
    cells = [
        [
            name,
            f"`{FORMS[name].format(cells=int(options.rows**0.5))}`",
            f"{row['bytes_per_row']:.0f}",
            f"{row['build_s']:.1f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['recall_at_1']:.3f}",
            f"{row['recall_at_10']:.3f}",
        ]
        for name, row in found.items()
    ]
    codings = ["stored as", "bytes a row", "mean error of a score", "largest", "recall@1", "recall@10"]
    kept = [stored(coding, rows, queries, true) for coding in CODINGS]
    notes = (
        f"{options.rows:,} rows of {options.width}; processor time of one thread, also of the building; "
        f"{PROBES} cells are read, {CANDIDATES} candidates re-ranked with the rows; {QUERIES} queries."
    )
    body = f"{table(heads, cells)}\nThe embeddings of a bank stored in fewer bytes, searched exactly:\n\n"
    text = page("Compressed forms of a bank", report, notes, body + table(codings, kept))
    report |= {"stored": [dict(zip(codings, row, strict=True)) for row in kept]}
    leave(report, text, options.out, "forms")


if __name__ == "__main__":
    main()
