"""Seconds from a fresh interpreter's first import to the first picture, median of several processes.

example: python -m benchmarks.cold_start bundles/demo examples/photos/oranges.jpg
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from benchmarks.report import about

PROGRAM = """
import sys, time
start = time.perf_counter()
from icgan_runtime import Pipeline
with Pipeline.load(sys.argv[1]) as pipe:
    pipe.generate(sys.argv[2], n=1, seed=0, truncation=0.7)
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("picture")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    command = [sys.executable, "-c", PROGRAM, options.bundle, options.picture]
    seconds = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(options.runs)
    ]
    print(
        json.dumps(
            about("benchmarks.cold_start", ["onnxruntime"])
            | {
                "median_s": round(statistics.median(seconds), 3),
                "all_s": [round(s, 3) for s in sorted(seconds)],
            }
        )
    )


if __name__ == "__main__":
    main()
