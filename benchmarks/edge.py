"""A bundle's generator on the runtimes of edge devices: size, load time, first image, speed, fidelity.

    python -m benchmarks.edge bundles/edge --out bench/edge
    python -m benchmarks.edge bundles/edge --fid data/groceries64 --samples 1324 --out bench/edge

Every precision of the bundle on ONNX Runtime and OpenVINO, on onnxruntime-node, and on onnxruntime-web
(WebAssembly) in headless Chromium. Each is a process of its own: load time and first image are those of a
fresh one, images per second the median over rounds at the given batch. PSNR is against FP32 on ONNX Runtime
for the same noise and real embeddings of the bank. `--fid` adds the FID of as many samples of each precision
against real pictures. Writes edge.json and edge.md under --out and prints the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.generator import psnr
from benchmarks.report import about, leave, page, progress, table
from icgan_runtime import latents
from icgan_runtime.backends.select import open_session
from icgan_runtime.bundle.opened import Bundle

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PYTHON_BACKENDS = {"ONNX Runtime": "ort-cpu", "OpenVINO": "openvino"}


def feeds(bundle: Bundle, batch: int) -> dict[str, NDArray[np.float32]]:
    """Noise of seed 0, and embeddings spread over the bank."""
    from icgan_runtime.bundle.bank import Bank

    bank = Bank.of_bundle(bundle)
    rows = np.linspace(0, len(bank) - 1, batch).astype(int)
    noise = latents.noise(0, np.arange(batch), 1.0, bundle.manifest.model.dim_z)
    return {"noise": noise, "embedding": np.ascontiguousarray(bank.embeddings[rows])}


def measure_python(
    bundle_path: Path, backend: str, precision: str, threads: int, batch: int, rounds: int
) -> None:
    """Print one measurement as JSON; meant for a process of its own."""
    bundle = Bundle.open(bundle_path)
    given = feeds(bundle, batch)
    began = time.perf_counter()
    session = open_session(bundle, bundle.manifest.graph("generator", precision), backend, threads)
    load = time.perf_counter() - began
    began = time.perf_counter()
    session.run({name: array[:1] for name, array in given.items()})
    first = time.perf_counter() - began
    image = session.run(given)["image"]
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        session.run(given)
        times.append((time.perf_counter() - began) * 1e3)
    print(
        json.dumps(
            {"load": load * 1e3, "first": first * 1e3, "times": times, "image": image.ravel().tolist()}
        )
    )


def measured(command: list[object]) -> dict[str, Any]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def all_runners(
    bundle_path: Path, precisions: list[str], batch: int, rounds: int, scratch: Path
) -> dict[tuple[str, str, int], dict[str, Any]]:
    """(runtime, precision, threads) -> what was measured."""
    bundle = Bundle.open(bundle_path)
    given = {name: array.ravel().tolist() for name, array in feeds(bundle, batch).items()}
    found = {}
    web = scratch / "web"
    node = shutil.which("node") if (ROOT / "examples/node_modules").is_dir() else None
    if node and CHROMIUM:
        subprocess.run(
            [node, ROOT / "examples/web/build.mjs", bundle_path, web], check=True, capture_output=True
        )
    for precision in precisions:
        entry = bundle.manifest.graph("generator", precision)
        for runtime, backend in PYTHON_BACKENDS.items():
            for threads in (1, 2):
                progress(f"{runtime}, {precision}, {threads} threads")
                command = [sys.executable, "-m", "benchmarks.edge", bundle_path, "--one", backend]
                command += [
                    "--precision",
                    precision,
                    "--threads",
                    threads,
                    "--batch",
                    batch,
                    "--rounds",
                    rounds,
                ]
                found[runtime, precision, threads] = measured(command)
        if node is None:
            progress("node or examples/node_modules is missing (make test-edge): no JavaScript rows")
            continue
        task = scratch / "task.json"
        told = {**given, "batch": batch, "rounds": rounds, "threads": 2, "file": entry.file}
        task.write_text(json.dumps(told | {"model": str((bundle_path / entry.file).resolve())}))
        progress(f"onnxruntime-node, {precision}")
        found["onnxruntime-node", precision, 2] = measured([node, ROOT / "benchmarks/edge_node.mjs", task])
        if CHROMIUM:
            progress(f"onnxruntime-web, {precision}")
            command = [node, ROOT / "benchmarks/edge_web.mjs", web, task, CHROMIUM]
            found["onnxruntime-web (WASM, Chromium)", precision, 2] = measured(command)
    return found


def scores(bundle: Bundle, data: Path, samples: int) -> dict[str, float]:
    """FID of every precision, as `icgan-export verify --fid` takes it."""
    from icgan_export.check.fidelity import fid_of_each
    from icgan_training.data.dataset import PreparedDataset

    return fid_of_each(bundle, PreparedDataset.open(data), samples, progress)


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["generator", "MB", "runtime", "threads", "load ms", "first image ms", "img/s", "PSNR dB", "FID"]
    rows = [
        [
            row["precision"],
            f"{row['megabytes']:.1f}",
            row["runtime"],
            row["threads"],
            f"{row['load_ms']:.0f}",
            f"{row['first_ms']:.1f}",
            f"{row['images_per_second']:.1f}",
            f"{row['psnr']:.1f}",
            f"{report['fid'][row['precision']]:.1f}" if report["fid"] else "",
        ]
        for row in report["rows"]
    ]
    scored = f", FID of {report['samples']} samples" if report["fid"] else ""
    notes = f"{report['model']}, batch {report['batch']}{scored}."
    return page("The generator on edge runtimes", report, notes, table(heads, rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="with the precisions to compare, without classes")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--fid", type=Path, metavar="DATA", help="prepared data set to take the FID against")
    parser.add_argument("--samples", type=int, default=1000, help="of each precision, for --fid")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure_python(args.bundle, args.one, args.precision, args.threads, args.batch, args.rounds)
        return
    bundle = Bundle.open(args.bundle)
    model = bundle.manifest.model
    if model.classes:
        raise SystemExit(f"{args.bundle} takes labels: this benchmark feeds none")
    precisions = [entry.precision for entry in bundle.manifest.graphs if entry.role == "generator"]
    with tempfile.TemporaryDirectory() as scratch:
        found = all_runners(args.bundle, precisions, args.batch, args.rounds, Path(scratch))
    reference = np.array(found["ONNX Runtime", "fp32", 1]["image"], np.uint8)
    rows = [
        {
            "precision": precision,
            "megabytes": bundle.manifest.files[bundle.manifest.graph("generator", precision).file].bytes
            / 1e6,
            "runtime": runtime,
            "threads": threads,
            "load_ms": one["load"],
            "first_ms": one["first"],
            "images_per_second": args.batch / statistics.median(one["times"]) * 1e3,
            "psnr": psnr(reference, np.array(one["image"], np.uint8)),
        }
        for (runtime, precision, threads), one in found.items()
    ]
    packages = json.loads((ROOT / "examples/package.json").read_text())["dependencies"]
    report = about("benchmarks.edge", ["onnxruntime", "openvino"])
    report["versions"] |= packages
    report |= {
        "model": f"{model.name} {model.version}, {model.resolution} px",
        "batch": args.batch,
        "fid": scores(bundle, args.fid, args.samples) if args.fid else {},
        "samples": args.samples if args.fid else 0,
        "rows": rows,
    }
    leave(report, markdown(report), args.out, "edge")


if __name__ == "__main__":
    main()
