"""Every graph of a bundle at every precision: traced, lowered until it meets its bounds, written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnx

from icgan_export.check.samples import Samples
from icgan_export.check.verify import compare_encoder
from icgan_export.errors import ExportError
from icgan_export.lower import onnx_export
from icgan_export.lower.arithmetic import cost
from icgan_export.lower.graphs import generator_graph
from icgan_export.lower.index import fits_graph, lookup_graph
from icgan_export.lower.onnx_export import Step
from icgan_export.lower.precision import Lowered, activation_ranges
from icgan_export.lower.trial import Trial, embeddings, encoder_trial, generator_trial, lower
from icgan_export.rewrite.backbones import best_rewrites
from icgan_export.rewrite.choice import Target
from icgan_export.source.instances import Instances
from icgan_export.source.runs import Run
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import GraphEntry, KeptNode, Model, graph_specs, onnx_metadata

LARGEST_SHOWN = 20


@dataclass(frozen=True, eq=False)
class GraphFiles:
    """The graphs in the folder of a bundle, and what the manifest says of them."""

    folder: Path
    model: Model
    neighbours: int
    step: Step
    entries: list[GraphEntry] = field(default_factory=list)
    costs: dict[str, dict[str, int]] = field(default_factory=dict)  # file -> operations and bytes
    largest: dict[str, dict[str, float]] = field(default_factory=dict)  # role -> the largest activations

    left_out: dict[str, str] = field(default_factory=dict)  # precision -> why it cannot be had

    def add(self, role: str, precision: str, graph: onnx.ModelProto, kept: tuple[KeptNode, ...] = ()) -> None:
        """Write one graph; `kept`: its nodes that stayed in float32."""
        onnx_export.set_metadata(graph, onnx_metadata(self.model, role, precision))
        file = f"{role}.onnx" if precision == "fp32" else f"{role}.{precision}.onnx"
        onnx_export.save(graph, self.folder / file)
        inputs, outputs = graph_specs(self.model, role, self.neighbours)
        opset = graph.opset_import[0].version
        encoder_id = self.model.encoder_id
        self.entries.append(GraphEntry(role, precision, file, opset, inputs, outputs, encoder_id, kept))
        self.costs[file] = cost(graph).summary()
        operators = sum(onnx_export.count_operators(graph).values())
        held = f", {len(kept)} in float32" if precision != "fp32" else ""
        self.step(f"{file}: {operators} operators, {graph.ByteSize() / 2**20:.1f} MiB{held}")

    def leave_out(self, precision: str, reason: str) -> None:
        """Delete what there is at a precision: a bundle has it whole or not at all."""
        self.left_out[precision] = reason
        self.step(f"{precision} is left out: {reason}")
        for entry in [entry for entry in self.entries if entry.precision == precision]:
            (self.folder / entry.file).unlink()
            self.entries.remove(entry)
            del self.costs[entry.file]

    def lowered(self, role: str, precision: str, lower_it: Callable[[], Lowered]) -> None:
        """Write what `lower_it` gives, or leave the precision out where nothing holds its bound."""
        if precision in self.left_out:
            return
        self.step(f"lowering the {role} to {precision}")
        try:
            found = lower_it()
        except ExportError as error:
            self.leave_out(precision, f"{role}: {error}")
        else:
            self.add(role, precision, found.model, found.kept)


def write_graphs(
    run: Run,
    encoder: onnx.ModelProto,
    instances: Instances,
    bank: Bank,
    samples: Samples,
    precisions: Sequence[str],
    target: Target,
    folder: Path,
    step: Step,
) -> GraphFiles:
    """Lookup, `encoder` and generator in float32, then both networks at the precisions that can be had."""
    files = GraphFiles(folder, run.model, samples.ids.shape[1], step)
    if fits_graph(bank.embeddings):
        files.add("lookup", "fp32", lookup_graph(bank.embeddings, bank.ids, files.neighbours, {}))
    else:
        step(f"no lookup.onnx: {len(bank)} instances are more than one ONNX file holds; faiss finds them")
    files.add("encoder", "fp32", encoder)
    step("tracing the generator")
    rewrites, truncated = best_rewrites(run.generator.config, target), run.model.truncation == "mean-w"
    generator = generator_graph(run.generator, rewrites, {}, step=step, truncated=truncated)
    files.add("generator", "fp32", generator)
    lower_precisions = [precision for precision in precisions if precision != "fp32"]
    if lower_precisions:
        _add_lowered_encoders(files, encoder, instances, bank, samples, lower_precisions)
        trial = generator_trial(run.model.dim_z, run.model.classes, instances.shown, generator)
        ranges = _measure(files, "generator", generator, trial)
        for precision in lower_precisions:
            files.lowered("generator", precision, partial(lower, generator, precision, ranges, trial))
    return files


def _add_lowered_encoders(
    files: GraphFiles,
    encoder: onnx.ModelProto,
    instances: Instances,
    bank: Bank,
    samples: Samples,
    precisions: Sequence[str],
) -> None:
    trial = encoder_trial(instances.pictures, instances.shown, encoder)
    ranges = _measure(files, "encoder", encoder, trial)

    def lower_encoder(precision: str) -> Lowered:
        lowered = lower(encoder, precision, ranges, trial)
        if keeps_neighbours(lowered, samples, bank, precision):
            return lowered
        files.step(f"near ties in the bank: lowering the encoder to {precision} with more care")
        with_recall = encoder_trial(instances.pictures, instances.shown, encoder, recall=True)
        return lower(encoder, precision, ranges, with_recall)

    for precision in precisions:
        files.lowered("encoder", precision, partial(lower_encoder, precision))


def _measure(files: GraphFiles, role: str, graph: onnx.ModelProto, trial: Trial) -> dict[str, float]:
    """The largest magnitude of every activation on the trial's inputs; the largest are noted."""
    files.step(f"measuring the {role}'s activations")
    ranges = activation_ranges(graph, trial.feeds)
    files.largest[role] = dict(sorted(ranges.items(), key=lambda item: -item[1])[:LARGEST_SHOWN])
    return ranges


def keeps_neighbours(lowered: Lowered, samples: Samples, bank: Bank, precision: str) -> bool:
    """Whether an encoder that leaves float32 meets its bounds on the bundle's bank."""
    found = embeddings(lowered.model, samples.picture)
    return all(comparison.passed for comparison in compare_encoder(found, samples, bank, precision))
