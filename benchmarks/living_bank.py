"""A bank that changes all day: what adding, finding, searching and killing cost and lose.

    python -m benchmarks.living_bank --out bench/living

The stored bank has `--count` synthetic instances (500 groups, grown and rotated as in benchmarks.lookup).
Changes are made by the functions of `icgan bank add` and `remove`, one record each, every one on the disk
before the next. "visible" is the time from the acknowledgement until another process's view has answered with
it. Searches are timed one query at a time, with so many changes that are not compacted: nine of ten are
additions, one a removal. Recall compares with an exact search of the same state written anew. Milliseconds of
processor stand beside those of the clock, which mean little on a busy machine. With --database the same log
is kept in PostgreSQL. For comparison the bare cost of a record in SQLite is measured, and in Qdrant's
embedded engine where that is installed (pip install qdrant-edge-py).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ceiling_bundle import make_bundle
from benchmarks.lookup import F32, grown
from benchmarks.report import about, leave, page, table
from icgan_runtime.banks.change import Writer, remove
from icgan_runtime.banks.compact import compact
from icgan_runtime.banks.index import write_index
from icgan_runtime.bundle.changes import LOG_NAME, Changes
from icgan_runtime.bundle.living import open_living
from icgan_runtime.bundle.manifest import Manifest, describe_files
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.search.living import Followed
from icgan_runtime.search.numpy import numpy_search

K = 10
GROUPS, GROUP_WIDTH = 500, 256


def grow(count: int, width: int, seed: int) -> F32:
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((GROUPS, GROUP_WIDTH), np.float32)
    rows = np.repeat(centres, 10, axis=0) + np.float32(0.7) * rng.standard_normal(
        (10 * GROUPS, GROUP_WIDTH), np.float32
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near = np.arange(10 * GROUPS)[:, None] // 10 * 10 + np.arange(10)
    return grown(rows, near, count, width, seed)


def make(root: Path, count: int, width: int) -> Path:
    """A bundle with such a bank and a stored index."""
    make_bundle(root, 64, width, count)
    np.save(root / "bank" / "embeddings.npy", grow(count, width, seed=2))
    book = Manifest.read(root)
    (root / "manifest.json").unlink()
    dataclasses.replace(book, files=describe_files(root)).write(root)
    write_index(root)
    return root


def put(writer: Writer, rows: F32) -> None:
    """Add rows as one record."""

    def make(living: Any) -> Changes:
        ids = living.next_id + np.arange(len(rows))
        return Changes(ids, rows, None, None, None, np.empty(0, np.int64))

    writer.change(make)


@contextmanager
def timed(into: list[tuple[float, float]]) -> Iterator[None]:
    clock, processor = time.perf_counter(), time.process_time()
    yield
    into.append((time.perf_counter() - clock, time.process_time() - processor))


def median(times: list[tuple[float, float]]) -> tuple[float, float]:
    """Clock and processor in ms."""
    clock, processor = np.median(np.array(times) * 1e3, axis=0).tolist()
    return clock, processor


def changes(root: Path, where: str, rows: F32, number: int) -> dict[str, Any]:
    """Add rows one by one, and look for each at once in a view of its own."""
    writer, followed = Writer(root, where), Followed(Bundle.open(root), "faiss-ivf", where or str(root))
    followed.search()
    adds: list[tuple[float, float]] = []
    visible: list[tuple[float, float]] = []
    removes: list[tuple[float, float]] = []
    missed = 0
    for row in rows[:number]:
        with timed(adds):
            put(writer, row[None])
        with timed(visible):
            ids, _ = followed.search()(row[None], 1)
        missed += int(ids[0, 0] != writer.living.next_id)
        own = [int(ids[0, 0])]
        with timed(removes):
            remove(writer, own, [])
        ids, _ = followed.search()(row[None], 1)
        missed += int(ids[0, 0] == own[0])
    batch: list[tuple[float, float]] = []
    for start in range(0, 4 * 256, 256):
        with timed(batch):
            put(writer, rows[start : start + 256])
    writer.log.close()
    found: dict[str, Any] = {"missed": missed}
    for name, times in (("add", adds), ("visible", visible), ("remove", removes), ("add of 256", batch)):
        found[name] = dict(zip(("ms", "processor_ms"), median(times), strict=True))
    found["adds_per_second"] = len(adds) / sum(clock for clock, _ in adds)
    return found


def sqlite_record(folder: Path, row: F32, number: int) -> dict[str, float]:
    """The same bytes as a row of SQLite, on the disk before the next."""
    times: list[tuple[float, float]] = []
    connection = sqlite3.connect(folder / "records.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE records (number INTEGER PRIMARY KEY, body BLOB)")
    for _ in range(number):
        with timed(times):
            connection.execute("INSERT INTO records (body) VALUES (?)", (row.tobytes(),))
    connection.close()
    return dict(zip(("ms", "processor_ms"), median(times), strict=True))


def qdrant_record(folder: Path, row: F32, number: int) -> dict[str, dict[str, float]] | None:
    """One embedding at a time into Qdrant's embedded engine: acknowledged, and put on the disk (flush)."""
    try:
        import qdrant_edge as qdrant
    except ImportError:
        return None
    place = folder / "qdrant"
    place.mkdir()
    vectors = qdrant.EdgeVectorParams(len(row), qdrant.Distance.Dot)
    shard = qdrant.EdgeShard.create(str(place), qdrant.EdgeConfig(vectors=vectors))
    found = {}
    for name, many in (("acknowledged", number), ("flushed", 20)):
        times: list[tuple[float, float]] = []
        for turn in range(many):
            point = qdrant.Point(turn, row.tolist())
            with timed(times):
                shard.update(qdrant.UpdateOperation.upsert_points([point]))
                if name == "flushed":
                    shard.flush()
        found[name] = dict(zip(("ms", "processor_ms"), median(times), strict=True))
    shard.close()
    return found


def searches(root: Path, form: str, queries: F32) -> dict[str, Any]:
    """One query at a time in the newest state."""
    search = Followed(Bundle.open(root), form, str(root)).search()
    search(queries[:1], K)
    times: list[tuple[float, float]] = []
    found = []
    for query in queries:
        with timed(times):
            found.append(search(query[None], K)[0][0])
    exact = numpy_search_of(root)(queries, K)[0]
    return {
        "form": form,
        **dict(zip(("ms", "processor_ms"), median(times), strict=True)),
        "recall_at_1": float(np.mean([a[0] == b[0] for a, b in zip(found, exact, strict=True)])),
        "recall_at_10": float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, exact, strict=True)])),
    }


def numpy_search_of(root: Path) -> Callable[..., Any]:
    """An exact search of the bank written anew."""
    bank = open_living(Bundle.open(root))[0].bank()
    return numpy_search(dataclasses.replace(bank, embeddings=np.asarray(bank.embeddings), checked=True), "")


KILLED = """
import sys
from pathlib import Path
import numpy as np
from benchmarks.living_bank import Writer, put
rows = np.load(sys.argv[2])
writer = Writer(Path(sys.argv[1]))
for number in range(10 ** 9):
    first = writer.living.next_id
    put(writer, rows[number % len(rows)][None])
    print(first, flush=True)
"""


def kills(root: Path, folder: Path, rows: F32, times: int) -> dict[str, int]:
    """Processes that add are killed; how many additions were promised, and how many of them are there."""
    np.save(folder / "killed.npy", rows)
    promised = 0
    for _ in range(times):
        before = open_living(Bundle.open(root))[0].state.number
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(root), str(folder / "killed.npy")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(40):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0]
        told = 40 + rest.count("\n")
        living = open_living(Bundle.open(root))[0]
        if living.state.number - before < told:
            return {"promised": promised + told, "there": promised + living.state.number - before}
        promised += told
    return {"promised": promised, "there": promised}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    report = about("benchmarks.living_bank", ("numpy", "faiss-cpu"))
    root = make(folder / "bundle", options.count, options.width)
    rows, queries = grow(12_000, options.width, seed=3), grow(options.queries, options.width, seed=4)
    report |= {"count": options.count, "width": options.width, "load": os.getloadavg()[0]}
    report["kept"] = [{"where": "file", **changes(root, "", rows, options.changes)}]
    if options.database:
        report["kept"].append(
            {"where": "PostgreSQL", **changes(root, options.database, rows, options.changes)}
        )
    report["sqlite_record"] = sqlite_record(folder, rows[0], options.changes)
    report["qdrant_record"] = qdrant_record(folder, rows[0], options.changes)
    report["searches"] = []
    for pending in (0, 1000, 10_000):
        (root / LOG_NAME).unlink(missing_ok=True)
        if pending:
            writer = Writer(root)
            for start in range(0, pending * 9 // 10, 250):
                put(writer, rows[start : start + min(250, pending * 9 // 10 - start)])
            gone = np.random.default_rng(1).choice(options.count, pending // 10, replace=False)
            remove(writer, gone.tolist(), [])
        for form in ("faiss", "faiss-ivf"):
            report["searches"].append({"pending": pending, **searches(root, form, queries)})
    times: list[tuple[float, float]] = []
    with timed(times):
        compact(root)
    report["compaction_of_10000_s"] = dict(zip(("s", "processor_s"), times[0], strict=True))
    report["kills"] = kills(root, folder, rows[:100], options.kills)
    return report


def render(report: dict[str, Any]) -> str:
    def both(times: dict[str, float]) -> str:
        return f"{times['ms']:.2f} ({times['processor_ms']:.2f})"

    kept = table(
        ["changes kept in", "adds/s", "add ms", "remove ms", "256 in one ms", "visible ms", "not seen"],
        [
            [
                each["where"],
                f"{each['adds_per_second']:.0f}",
                both(each["add"]),
                both(each["remove"]),
                both(each["add of 256"]),
                both(each["visible"]),
                each["missed"],
            ]
            for each in report["kept"]
        ],
    )
    found = table(
        ["changes pending", "form", "p50 ms", "recall@1", "recall@10"],
        [
            [
                f"{each['pending']:,}",
                each["form"],
                both(each),
                f"{each['recall_at_1']:.3f}",
                f"{each['recall_at_10']:.3f}",
            ]
            for each in report["searches"]
        ],
    )
    compaction, killed = report["compaction_of_10000_s"], report["kills"]
    other = report["qdrant_record"]
    qdrant = (
        ""
        if other is None
        else (
            f"In Qdrant's embedded engine: acknowledged after {both(other['acknowledged'])} ms, on the disk "
            f"(flush) after {both(other['flushed'])} ms. "
        )
    )
    rest = (
        f"A record of one embedding in SQLite (WAL, synchronous FULL): {both(report['sqlite_record'])} ms. "
        f"{qdrant}"
        f"Compaction of 10,000 changes: {compaction['s']:.0f} s ({compaction['processor_s']:.0f} s). "
        f"Of {killed['promised']} additions acknowledged before kill -9, {killed['there']} were there.\n"
    )
    notes = (
        f"{report['count']:,} instances × {report['width']}; load of the machine {report['load']:.0f}; "
        "milliseconds by the clock, in brackets of the processor."
    )
    return page("A bank that changes", report, notes, "\n".join([kept, found, rest]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000, help="stored instances (default: %(default)s)")
    parser.add_argument("--width", type=int, default=2048, help="of embeddings (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=200, help="timed one by one (default: %(default)s)")
    parser.add_argument("--changes", type=int, default=200, help="made one by one (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--database", default="", metavar="ADDRESS", help="postgresql://HOST/NAME")
    parser.add_argument("--scratch", type=Path, help="folder for the bundle (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="folder for living.md and living.json")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="living-", dir=options.scratch))
    try:
        report = measure(options, folder)
    finally:
        shutil.rmtree(folder)
    leave(report, render(report), options.out, "living")


if __name__ == "__main__":
    main()
