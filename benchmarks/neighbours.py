"""Neighbours of a large set as `icgan-train prepare` finds them, end to end: time, memory and recall.

    python -m benchmarks.neighbours --rows 300000 1300000 --width 2048 --out bench/neighbours

The embeddings are synthetic unit rows around 1,000 centres, drawn in blocks into a .npy that is mapped from
disk: a common part of 64 directions, as pictures of any class differ, and noise in all of them. Each number
is a process of its own. Its memory is read every half second: what it holds itself (anonymous) and, beside
that, all that is resident, pages of the files included, which the system may drop at any time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import about, leave, page, table

CENTRES = 1000
DIRECTIONS = 64
BLOCK = 10_000
FIND = """
import sys, time
from pathlib import Path
import numpy as np
from icgan_training.data.sharded import find_neighbours
folder, k, exact_up_to = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
found = find_neighbours(np.load(folder / "embeddings.npy", mmap_mode="r"), k, exact_up_to, folder=folder)
times = time.process_time()
print(times)
"""


def block(number: int, count: int, width: int) -> NDArray[np.float32]:
    """Unit rows [count, width], the same for a number whatever else is drawn."""
    shared = np.random.default_rng(0)
    centres = shared.standard_normal((CENTRES, width), np.float32) / np.float32(np.sqrt(width))
    directions = shared.standard_normal((DIRECTIONS, width), np.float32) / np.float32(np.sqrt(width))
    rng = np.random.default_rng([1, number])
    rows = centres[rng.integers(0, CENTRES, count)]
    rows += rng.standard_normal((count, DIRECTIONS), np.float32) @ directions * np.float32(0.7 / 8)
    rows += rng.standard_normal((count, width), np.float32) * np.float32(0.35 / np.sqrt(width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def write_rows(path: Path, count: int, width: int) -> None:
    """They as a .npy."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, width))
    for number, start in enumerate(range(0, count, BLOCK)):
        some = min(BLOCK, count - start)
        array[start : start + some] = block(number, some, width)
    array.flush()


def run(folder: Path, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """What finding the neighbours of one set costs."""
    if not (folder / "embeddings.npy").exists():
        write_rows(folder / "embeddings.npy", count, options.width)
    words = [sys.executable, "-c", FIND, str(folder), str(options.neighbours), str(options.exact_up_to)]
    started = time.perf_counter()
    with (folder / "said").open("w+") as said_file:
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said_file, text=True)
        anonymous = resident = 0.0
        while child.poll() is None:
            status = Path(f"/proc/{child.pid}/status").read_text()
            if "RssAnon:" in status:
                anonymous = max(anonymous, int(status.split("RssAnon:")[1].split()[0]) / 1024)
                resident = max(resident, int(status.split("VmHWM:")[1].split()[0]) / 1024)
            time.sleep(0.5)
        said_file.seek(0)
        said = said_file.read()
    if child.returncode:
        raise SystemExit(said)
    print(said, file=sys.stderr)
    assert child.stdout is not None
    recall = next((line for line in said.splitlines() if "of the true neighbours" in line), "exact")
    return {
        "rows": count,
        "seconds": time.perf_counter() - started,
        "processor_seconds": float(child.stdout.read()),
        "anonymous_mib": anonymous,
        "resident_mib": resident,
        "said": recall,
        "written_gb": (folder / "embeddings.npy").stat().st_size / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000])
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--neighbours", type=int, default=50)
    parser.add_argument("--exact-up-to", type=int, default=200_000)
    parser.add_argument(
        "--work", type=Path, help="folder that keeps the rows, and what was finished of a run"
    )
    parser.add_argument("--out", type=Path, help="folder of the report")
    options = parser.parse_args()
    rows = []
    for count in options.rows:
        with tempfile.TemporaryDirectory(prefix="neighbours-") as scratch:
            folder = Path(scratch) if options.work is None else options.work / f"{count}x{options.width}"
            folder.mkdir(parents=True, exist_ok=True)
            rows.append(run(folder, count, options))
    report = about("benchmarks.neighbours", ("numpy", "faiss-cpu")) | {
        "width": options.width,
        "neighbours": options.neighbours,
        "rows": rows,
    }
    heads = ["rows", "file GB", "minutes", "processor minutes", "own MiB", "resident MiB"]
    cells = [
        [
            f"{row['rows']:,}",
            f"{row['written_gb']:.1f}",
            f"{row['seconds'] / 60:.1f}",
            f"{row['processor_seconds'] / 60:.1f}",
            f"{row['anonymous_mib']:.0f}",
            f"{row['resident_mib']:.0f}",
        ]
        for row in rows
    ]
    notes = f"{options.neighbours} neighbours of rows of {options.width} components.\n\n" + "\n".join(
        f"{row['rows']:,}: {row['said']}" for row in rows
    )
    leave(
        report,
        page("Neighbours of large sets", report, notes, table(heads, cells)),
        options.out,
        "neighbours",
    )


if __name__ == "__main__":
    main()
