"""A bundle whose encoder is a user's ONNX file: prepared, trained, lowered and verified like the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto
from PIL import Image

from icgan_export.cli import main
from icgan_export.edge.parts import parts_of
from icgan_export.edge.target import EdgeTarget
from icgan_export.errors import ExportError
from icgan_export.lower.graphs import encoder_graph
from icgan_export.lower.half import rounded, to_half
from icgan_export.lower.trial import embeddings
from icgan_runtime import Pipeline
from icgan_runtime.bundle.opened import Bundle
from icgan_training.cli import main as train
from icgan_training.data.dataset import PreparedDataset
from icgan_training.networks.encoder import load_encoder
from tests.models.onnx_encoders import CHANNELS, onnx_encoder, write
from tests.tiny_model import write_pictures

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """`data`, `run` and `bundle` of dino.onnx, the mean of whose tokens is the embedding."""
    folder = tmp_path_factory.mktemp("onnx")
    model = onnx_encoder(outputs=["last_hidden_state"], side=64)
    write(model, folder / "dino.onnx")
    write_pictures(folder / "pictures", 24)
    numbers = [*("--encoder-mean", *map(str, MEAN)), *("--encoder-std", *map(str, STD))]
    prepared = ["prepare", str(folder / "pictures"), "--resolution", "32", "--neighbours", "3"]
    prepared += ["--encoder", str(folder / "dino.onnx"), "--encoder-tokens", "mean", *numbers]
    assert train([*prepared, "--out", str(folder / "data")]) == 0
    fitted = ["fit", str(folder / "data"), "--preset", "tiny", "--images", "16", "--out", str(folder / "run")]
    assert train(fitted) == 0
    bundle = ["bundle", str(folder / "run"), "--out", str(folder / "bundle"), "--neighbours", "3"]
    assert main([*bundle, "--precision", "fp32,fp16,int8"]) == 0
    return folder


def test_the_bundle_embeds_as_onnx_runtime_runs_the_users_file(place: Path) -> None:
    paths = sorted((place / "pictures").rglob("*.png"))[:5]
    with Pipeline.load(place / "bundle", backend="ort-cpu", precision="fp32") as pipe:
        assert pipe.model.encoder.name == "onnx:dino"
        assert pipe.model.embedding_dim == CHANNELS
        found = pipe.embed([Image.open(path) for path in paths])
    data = PreparedDataset.open(place / "data")
    names = [data.title(row) for row in range(data.meta.count)]
    rows = [
        next(i for i, name in enumerate(names) if name.endswith(f"{path.parent.name}/{path.name}"))
        for path in paths
    ]
    shown = torch.from_numpy(np.array(data.images[rows])).permute(0, 3, 1, 2).double() / 255
    enlarged = F.interpolate(shown, (64, 64), mode="bicubic").permute(0, 2, 3, 1).numpy()
    x = ((enlarged - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    session = ort.InferenceSession(place / "dino.onnx", providers=["CPUExecutionProvider"])
    tokens = session.run(None, {"pixel_values": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})[0].mean(1)
    np.testing.assert_allclose(found, tokens / np.linalg.norm(tokens, axis=1, keepdims=True), atol=1e-5)


def test_every_precision_is_there_and_verified(place: Path, capsys) -> None:
    entries = {
        entry.file for entry in Bundle.open(place / "bundle").manifest.graphs if entry.role == "encoder"
    }
    assert entries == {"encoder.onnx", "encoder.fp16.onnx", "encoder.int8.onnx"}
    assert main(["verify", str(place / "bundle")]) == 0
    card = (place / "bundle" / "README.md").read_text()
    assert "by onnx:dino" in card
    assert "torch gave in\nfloat32, its embeddings ONNX Runtime." in card
    for precision in ("fp16", "int8"):
        with Pipeline.load(place / "bundle", backend="ort-cpu", precision=precision) as pipe:
            picture = Image.open(next((place / "pictures").rglob("*.png")))
            assert pipe.generate(picture, n=1).images.shape == (1, 32, 32, 3)


def test_its_float32_graph_is_found_again_layer_by_layer(place: Path, capsys) -> None:
    bisect = ["verify", str(place / "bundle"), "--bisect", "encoder.onnx", "--run", str(place / "run")]
    assert main(bisect) == 0
    assert "every layer is within" in capsys.readouterr().out


def test_a_converter_that_reads_torch_modules_says_that_it_cannot(place: Path) -> None:
    target = EdgeTarget("phone", "onnxruntime", "1", lambda *_: (), None, from_torch=True)
    with pytest.raises(
        ExportError, match=r"phone: its converter reads torch modules, and encoder onnx:dino is"
    ):
        parts_of(Bundle.open(place / "bundle"), target, "fp32", place / "run", print)


def test_what_makes_its_own_numbers_stays_in_float32(place: Path) -> None:
    model = onnx.load_model(place / "bundle" / "encoder.onnx")
    lowered = to_half(model, [])
    assert "ConstantOfShape" in {node.op_type for node in lowered.graph.node}
    picture = {"image": np.zeros((2, 32, 32, 3), np.uint8)}
    graphs = [ort.InferenceSession(g.SerializeToString()) for g in (model, rounded(lowered))]
    exact, half = (graph.run(None, picture)[0] for graph in graphs)
    assert lowered.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    np.testing.assert_allclose(half, exact, atol=5e-3)


def test_pictures_of_the_side_that_it_takes_are_not_resized(place: Path) -> None:
    encoder = load_encoder(place / "run" / "encoder.safetensors")
    graph = encoder_graph(encoder, 64, {})
    assert [node.op_type for node in graph.graph.node][:4] == ["Cast", "Transpose", "Sub", "Mul"]
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(pictures)).numpy()
    np.testing.assert_allclose(embeddings(graph, pictures), expected, atol=1e-5)
