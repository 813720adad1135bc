"""A bundle with the shapes of real networks that cost next to nothing: what `benchmarks.ceiling` serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from icgan_runtime.bundle.bank import FOLDER, Bank
from icgan_runtime.bundle.manifest import (
    SAMPLES_NAME,
    BankEntry,
    GraphEntry,
    Licence,
    Manifest,
    Model,
    Preprocessing,
    describe_files,
    graph_specs,
    onnx_metadata,
)
from icgan_runtime.identity import EncoderIdentity

OPSET = 18
DIM_Z, NEIGHBOURS, CORNER = 120, 10, 8  # CORNER: of the picture, which is all that the encoder sees
# of embeddings: without clusters and a lower rank they have no neighbours that an index could find
OF_A_CLUSTER, SPREAD, RANK = 100, 0.5, 64
TYPES = {"uint8": TensorProto.UINT8, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


def make_bundle(root: Path, resolution: int, width: int, count: int) -> Path:
    """Write it into the new folder `root`; its bank holds `count` random instances, in clusters."""
    identity = EncoderIdentity("ceiling", "0" * 64, resolution, width)
    model = Model(
        "ceiling",
        "1",
        resolution,
        DIM_Z,
        width,
        0,
        None,
        identity,
        Preprocessing(resolution),
        Licence("CC0-1.0"),
    )
    rng = np.random.default_rng(0)
    clusters = max(1, count // OF_A_CLUSTER)
    centres = rng.standard_normal((clusters, RANK), np.float32)[rng.integers(0, clusters, count)]
    places = centres + SPREAD * rng.standard_normal((count, RANK), np.float32)
    embeddings = places @ rng.standard_normal((RANK, width), np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    bank = Bank(model.encoder_id, embeddings, np.arange(count), None, None, "random numbers", "CC0-1.0")
    (root / FOLDER).mkdir(parents=True)
    bank.write(root / FOLDER)
    weight = rng.standard_normal((CORNER * CORNER * 3, width), np.float32)
    onnx.save(encoder(model, weight), root / "encoder.onnx")
    onnx.save(generator(model), root / "generator.onnx")
    picture = rng.integers(0, 256, (1, resolution, resolution, 3), np.uint8)
    embedding = _run(root / "encoder.onnx", {"image": picture})
    noise = rng.standard_normal((1, DIM_Z), np.float32)
    image = _run(root / "generator.onnx", {"noise": noise, "embedding": embedding})
    samples = {"picture": picture, "embedding": embedding, "noise": noise, "image": image}
    np.savez(root / SAMPLES_NAME, **samples)  # type: ignore[arg-type]
    graphs = tuple(
        GraphEntry(
            role, "fp32", f"{role}.onnx", OPSET, *graph_specs(model, role, NEIGHBOURS), model.encoder_id
        )
        for role in ("encoder", "generator")
    )
    entry = BankEntry(model.encoder_id, count, NEIGHBOURS, False, None, bank.source, bank.licence)
    Manifest(model, graphs, entry, describe_files(root)).write(root)
    return root


def encoder(model: Model, weight: np.ndarray) -> onnx.ModelProto:
    """A projection of a corner of the picture."""
    nodes = [
        helper.make_node("Slice", ["image", "starts", "ends", "axes"], ["corner"]),
        helper.make_node("Cast", ["corner"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "flat"], ["pixels"]),
        helper.make_node("Sub", ["pixels", "grey"], ["centred"]),
        helper.make_node("MatMul", ["centred", "weight"], ["raw"]),
        helper.make_node("LpNormalization", ["raw"], ["embedding"], axis=1, p=2),
    ]
    constants: dict[str, np.ndarray] = {
        "starts": np.array([0, 0], np.int64),
        "ends": np.array([CORNER, CORNER], np.int64),
        "axes": np.array([1, 2], np.int64),
        "flat": np.array([-1, len(weight)], np.int64),
        "grey": np.array(100.5, np.float32),  # no byte equals it: an embedding never vanishes
        "weight": weight,
    }
    return _graph(model, "encoder", nodes, constants)


def generator(model: Model) -> onnx.ModelProto:
    """One colour, from the first number of noise and embedding."""
    side = model.resolution
    nodes = [
        helper.make_node("Slice", ["noise", "zero", "one", "one"], ["a"]),
        helper.make_node("Slice", ["embedding", "zero", "one", "one"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Tanh", ["c"], ["d"]),
        helper.make_node("Mul", ["d", "range"], ["e"]),
        helper.make_node("Add", ["e", "middle"], ["f"]),
        helper.make_node("Cast", ["f"], ["g"], to=TensorProto.UINT8),
        helper.make_node("Reshape", ["g", "pixel"], ["h"]),
        helper.make_node("Tile", ["h", "repeats"], ["image"]),
    ]
    constants: dict[str, np.ndarray] = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "range": np.array(100, np.float32),
        "middle": np.array(128, np.float32),
        "pixel": np.array([-1, 1, 1, 1], np.int64),
        "repeats": np.array([1, side, side, 3], np.int64),
    }
    return _graph(model, "generator", nodes, constants)


def _graph(
    model: Model, role: str, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]
) -> onnx.ModelProto:
    inputs, outputs = (
        [helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], spec.shape) for spec in tensors]
        for tensors in graph_specs(model, role, NEIGHBOURS)
    )
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, role, inputs, outputs, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    helper.set_model_props(made, onnx_metadata(model, role, "fp32"))
    return made


def _run(file: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    (found,) = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, feeds)
    return np.asarray(found)
