"""Tiny bundles with real ONNX graphs, built with onnx.helper: runtime tests need no torch and no training.

The encoder projects the average colours of a 4 × 4 grid of cells; the generator is a linear map of noise,
embedding and class column followed by tanh and the byte rule. They are smooth, fast and follow their inputs,
which is all that tests of the runtime need.

    python -m tests.models.make_models OUT_FOLDER
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from icgan_runtime.bundle import arrays
from icgan_runtime.bundle.manifest import (
    SAMPLES_NAME,
    BankEntry,
    GraphEntry,
    Licence,
    Manifest,
    Model,
    Preprocessing,
    TensorSpec,
    describe_files,
    graph_specs,
    onnx_metadata,
)
from icgan_runtime.bundle.strict_json import to_json
from icgan_runtime.identity import CENTRE, EncoderIdentity

OPSET = 18
GRID = 4  # cells per side that the tiny encoder averages
COUNT, NEIGHBOURS = 20, 5
SIDE, DIM_Z, WIDTH = 8, 6, 12

F32 = NDArray[np.float32]
Tensors = dict[str, NDArray[Any]]


def tiny_model(classes: int = 0, encoder: str = "tiny", side: int = SIDE, crop: str = CENTRE) -> Model:
    return Model(
        name="tiny",
        version="1",
        resolution=side,
        dim_z=DIM_Z,
        embedding_dim=WIDTH,
        classes=classes,
        class_names=tuple(f"class {i}" for i in range(classes)) or None,
        encoder=EncoderIdentity(encoder, hashlib.sha256(encoder.encode()).hexdigest(), side, WIDTH),
        preprocessing=Preprocessing(side, crop=crop),
        licence=Licence("CC0-1.0"),
    )


def make_bundle(
    root: Path,
    classes: int = 0,
    encoder: str = "tiny",
    seed: int = 0,
    thumbnails: bool = True,
    crop: str = CENTRE,
) -> Path:
    """Write a complete bundle and return its folder.

    A model without classes has a bank with names, one with classes a prior.
    """
    model = tiny_model(classes, encoder, crop=crop)
    rng = np.random.default_rng(seed)
    (root / "bank").mkdir(parents=True)
    encoder_weight = rng.normal(size=(GRID * GRID * 3, WIDTH)).astype(np.float32)
    bank = _unit(rng.normal(size=(COUNT, WIDTH)).astype(np.float32))
    onnx.save(encoder_graph(model, encoder_weight), root / "encoder.onnx")
    onnx.save(lookup_graph(model, bank), root / "lookup.onnx")
    onnx.save(generator_graph(model, rng), root / "generator.onnx")
    thumbnail_size = 4 if thumbnails else None
    write_bank(root / "bank", model, bank, rng, thumbnail_size)
    if not classes:
        write_names(root / "bank", [instance_name(number) for number in range(COUNT)])
    else:
        write_prior(root / "prior", model)
    np.savez(root / SAMPLES_NAME, allow_pickle=False, **reference_samples(root, model, bank, rng))
    (root / "README.md").write_text("# tiny\n")
    manifest = Manifest(
        model=model,
        graphs=tuple(graph_entry(model, role) for role in ("encoder", "lookup", "generator")),
        bank=BankEntry(
            model.encoder_id, COUNT, NEIGHBOURS, True, thumbnail_size, "random numbers", "CC0-1.0"
        ),
        files=describe_files(root),
        metrics={"fid": None},
    )
    manifest.write(root)
    return root


def graph_entry(model: Model, role: str) -> GraphEntry:
    inputs, outputs = graph_specs(model, role, NEIGHBOURS)
    return GraphEntry(role, "fp32", f"{role}.onnx", OPSET, inputs, outputs, model.encoder_id)


def encoder_graph(model: Model, weight: F32) -> onnx.ModelProto:
    side = model.preprocessing.size
    cell = side // GRID
    return _graph(
        model,
        "encoder",
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["float", "cells"], ["split"]),
            helper.make_node("ReduceMean", ["split", "axes"], ["mean"], keepdims=0),
            helper.make_node("Reshape", ["mean", "rows"], ["flat"]),
            helper.make_node("Sub", ["flat", "grey"], ["centred"]),
            helper.make_node("MatMul", ["centred", "weight"], ["raw"]),
            helper.make_node("LpNormalization", ["raw"], ["embedding"], axis=1, p=2),
        ],
        {
            "cells": np.array([-1, GRID, cell, GRID, cell, 3], np.int64),
            "axes": np.array([2, 4], np.int64),
            "rows": np.array([-1, GRID * GRID * 3], np.int64),
            "grey": np.array(100.5, np.float32),  # no byte average equals it: an embedding never vanishes
            "weight": weight,
        },
    )


def lookup_graph(model: Model, bank: F32) -> onnx.ModelProto:
    return _graph(
        model,
        "lookup",
        [
            helper.make_node("MatMul", ["embedding", "bank"], ["products"]),
            helper.make_node("TopK", ["products", "k"], ["scores", "ids"]),
        ],
        {"bank": np.ascontiguousarray(bank.T), "k": np.array([NEIGHBOURS], np.int64)},
    )


def generator_graph(model: Model, rng: np.random.Generator) -> onnx.ModelProto:
    side = model.resolution
    pixels = side * side * 3
    weights: Tensors = {
        "from_noise": 0.1 * rng.normal(size=(model.dim_z, pixels)).astype(np.float32),
        "from_embedding": rng.normal(size=(model.embedding_dim, pixels)).astype(np.float32),
        "shape": np.array([-1, side, side, 3], np.int64),
        "one": np.array(1, np.float32),
        "half": np.array(127.5, np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(255, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["noise", "from_noise"], ["a"]),
        helper.make_node("MatMul", ["embedding", "from_embedding"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
    ]
    if model.classes:
        weights["table"] = rng.normal(size=(model.classes, pixels)).astype(np.float32)
        nodes += [
            helper.make_node("Gather", ["table", "label"], ["d"]),
            helper.make_node("Add", ["c", "d"], ["e"]),
        ]
    nodes += [
        helper.make_node("Tanh", [nodes[-1].output[0]], ["float"]),
        helper.make_node("Add", ["float", "one"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "half"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "low", "high"], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["rounded"]),
        helper.make_node("Reshape", ["rounded", "shape"], ["folded"]),
        helper.make_node("Cast", ["folded"], ["image"], to=TensorProto.UINT8),
    ]
    return _graph(model, "generator", nodes, weights)


def write_bank(
    folder: Path, model: Model, embeddings: F32, rng: np.random.Generator, thumbnail_size: int | None
) -> None:
    count = len(embeddings)
    arrays.write_npy(folder / "embeddings.npy", embeddings)
    arrays.write_npy(folder / "ids.npy", np.arange(count, dtype=np.int64))
    arrays.write_npy(folder / "labels.npy", np.arange(count, dtype=np.int64) % max(model.classes, 1))
    if thumbnail_size is not None:
        shape = (count, thumbnail_size, thumbnail_size, 3)
        arrays.write_npy(folder / "thumbnails.npy", rng.integers(0, 256, shape, dtype=np.uint8))
    about = {
        "format": "icgan-bank",
        "schema_version": 1,
        "encoder_id": model.encoder_id,
        "count": count,
        "embedding_dim": model.embedding_dim,
        "labelled": True,
        "thumbnail_size": thumbnail_size,
        "source": "random numbers",
        "licence": "CC0-1.0",
    }
    (folder / "bank.json").write_text(json.dumps(about, indent=1) + "\n")


def instance_name(number: int) -> str:
    """The file that an instance of the tiny bundle came from."""
    return f"été/{number:03}.png"


def write_names(folder: Path, names: list[str]) -> None:
    """As docs/format.md says, by numpy alone."""
    texts = [name.encode() for name in names]
    np.save(folder / "names.npy", np.frombuffer(b"".join(texts), np.uint8))
    np.save(folder / "name_ends.npy", np.cumsum([len(text) for text in texts]))


def write_prior(folder: Path, model: Model) -> None:
    """Three centres and two axes, as docs/format.md says, by numpy alone."""
    rng, centres, axes, width = np.random.default_rng(5), 3, 2, model.embedding_dim
    folder.mkdir()
    np.save(folder / "centres.npy", 0.8 * _unit(rng.normal(size=(centres, width)).astype(np.float32)))
    np.save(folder / "axes.npy", np.linalg.qr(rng.normal(size=(width, axes)))[0].T.astype("<f4", order="C"))
    np.save(folder / "scales.npy", rng.uniform(0.1, 0.4, (centres, axes)).astype(np.float32))
    labels = rng.integers(1, 5, (centres, model.classes))
    np.save(folder / "labels.npy", labels)
    np.save(folder / "counts.npy", labels.sum(axis=1))
    about = {
        "format": "icgan-prior",
        "schema_version": 1,
        "encoder_id": model.encoder_id,
        "embedding_dim": width,
        "centres": centres,
        "axes": axes,
        "pictures": int(labels.sum()),
        "least": int(labels.sum(axis=1).min()),
        "classes": model.classes,
    }
    (folder / "prior.json").write_text(json.dumps(about) + "\n")


def reference_samples(
    root: Path, model: Model, bank: F32, rng: np.random.Generator, rows: int = 3
) -> Tensors:
    """Pinned inputs and the outputs that numpy, not ONNX Runtime, computes from the same weights."""
    weights = {
        role: {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in onnx.load(root / f"{role}.onnx").graph.initializer
        }
        for role in ("encoder", "generator")
    }
    picture, embedding = embedded(model, weights["encoder"]["weight"], rng, rows)
    products = embedding @ bank.T
    ids = np.argsort(-products, axis=1, kind="stable")[:, :NEIGHBOURS]
    images = rows - 1  # fewer images than pictures, as the format allows
    noise = rng.normal(size=(images, model.dim_z)).astype(np.float32)
    label = np.zeros(images, np.int64)
    table = weights["generator"]
    total = noise @ table["from_noise"] + embedding[:images] @ table["from_embedding"]
    if model.classes:
        total = total + table["table"][label]
    image = np.tanh(total).reshape(images, model.resolution, model.resolution, 3).transpose(0, 3, 1, 2)
    found: Tensors = {
        "picture": picture,
        "embedding": embedding,
        "ids": ids,
        "scores": np.take_along_axis(products, ids, axis=1),
        "noise": noise,
        "image": np.ascontiguousarray(image),
    }
    return found | {"label": label} if model.classes else found


def embedded(model: Model, weight: F32, rng: np.random.Generator, rows: int) -> tuple[NDArray[np.uint8], F32]:
    """Pictures [rows, S, S, 3], and the embeddings that the tiny encoder gives them."""
    side = model.preprocessing.size
    cell = side // GRID
    picture = rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
    cells = picture.astype(np.float32).reshape(rows, GRID, cell, GRID, cell, 3).mean(axis=(2, 4))
    return picture, _unit((cells.reshape(rows, -1) - np.float32(100.5)) @ weight)


def _graph(model: Model, role: str, nodes: list[onnx.NodeProto], weights: Tensors) -> onnx.ModelProto:
    inputs, outputs = graph_specs(model, role, NEIGHBOURS)
    graph = helper.make_graph(
        nodes,
        role,
        [_value_info(spec) for spec in inputs],
        [_value_info(spec) for spec in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    helper.set_model_props(proto, onnx_metadata(model, role, "fp32"))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    kinds = {"uint8": TensorProto.UINT8, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    return helper.make_tensor_value_info(spec.name, kinds[spec.dtype], list(spec.shape))


def _unit(rows: F32) -> F32:
    scaled: F32 = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


if __name__ == "__main__":
    print(json.dumps(to_json(Manifest.read(make_bundle(Path(sys.argv[1]))).model), indent=1))
