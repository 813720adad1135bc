"""Every optimiser and runtime that people put our files through: does it read them, and what comes out?

    make compatibility
    python -m benchmarks.compatibility bundles/edge --out benchmarks/results/compatibility
    python -m benchmarks.compatibility bundles/edge --peer onnxslim,tract --out bench/compatibility

Each peer runs on each graph of the bundle in an environment of its own (.venv-compatibility-*, made on demand
with pinned versions) and a process of its own. What comes back is compared with ONNX Runtime's answers to the
bundle's pinned samples: grey levels, cosine of embeddings, ids; metadata and names of axes of what a
rewriter leaves; how many times faster it is, in processor time of eight rows on one thread, taking turns.
Rows that are not measured anew are kept. Writes compatibility.json and compatibility.md under --out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.compatibility_peers import compare_speed, exact_integers, onnxruntime_cpu
from benchmarks.generator import psnr
from benchmarks.report import about, page, progress, show, table, write
from icgan_export.check.samples import Samples
from icgan_export.edge.parts import float_input
from icgan_export.lower.passes import float_pictures
from icgan_runtime.bundle.opened import Bundle

ROOT = Path(__file__).parents[1]
SECONDS = 600  # of one peer on one graph
ROWS = 16
GRAPHS = (
    "generator fp32", "generator float32 at both ends", "generator fp16", "generator int8", "encoder fp32",
    "encoder float32 at both ends", "encoder fp16", "encoder int8", "lookup",
)  # fmt: skip
BASE = ("onnxruntime==1.31.1", "numpy==2.4.6")
# environment -> what is installed there. Peers whose dependencies exclude each other live apart.
ENVIRONMENTS = {
    "onnx": (
        "onnx==1.23.2", "onnxslim==0.1.98", "onnxsim==0.8.1", "onnxoptimizer==0.4.2", "onnxscript==0.7.2",
        "polygraphy==0.53.6", "onnx-graphsurgeon==0.6.1", "openvino==2026.4.1", "tract==0.23.9",
        "tinygrad==0.14.0", "MNN==3.6.1", "ncnn==1.0.20261020", "pnnx==20261020", "sympy==1.14.0",
        "opencv-python-headless==5.0.0.93",
    ),
    "converter": ("onnxconverter-common==1.16.0", "onnx==1.20.1"),
    "iree": ("iree-base-compiler[onnx]==3.13.0", "iree-base-runtime==3.13.0", "onnx==1.23.2"),
    "tvm": ("apache-tvm==0.27.0.post1", "onnx==1.23.2"),
}  # fmt: skip


@dataclass(frozen=True)
class Peer:
    """One program: how people call it, where it is installed, which packages' versions name it."""

    name: str  # in compatibility_peers
    title: str
    environment: str
    packages: tuple[str, ...]
    rewriter: bool = False
    loses: bool = False  # a quantiser or a conversion to half: pictures may differ within the contract


def _rewriter(name: str, title: str, package: str, environment: str = "onnx", loses: bool = False) -> Peer:
    return Peer(name, title, environment, (package,), True, loses)


PEERS = (
    _rewriter("onnxslim", "onnxslim", "onnxslim"),
    _rewriter("onnxsim", "onnxsim", "onnxsim"),
    _rewriter("onnxoptimizer", "onnxoptimizer", "onnxoptimizer"),
    _rewriter("onnxscript", "onnxscript's optimizer", "onnxscript"),
    _rewriter("polygraphy", "polygraphy surgeon sanitize", "polygraphy"),
    _rewriter("graphsurgeon", "onnx-graphsurgeon, cleanup", "onnx-graphsurgeon"),
    _rewriter("saved_by_onnxruntime", "saved by ONNX Runtime (basic)", "onnxruntime"),
    _rewriter("ort_format", "converter to the ORT format", "onnxruntime"),
    _rewriter("opset_21", "onnx's version_converter to opset 21", "onnx"),
    _rewriter("symbolic_shapes", "symbolic_shape_infer", "onnxruntime"),
    _rewriter("quant_pre_process", "quant_pre_process, auto_merge", "onnxruntime"),
    _rewriter("quantize_dynamic", "quantize_dynamic", "onnxruntime", loses=True),
    _rewriter("quantize_static", "quantize_static", "onnxruntime", loses=True),
    _rewriter("float16_of_onnxruntime", "onnxruntime.transformers.float16", "onnxruntime", loses=True),
    _rewriter(
        "float16_of_onnxconverter",
        "onnxconverter-common's float16",
        "onnxconverter-common",
        "converter",
        True,
    ),
    Peer("openvino", "OpenVINO", "onnx", ("openvino",)),
    Peer("onnx_reference", "onnx's reference evaluator", "onnx", ("onnx",)),
    Peer("opencv", "OpenCV dnn", "onnx", ("opencv-python-headless",)),
    Peer("tract", "tract", "onnx", ("tract",)),
    Peer("tinygrad", "tinygrad", "onnx", ("tinygrad",)),
    Peer("iree", "IREE", "iree", ("iree-base-compiler",)),
    Peer("tvm", "TVM", "tvm", ("apache-tvm",)),
    Peer("mnn", "MNN", "onnx", ("MNN",)),
    Peer("ncnn", "ncnn by pnnx", "onnx", ("ncnn",)),
)


@dataclass(frozen=True, eq=False)
class Graph:
    """One of our files, with what goes in and what ONNX Runtime answers."""

    name: str
    model: onnx.ModelProto
    feeds: dict[str, NDArray[Any]]
    answers: dict[str, NDArray[Any]]


def graphs_of(bundle: Bundle, wanted: Sequence[str] = ()) -> list[Graph]:
    """Every graph of the bundle, or those of `wanted`, and the two without bytes, on pinned samples."""
    samples = Samples.read(bundle)
    found = []
    for entry in bundle.manifest.graphs:
        model = onnx.load_from_string(bundle.read(entry.file))
        given = {"embedding": samples.embedding} if entry.role == "lookup" else samples.feeds(entry)
        feeds = {name: array[:ROWS] for name, array in given.items()}
        name = entry.role if entry.role == "lookup" else f"{entry.role} {entry.precision}"
        found.append((name, model, feeds))
        if entry.precision == "fp32" and entry.role != "lookup":
            copy = onnx.load_from_string(bundle.read(entry.file))
            if entry.role == "encoder":
                copy, feeds = float_input(copy), {"image": feeds["image"].astype(np.float32)}
            else:
                copy = float_pictures(copy)
            found.append((f"{entry.role} float32 at both ends", copy, feeds))
    return [
        Graph(name, model, feeds, answers(model, feeds))
        for name, model, feeds in found
        if not wanted or name in wanted
    ]


def answers(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What ONNX Runtime says to a graph."""
    session = ort.InferenceSession(
        model.SerializeToString(), exact_integers(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def environment(name: str) -> Path:
    """The interpreter of an environment, made where it is missing or of other versions."""
    folder = ROOT / f".venv-compatibility-{name}"
    python, stamp = folder / "bin" / "python", folder / "pins.txt"
    pins = [*ENVIRONMENTS[name], *BASE]
    if not stamp.exists() or stamp.read_text().split() != pins:
        progress(f"installing {', '.join(pins)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(pins)} cannot be installed:\n{done.stderr[-2000:]}")
        stamp.write_text("\n".join(pins))
    return python


def cell(peer: Peer, graph: Graph, python: Path) -> dict[str, Any]:
    """One peer on one graph."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        source, feeds = place / "graph.onnx", place / "feeds.npz"
        onnx.save(graph.model, source)
        np.savez(feeds, **graph.feeds)
        out = place / "out"
        out.mkdir()
        quiet = {"OMP_NUM_THREADS": "1", "TVM_NUM_THREADS": "1", "PYTHONPATH": ""}
        settings = os.environ | quiet | {"PEER_PACKAGES": " ".join(peer.packages)}
        script = ROOT / "benchmarks" / "compatibility_peers.py"
        command = [python, script, peer.name, source, feeds, out]
        row: dict[str, Any] = {"peer": peer.name, "graph": graph.name}
        try:
            done = subprocess.run(  # some leave files where they are started
                command, cwd=place, capture_output=True, text=True, env=settings, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return row | {"error": f"not done after {SECONDS} seconds"}
        if not (out / "said.json").exists():
            said = [line for line in done.stderr.splitlines() if line.strip()]
            return row | {
                "error": f"ends with status {done.returncode}" + (f": {said[-1][:200]}" if said else "")
            }
        row |= json.loads((out / "said.json").read_text().replace(str(place), "…"))
        if "error" in row:
            return row
        return row | (
            rewritten(graph, source, out) if peer.rewriter else compared(graph, out / "answers.npz")
        )


def rewritten(graph: Graph, source: Path, out: Path) -> dict[str, Any]:
    """What a rewriter left: loaded by ONNX Runtime, compared, and read."""
    made = next(path for path in (out / "model.ort", out / "model.onnx") if path.exists())
    try:
        run = onnxruntime_cpu(made, out, graph.feeds)
        found = run(graph.feeds)
    except Exception as error:
        return {"error": f"ONNX Runtime refuses what it leaves: {str(error).strip().splitlines()[0][:250]}"}
    row = difference(graph, found)
    session = ort.InferenceSession(made, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    row["metadata"] = all(metadata.get(entry.key) == entry.value for entry in graph.model.metadata_props)
    axes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    row["axes"] = axes == {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*graph.model.graph.input, *graph.model.graph.output)
    }
    row["bytes"] = made.stat().st_size / source.stat().st_size
    eight = {name: array[:8] for name, array in graph.feeds.items()}
    return row | {"times_faster": compare_speed(run, source, out, eight)}


def compared(graph: Graph, path: Path) -> dict[str, Any]:
    """What a runtime answered."""
    with np.load(path) as stored:
        return difference(graph, {name: stored[name] for name in stored.files})


def difference(graph: Graph, found: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Worst grey levels and PSNR, worst error and cosine, or share of ids in the same place."""
    name = next(iter(graph.answers))
    expected, got = graph.answers[name], np.asarray(found.get(name))
    if got.shape != expected.shape:
        return {"error": f"answers {got.shape} where {expected.shape} is right"}
    if expected.dtype.kind == "i":
        if "scores" not in found:
            return {"error": "answers ids without scores"}
        scores = graph.answers["scores"]
        near = np.abs(np.asarray(found["scores"], np.float64) - scores).max()
        return {"measure": "ids", "same": float((got == expected).mean()), "apart": float(near)}
    apart = float(np.abs(got.astype(np.float64) - expected.astype(np.float64)).max())
    if expected.dtype == np.uint8:
        return {"measure": "levels", "apart": apart, "psnr": psnr(expected, got.astype(np.uint8))}
    flat, other = expected.reshape(len(expected), -1), got.reshape(len(got), -1).astype(np.float64)
    lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(other, axis=1)
    cosine = float(((flat * other).sum(1) / np.maximum(lengths, 1e-30)).min())
    return {"measure": "numbers", "apart": apart, "cosine": cosine}


def is_green(row: Mapping[str, Any], peer: Peer) -> bool:
    """Loads, draws the same, and, of a rewriter, keeps metadata and names of axes."""
    if "error" in row or not (row.get("metadata", True) and row.get("axes", True)):
        return False
    return alike(row, peer.loses or row["graph"].endswith("int8"))


def alike(row: Mapping[str, Any], loses: bool) -> bool:
    """Same pictures: one grey level, 1e-3 of a float, the same ids; of what loses, the bounds for INT8."""
    if row["measure"] == "ids":
        return bool(row["same"] == 1.0)
    if row["measure"] == "levels":
        return bool(row["psnr"] >= 25 if loses else row["apart"] <= 1)
    return bool(row["cosine"] >= 0.99 if loses else row["apart"] <= 1e-3)


def text_of(row: Mapping[str, Any], peer: Peer, notes: list[str]) -> str:
    """One cell: a sign, what differs, times faster; what went wrong in a note."""
    if "error" in row:
        return f"✗ {_note(row['error'], notes)}"
    sign = "✓" if is_green(row, peer) else "✗"
    if row["measure"] == "ids":
        what = f"{100 * row['same']:.0f} % of ids"
    elif row["measure"] == "levels":
        what = f"{row['psnr']:.1f} dB" if row["apart"] > 1 else f"{row['apart']:.0f}"
    else:
        what = f"cosine {row['cosine']:.4f}" if row["apart"] > 1e-3 else f"{row['apart']:.0e}"
    lost = [name for name in ("metadata", "axes") if not row.get(name, True)]
    return f"{sign} {what}{', loses ' + ' and '.join(lost) if lost else ''}, {row['times_faster']:.2f}×"


def _note(text: str, notes: list[str]) -> str:
    text = text.replace("|", "\\|").replace("<", "&lt;")
    if text not in notes:
        notes.append(text)
    return f"[{notes.index(text) + 1}]"


def markdown(report: Mapping[str, Any]) -> str:
    """Two tables, rewriters and runtimes, and the notes."""
    notes: list[str] = []
    measured = {row["graph"] for row in report["rows"]}
    names = [name for name in report["graphs"] if name in measured]
    rows = {(row["peer"], row["graph"]): row for row in report["rows"]}
    parts = []
    for rewriters, title in ((True, "Programs that write a graph anew"), (False, "Runtimes")):
        lines = []
        for peer in PEERS:
            mine = [rows.get((peer.name, name)) for name in names]
            if peer.rewriter != rewriters or not any(mine):
                continue
            versions = next((row["versions"] for row in mine if row and "versions" in row), {})
            number = " / ".join(versions.values())
            cells = [text_of(row, peer, notes) if row else "" for row in mine]
            lines.append([f"{peer.title} {number}", *cells])
        parts.append(f"## {title}\n\n{table(['', *names], lines)}")
    green = sum(is_green(row, peer) for peer in PEERS for row in report["rows"] if row["peer"] == peer.name)
    parts.append(f"{green} of {len(rows)} cells are green.\n")
    parts.append("\n".join(f"{number}. {text}" for number, text in enumerate(notes, 1)) + "\n")
    return page("What other programs make of our graphs", report, LEGEND, "\n".join(parts))


LEGEND = (
    "A cell: ✓ where the file loads and the answers to the pinned samples are those of ONNX Runtime (pictures"
    " within one grey level, the number beside it; floats within 1e-3; the same ids) and, of a program that "
    "writes a graph anew, metadata and names of axes are kept. Of quantisers, INT8 and conversions to half: "
    "within the bounds for INT8. Then how many times faster than the untouched graph on ONNX Runtime, "
    "processor time of eight rows on one thread. [n]: a note below."
)


def main() -> None:
    """Run the peers, merge with what was measured before, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="with fp32, fp16 and int8, without classes")
    parser.add_argument("--peer", default="", help="comma-separated names (default: all)")
    parser.add_argument("--graph", default="", help="comma-separated names of graphs (default: all)")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    known = {peer.name: peer for peer in PEERS}
    wanted = [known[name] for name in options.peer.split(",") if name] or list(PEERS)
    bundle = Bundle.open(options.bundle)
    graphs = graphs_of(bundle, [name for name in options.graph.split(",") if name])
    before = options.out / "compatibility.json"
    held = json.loads(before.read_text())["rows"] if before.exists() else []
    rows = {(row["peer"], row["graph"]): row for row in held}
    report: dict[str, Any] = about("benchmarks.compatibility", ["onnx", "onnxruntime"])
    report |= {"model": bundle.manifest.model.identity, "graphs": list(GRAPHS)}
    for peer in wanted:
        python = environment(peer.environment)
        for graph in graphs:
            rows[peer.name, graph.name] = row = cell(peer, graph, python)
            progress(f"{peer.name}, {graph.name}: {text_of(row, peer, [])} {row.get('error', '')}")
            ordered = [rows[key] for key in sorted(rows)]
            write(
                report | {"rows": ordered}, markdown(report | {"rows": ordered}), options.out, "compatibility"
            )
    report["rows"] = [rows[key] for key in sorted(rows)]
    show(report, markdown(report))


if __name__ == "__main__":
    main()
