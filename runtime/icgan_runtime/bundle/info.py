"""What a bundle is, for people and for scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from icgan_runtime.bundle.living import pending
from icgan_runtime.bundle.onnx_file import describe_onnx
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.prior_files import read_about
from icgan_runtime.bundle.prose import metrics_lines, parity_lines, tree
from icgan_runtime.bundle.strict_json import to_json


def describe(bundle: Bundle) -> dict[str, Any]:
    """The manifest with what its ONNX files say about themselves, as JSON values."""
    book = bundle.manifest
    graphs = []
    for entry in book.graphs:
        found = describe_onnx(bundle.read(entry.file), entry.file)
        graphs.append(
            {
                **to_json(entry),
                "bytes": found.bytes,
                "parameters": found.parameters,
                "opsets": dict(found.opsets),
                "operators": dict(found.operators),
            }
        )
    return {
        **to_json(book),
        "graphs": graphs,
        "encoder_id": book.model.encoder_id,
        "identity": book.model.identity,
        "bytes": sum(entry.bytes for entry in book.files.values()),
        "changes": pending(bundle),
        "prior": None if (prior := read_about(bundle)) is None else to_json(prior),
        "unlisted_files": bundle.unlisted_files(),
    }


_TITLES = {"parity": "parity with torch, float32"}
_TRUNCATIONS = {"noise": "bounds the noise", "mean-w": "pulls towards the mean w (psi)"}


def render(facts: dict[str, Any]) -> str:
    """The result of `describe` as text."""
    model, bank, encoder = facts["model"], facts["bank"], facts["model"]["encoder"]
    labels = f", {model['classes']} classes" if model["classes"] else ""
    of = f"{bank['source']} ({bank['licence']})"
    lines = [
        f"{model['name']} {model['version']}: {model['resolution']} × {model['resolution']} images{labels}",
        f"  size       {_size(facts['bytes'])}",
        f"  licence    {model['licence']['weights']}  {model['licence']['notice']}".rstrip(),
        f"  noise      {model['dim_z']} wide; truncation {_TRUNCATIONS[model.get('truncation', 'noise')]}",
        f"  encoder    {encoder['name']}, {encoder['embedding_dim']} wide, weights {encoder['sha256'][:12]}",
        f"  input      {model['preprocessing']['size']} × {model['preprocessing']['size']} RGB, "
        f"{model['preprocessing']['crop']}, {model['preprocessing']['resize']}",
        f"  bank       {bank['count']} instances: {of}, k = {bank['neighbours']}"
        f"{', labelled' if bank['labelled'] else ''}"
        f"{', ' + str(facts['changes']) + ' changes since (icgan bank list)' if facts['changes'] else ''}",
        *_prior_line(facts["prior"]),
        f"  identity   {facts['identity'][:16]}, embedding space {facts['encoder_id'][:16]}",
    ]
    costs = facts["bench"].get("costs")
    for graph in facts["graphs"]:
        operators = ", ".join(f"{name} {count}" for name, count in graph["operators"].items())
        lines += [
            f"  {graph['file']}: {graph['role']} {graph['precision']}, {_size(graph['bytes'])}, "
            f"{graph['parameters'] / 1e6:.2f} M parameters, opset {graph['opset']}",
            f"    {operators}",
        ]
        match costs.get(graph["file"]) if isinstance(costs, dict) else None:  # a report may hold anything
            case {"multiply_adds": int(products), "peak_activation_bytes": int(peak)}:
                lines.append(
                    f"    one picture: {products / 1e6:.1f} M multiply-adds, activations of {_size(peak)}"
                )
        if graph["kept_fp32"]:
            lines.append(
                "    kept in FP32: " + "; ".join(f"{k['node']} ({k['reason']})" for k in graph["kept_fp32"])
            )
    lines += [
        f"  {engine['file']}: {engine['role']} {engine['precision']}, {engine['compute_capability']}, "
        f"TensorRT {engine['tensorrt_version']}, batch up to {engine['max_batch']}"
        for engine in facts["engines"]
    ]
    reports: dict[str, Callable[[dict[str, Any], str], list[str]]] = {
        "metrics": metrics_lines,
        "parity": parity_lines,
        "bench": tree,
        "provenance": tree,  # last, for it is long
    }
    for title, lines_of in reports.items():
        shown = {name: value for name, value in facts[title].items() if (title, name) != ("bench", "costs")}
        if shown:
            lines += [f"  {_TITLES.get(title, title)}", *lines_of(shown, "    ")]
    if facts["unlisted_files"]:
        lines.append(f"  not in the manifest, never used: {', '.join(facts['unlisted_files'])}")
    return "\n".join(lines)


def _prior_line(prior: dict[str, Any] | None) -> list[str]:
    if prior is None:
        return []
    return [
        f"  prior      {prior['centres']} means of {prior['least']} or more of {prior['pictures']} pictures, "
        f"{prior['axes']} axes: draws instances where no picture is given"
    ]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"
