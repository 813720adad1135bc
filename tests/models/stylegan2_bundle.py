"""A tiny bundle on the StyleGAN2 backbone, whose truncation is psi.

Encoder and bank are made by hand; the generator is what `icgan-export` made of random weights, frozen
(tests/golden/make_stylegan2_graph.py).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from icgan_runtime.bundle.manifest import (
    SAMPLES_NAME,
    BankEntry,
    Manifest,
    Model,
    describe_files,
    onnx_metadata,
)
from tests.models import make_models

SIDE = 16
GOLDEN = Path(__file__).parents[1] / "golden"
GRAPH, IMAGES = GOLDEN / "stylegan2_graph.onnx", GOLDEN / "stylegan2_images.npy"
TRUNCATION = np.array([np.inf, 1.0, 0.5], np.float32)  # of the pinned pictures


def stylegan2_model() -> Model:
    """What the manifest says of it."""
    return dataclasses.replace(make_models.tiny_model(side=SIDE), truncation="mean-w")


def make_stylegan2_bundle(root: Path) -> Path:
    """Write a complete bundle and return its folder."""
    model, rng = stylegan2_model(), np.random.default_rng(0)
    (root / "bank").mkdir(parents=True)
    weight = rng.normal(size=(make_models.GRID**2 * 3, model.embedding_dim)).astype(np.float32)
    rows = rng.normal(size=(make_models.COUNT, model.embedding_dim)).astype(np.float32)
    bank = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    onnx.save(make_models.encoder_graph(model, weight), root / "encoder.onnx")
    onnx.save(make_models.lookup_graph(model, bank), root / "lookup.onnx")
    generator = onnx.load(GRAPH)
    helper.set_model_props(generator, onnx_metadata(model, "generator", "fp32"))
    onnx.save(generator, root / "generator.onnx")
    make_models.write_bank(root / "bank", model, bank, rng, thumbnail_size=4)
    make_models.write_names(root / "bank", [make_models.instance_name(n) for n in range(len(bank))])
    samples = pinned(model, weight, bank) | {"image": np.load(IMAGES)}
    np.savez(root / SAMPLES_NAME, allow_pickle=False, **samples)
    (root / "README.md").write_text("# tiny StyleGAN2\n")
    entry = BankEntry(
        model.encoder_id, len(bank), make_models.NEIGHBOURS, True, 4, "random numbers", "CC0-1.0"
    )
    graphs = tuple(make_models.graph_entry(model, role) for role in ("encoder", "lookup", "generator"))
    Manifest(model, graphs, entry, describe_files(root)).write(root)
    return root


def pinned(model: Model, weight: make_models.F32, bank: make_models.F32 | None = None) -> make_models.Tensors:
    """The samples but for the pictures, by numpy."""
    rng = np.random.default_rng(1)
    picture, embedding = make_models.embedded(model, weight, rng, rows=len(TRUNCATION))
    noise = rng.normal(size=(len(TRUNCATION), model.dim_z)).astype(np.float32)
    found: make_models.Tensors = {
        "picture": picture,
        "embedding": embedding,
        "noise": noise,
        "truncation": TRUNCATION,
    }
    if bank is not None:
        products = embedding @ bank.T
        ids = np.argsort(-products, axis=1, kind="stable")[:, : make_models.NEIGHBOURS]
        found |= {"ids": ids, "scores": np.take_along_axis(products, ids, axis=1)}
    return found
