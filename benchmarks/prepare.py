"""Time and peak memory of `icgan-train prepare` at several numbers of pictures.

    python -m benchmarks.prepare --pictures 1000 10000 --resolution 64 --encoder efficientnet-lite0
    python -m benchmarks.prepare --pictures 1000 10000 --container parquet --input-size 32

The pictures are JPEG crops of one photo, 256 px; each number is a run of its own process, and the peak is of
its resident set. Prints a table and, as its last line, JSON.
"""

import argparse
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.report import about

PHOTO = Path(__file__).parents[1] / "tests" / "golden" / "photo.jpg"
PER_FOLDER = 1000


def crops(start: int, stop: int) -> Iterator[tuple[int, Image.Image]]:
    """Crops number `start` to `stop` of the photo."""
    with Image.open(PHOTO) as photo:
        photo.load()
    for number in range(start, stop):
        random = np.random.default_rng(number)
        side = int(random.integers(100, 300))
        left, top = random.integers(0, [photo.width - side, photo.height - side]).tolist()
        yield number, photo.crop((left, top, left + side, top + side)).resize((256, 256))


def write_pictures(folder: Path, start: int, stop: int) -> None:
    """They as files, a thousand per sub-folder."""
    for number, crop in crops(start, stop):
        path = folder / f"{number // PER_FOLDER:04d}" / f"{number:07d}.jpg"
        path.parent.mkdir(exist_ok=True)
        crop.save(path, quality=85)


def write_tar(folder: Path, start: int, stop: int) -> None:
    """They as one more WebDataset shard."""
    with tarfile.open(folder / f"{start:07d}.tar", "w") as archive:
        for number, crop in crops(start, stop):
            data = io.BytesIO()
            crop.save(data, "JPEG", quality=85)
            member = tarfile.TarInfo(f"{number:07d}.jpg")
            member.size = data.tell()
            data.seek(0)
            archive.addfile(member, data)


def write_parquet(folder: Path, start: int, stop: int) -> None:
    """They as one more Parquet file in row groups of a hundred, as Hugging Face writes them."""
    import pyarrow
    from pyarrow import parquet

    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", kind)])
    with parquet.ParquetWriter(folder / f"train-{start:07d}.parquet", schema) as writer:
        for first in range(start, stop, 100):
            rows = []
            for number, crop in crops(first, min(first + 100, stop)):
                data = io.BytesIO()
                crop.save(data, "JPEG", quality=85)
                rows.append({"bytes": data.getvalue(), "path": f"{number}.jpg"})
            writer.write_table(pyarrow.table({"image": pyarrow.array(rows, kind)}, schema))


WRITERS = {"folder": write_pictures, "webdataset": write_tar, "parquet": write_parquet}


def run(source: Path, out: Path, options: list[str]) -> tuple[float, float]:
    """(seconds, peak resident MiB) of one prepare."""
    command = [sys.executable, "-m", "icgan_training", "prepare", str(source), "--out", str(out), *options]
    started = time.perf_counter()
    child = os.posix_spawn(command[0], command, dict(os.environ))
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        raise SystemExit(f"prepare failed with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--input-size", type=int, help="smaller: faster, to look at memory alone")
    parser.add_argument("--neighbours", type=int, default=50)
    parser.add_argument("--container", choices=WRITERS, default="folder", help="what the pictures lie in")
    args = parser.parse_args()
    options = ["--resolution", str(args.resolution), "--encoder", args.encoder]
    options += ["--neighbours", str(args.neighbours), "--no-labels"]
    if args.input_size is not None:
        options += ["--input-size", str(args.input_size)]
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "pictures"
        source.mkdir()
        written = 0
        lines = []
        for count in sorted(args.pictures):
            WRITERS[args.container](source, written, count)
            written = count
            out = Path(scratch) / f"out-{count}"
            seconds, peak = run(source, out, options)
            per_10k = seconds / count * 10_000
            results.append(
                {"pictures": count, "seconds": seconds, "seconds_per_10k": per_10k, "peak_mib": peak}
            )
            lines.append(f"{count:>12} {seconds:>12.1f} {per_10k:>12.1f} {peak:>12.1f}")
    columns = ("pictures", "seconds", "s per 10,000", "peak MiB")
    print(" ".join(f"{column:>12}" for column in columns))
    print("\n".join(lines))
    print(json.dumps(about("benchmarks.prepare", ["torch"]) | {"options": options, "results": results}))


if __name__ == "__main__":
    main()
