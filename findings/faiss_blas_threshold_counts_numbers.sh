#!/usr/bin/env bash
# Expected: faiss.cvar.distance_compute_blas_threshold is what its name and older releases have it mean, the number of
# queries (20) from which an exact search multiplies matrices.
# Instead: it is 128,000 and compared with queries times dimensions: of 2,048 components 62 queries are compared one by
# one and 63 as a matrix, of 1,280 it takes 100. Who once set it to 20 to tune batches now has every search by matrices.
# Seen with faiss-cpu 1.15.1: scores of the same query have other last bits on the two sides of the threshold, wherever
# it is set. In practice: batches of 8 to 62 queries cost two to five times what they need; set it to some 10,000.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q faiss-cpu==1.15.1 numpy==2.4.6 2> "$work/log" || { cat "$work/log"; exit 2; }
"$work/venv/bin/python" - <<'PYTHON'
import sys

import faiss
import numpy as np

COUNT, K = 2000, 50
faiss.omp_set_num_threads(1)
rng = np.random.default_rng(0)


def first_that_differs(width):
    """How many queries it takes until the scores of the first one have other bits than alone."""
    rows = rng.standard_normal((COUNT, width), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    alone = faiss.knn(rows[:1], rows, K, metric=faiss.METRIC_INNER_PRODUCT)[0][0]
    for queries in range(2, 140):
        scores = faiss.knn(rows[:queries], rows, K, metric=faiss.METRIC_INNER_PRODUCT)[0][0]
        if (scores != alone).any():
            return queries
    return None


print("faiss", faiss.__version__)
usual = faiss.cvar.distance_compute_blas_threshold
print("threshold", usual)
wrong = usual != 128_000
for threshold, width in ((usual, 2048), (usual, 1280), (10_240, 1280)):
    faiss.cvar.distance_compute_blas_threshold = threshold
    found, expected = first_that_differs(width), -(-threshold // width)
    print(f"threshold {threshold}, {width} components: other bits from {found} queries on (as numbers: {expected})")
    wrong = wrong or found != expected
sys.exit(wrong)
PYTHON
