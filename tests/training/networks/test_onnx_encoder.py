"""ONNX files as encoders: what ONNX Runtime makes of them is what data sets hold; what is none is named."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from safetensors.torch import load_file, save_file

from icgan_training.cli import main
from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import WeightsError
from icgan_training.networks.encoder import Encoder, bind_encoder, fold_batch_norm, load_encoder, save_encoder
from icgan_training.networks.onnx_encoder import encoder_from_onnx
from icgan_training.networks.pixels import OnnxOptions, find_pixels
from tests.models.onnx_encoders import CHANNELS, WIDTH, onnx_encoder, write
from tests.training.pictures import write_pictures

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SAID = OnnxOptions(mean=MEAN, std=STD)
FILES: dict[str, dict[str, Any]] = {
    "one vector": {},
    "any side": {"side": "height", "channels": "num_channels"},
    "channels last": {"channels_last": True},
    "a batch of one, opset 11": {"batch": 1, "opset": 11},
    "a batch of two": {"batch": 2},
    "opset 21": {"opset": 21},
    "a text beside": {"inputs": ["input_ids"]},
    "tokens": {"outputs": ["last_hidden_state"]},
    "tokens of one picture": {"outputs": ["last_hidden_state"], "batch": 1},
    "places": {"outputs": ["map", "image_embeds"]},
}


def pictures(side: int = 32, count: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def alone(path: Path, output: str, shown: torch.Tensor) -> np.ndarray:
    """What ONNX Runtime makes of the file as it is, picture by picture: [N, ...]."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = session.get_inputs()[0].shape[0]
    x = ((shown.numpy() / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    if session.get_inputs()[0].shape[3] != 3:
        x = x.transpose(0, 3, 1, 2)
    more = {value.name: np.zeros((1, WIDTH), np.float32) for value in session.get_inputs()[1:]}
    each = [np.repeat(x[i : i + 1], rows if isinstance(rows, int) else 1, axis=0) for i in range(len(x))]
    return np.concatenate([session.run([output], {"pixel_values": one, **more})[0][:1] for one in each])


@pytest.mark.parametrize(
    ("name", "output", "tokens"),
    [
        *((name, "image_embeds", None) for name in list(FILES)[:7]),
        ("tokens", "last_hidden_state", "first"),
        ("tokens", "last_hidden_state", "mean"),
        ("tokens of one picture", "last_hidden_state", "first"),
        ("tokens of one picture", "last_hidden_state", "mean"),
        ("places", "map", "mean"),
    ],
)
@torch.inference_mode()
def test_embeddings_are_what_onnx_runtime_makes_of_the_file(name, output, tokens, tmp_path):
    path = write(onnx_encoder(**FILES[name]), tmp_path / "clip.onnx")
    options = OnnxOptions(output, tokens, MEAN, STD)
    encoder = encoder_from_onnx(path, options, 32 if name == "any side" else None)
    given = alone(path, output, pictures())
    if tokens is not None:
        whole = given.reshape(*given.shape[:2], -1).mean(2) if given.ndim == 4 else given.mean(1)
        given = given[:, 0] if tokens == "first" else whole
    expected = given / np.linalg.norm(given, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder(pictures()).numpy(), expected, atol=1e-6)
    assert (encoder.config.architecture, encoder.config.input_size) == ("onnx:clip", 32)
    assert encoder.config.embedding_dim == (WIDTH if tokens is None else CHANNELS)
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    loaded = load_encoder(tmp_path / "encoder.safetensors")
    assert loaded.config == encoder.config
    for other in (fold_batch_norm(loaded), copy.deepcopy(loaded), pickle.loads(pickle.dumps(encoder))):
        torch.testing.assert_close(other(pictures(20)), encoder(pictures(20)), rtol=0, atol=0)


@torch.inference_mode()
def test_weights_beside_the_file_are_taken_in(tmp_path):
    inside = encoder_from_onnx(write(onnx_encoder(), tmp_path / "a" / "clip.onnx"), SAID)
    path = write(onnx_encoder(), tmp_path / "b" / "clip.onnx", external=True)
    assert torch.equal(encoder_from_onnx(path, SAID)(pictures()), inside(pictures()))
    (tmp_path / "b" / "clip.onnx_data").unlink()
    with pytest.raises(
        WeightsError, match=r"its weights in clip.onnx_data, which is missing: copy it beside"
    ):
        encoder_from_onnx(path, SAID)
    (tmp_path / "b" / "clip.onnx_data").symlink_to(tmp_path / "a" / "clip.onnx")
    with pytest.raises(WeightsError, match=r"clip.onnx_data, which is a link that leaves the folder"):
        encoder_from_onnx(path, SAID)
    for place in ("../a/clip.onnx", "/etc/hostname"):
        model = onnx.load_model(path, load_external_data=False)
        model.graph.initializer[0].external_data[0].value = place
        with pytest.raises(WeightsError, match=f"names its weights '{place}', outside its folder"):
            encoder_from_onnx(write(model, path), SAID)


def test_what_needs_no_picture_is_computed_once(tmp_path):
    model = onnx_encoder()
    model.graph.node.insert(0, helper.make_node("Tanh", ["matrix"], ["bounded"]))
    model.graph.node[-1].input[1] = "bounded"
    encoder = encoder_from_onnx(write(model, tmp_path / "clip.onnx"), SAID)
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    kept = onnx.load_model_from_string(load_file(tmp_path / "encoder.safetensors")["onnx"].numpy().tobytes())
    assert "Tanh" not in {node.op_type for node in kept.graph.node}
    assert {"Conv", "MatMul"} <= {node.op_type for node in kept.graph.node}


def of_domain(model: ModelProto) -> None:
    model.graph.node[1].domain = "com.microsoft"


def of_numbers(model: ModelProto) -> None:
    model.graph.node[1].op_type = "NonZero"


def of_choice(model: ModelProto) -> None:
    node = model.graph.node[1]
    node.op_type = "If"
    node.attribute.append(helper.make_attribute("then_branch", helper.make_graph([], "then", [], [])))


def of_bytes(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def of_halves(model: ModelProto) -> None:
    model.graph.initializer[1].data_type = TensorProto.FLOAT16


def of_text(model: ModelProto) -> None:
    model.graph.node[-1].input[1] = "input_ids"


@pytest.mark.parametrize(
    ("file", "change", "options", "size", "message"),
    [
        ({}, of_domain, {}, None, r"the operator com.microsoft.Relu, which is not ONNX's own"),
        (
            {},
            of_numbers,
            {},
            None,
            r"the operator NonZero, which gives as many numbers as a picture makes it",
        ),
        ({}, of_choice, {}, None, r"the operator If, which decides as it runs"),
        ({}, of_halves, {}, None, r"weights of float16: give the float32 file"),
        ({}, of_bytes, {}, None, r"takes pixel_values \[batch_size, 3, 32, 32\] of uint8, pictures are"),
        ({"channels": 4}, None, {}, None, r"of 4 channels: pictures have three"),
        (
            {"inputs": ["input_ids"]},
            None,
            {},
            None,
            r"several outputs: name one .*image_embeds \[batch_size, 12\]",
        ),
        (
            {"inputs": ["input_ids"]},
            None,
            {"output": "text_embeds"},
            None,
            r"takes input_ids \[texts, 12\] of float, pictures",
        ),
        ({"inputs": ["a"]}, None, {"output": "pooler"}, None, r"--encoder-output pooler: .*has image_embeds"),
        ({}, None, {}, 64, r"--input-size is 64, .*takes pictures of 32 px only"),
        ({"side": "s"}, None, {}, None, r"pictures of any side: say which with --input-size"),
        ({"side": "s"}, None, {}, 33, None),
        (
            {"outputs": ["last_hidden_state"]},
            None,
            {},
            None,
            r"\[N, 17, 8\], many vectors .*--encoder-tokens first",
        ),
        (
            {"outputs": ["map"]},
            None,
            {"tokens": "first"},
            None,
            r"many vectors .* take one with --encoder-tokens mean",
        ),
        (
            {},
            None,
            {"tokens": "mean"},
            None,
            r"--encoder-tokens mean: image_embeds is \[N, 12\], one vector already",
        ),
        ({}, None, {"std": None}, None, r"--encoder-std is missing"),
        (
            {},
            None,
            {"mean": None, "std": None},
            None,
            r"says nothing of its pictures: put its preprocessor_config",
        ),
        ({}, None, {"std": (1.0, 0.0, 1.0)}, None, r"standard deviation .* must be positive"),
        ({"side": 4}, None, {}, None, r"does not run in ONNX Runtime on 3 pictures"),
    ],
)
def test_what_is_no_encoder_is_named(file, change, options, size, message, tmp_path):
    model = onnx_encoder(**file)
    if change is not None:
        change(model)
    path = write(model, tmp_path / "file.onnx")
    said = OnnxOptions(**{"mean": MEAN, "std": STD} | options)
    if message is None:  # a side that the patches do not fill is the network's affair
        assert encoder_from_onnx(path, said, size).config.input_size == size
        return
    with pytest.raises(WeightsError, match=message) as raised:
        encoder_from_onnx(path, said, size)
    assert "\n" not in str(raised.value)


def test_a_file_of_anything_else_is_named(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"\x89PNG and so on")
    with pytest.raises(WeightsError, match="is no ONNX file"):
        encoder_from_onnx(tmp_path / "no.onnx", SAID)
    content = onnx_encoder().SerializeToString().replace(b"image_embeds", b"image\nembed\xfc")
    (tmp_path / "no.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match="has names that cannot be printed: it is damaged"):
        encoder_from_onnx(tmp_path / "no.onnx", SAID)


def test_what_hugging_face_puts_beside_a_file_says_how_pictures_come(tmp_path):
    half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}

    def found(said: dict[str, Any], **options: Any) -> tuple[Any, ...]:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
        (tmp_path / "onnx").mkdir(exist_ok=True)
        look = find_pixels(tmp_path / "onnx" / "model.onnx", OnnxOptions(**options))  # a folder further up
        return look.side, look.mean[0], look.std[0], look.resize, len(look.remarks)

    assert found({**half, "size": {"height": 224, "width": 224}, "resample": 2}) == (
        224,
        0.5,
        0.5,
        "bilinear",
        0,
    )
    cropped = {**half, "size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}
    assert found(cropped) == (224, 0.5, 0.5, "bicubic", 1)
    assert found({**half, "size": {"shortest_edge": 224}, "crop_pct": 0.875}) == (224, 0.5, 0.5, "bicubic", 1)
    assert found({"size": 64, "do_normalize": False})[1:3] == (0.0, 1.0)
    assert found({**half, "size": 64, "rescale_factor": 1 / 127.5})[1:3] == (0.25, 0.25)
    raw = {"size": 64, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51] * 3}
    assert found(raw)[1:3] == pytest.approx((0.5, 0.2))
    assert found(raw, mean=(0, 0, 0), std=(1, 1, 1))[1:3] == (0.0, 1.0)
    assert found(raw, scale=255)[1:3] == pytest.approx((0, 1 / 255))
    assert found({**half, "size": 64, "resample": 1}, resize="bicubic")[3] == "bicubic"
    for wrong, message in (
        ({**half, "resample": 1}, r"resample is 1 \(lanczos\).* --encoder-resize"),
        ({**half, "do_flip_channel_order": True}, r"do_flip_channel_order is True"),
        ({**half, "size": {"height": 224, "width": 112}}, r"size is 224 x 112, pictures are square"),
        ({"image_mean": [0.5]}, r"image_mean is \[0.5\], it must be three numbers"),
        ({**half, "size": "large"}, r"size is large, it must be a number of pixels"),
        ({**half, "rescale_factor": -1}, r"rescale_factor is -1, it must be a number above 0"),
    ):
        with pytest.raises(WeightsError, match=message):
            found(wrong)
    (tmp_path / "preprocessor_config.json").write_text("[")
    with pytest.raises(WeightsError, match=r"cannot be read .* move it away"):
        find_pixels(tmp_path / "model.onnx", OnnxOptions())


def test_a_processor_of_another_file_is_noticed(tmp_path):
    path = write(onnx_encoder(), tmp_path / "clip" / "model.onnx")
    said = {"size": 64, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    (path.parent / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(
        WeightsError, match=r"takes pictures of 32 px, its processor makes 64.*--input-size 32"
    ):
        encoder_from_onnx(path, OnnxOptions())
    encoder = encoder_from_onnx(path, OnnxOptions(), 32)
    assert encoder.config.architecture == "onnx:clip"  # the file is called as all are


def test_our_file_of_it_is_checked_before_it_runs(tmp_path):
    ours = tmp_path / "encoder.safetensors"
    save_encoder(encoder_from_onnx(write(onnx_encoder(), tmp_path / "clip.onnx"), SAID), ours)
    with pytest.raises(WeightsError, match=r"--input-size is 48, the graph .* takes 32"):
        bind_encoder(ours, tmp_path / "other.safetensors", 48)
    config = {"config": json.dumps(read_metadata(ours))}
    graph = onnx.load_model_from_string(load_file(ours)["onnx"].numpy().tobytes())
    graph.graph.initializer[0].data_location = TensorProto.EXTERNAL
    for tensors, message in (
        ({"onnx": as_tensor(graph)}, "all weights inside"),
        ({"onnx": as_tensor(onnx_encoder())}, "its graph is .* expected"),
        ({"onnx": torch.zeros(9, dtype=torch.uint8)}, "its graph is"),
        ({"weight": torch.zeros(9)}, "does not hold one ONNX graph"),
    ):
        save_file(tensors, ours, config)
        with pytest.raises(WeightsError, match=message):
            load_encoder(ours)


def read_metadata(path: Path) -> Any:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["config"])


def as_tensor(model: ModelProto) -> torch.Tensor:
    return torch.frombuffer(bytearray(model.SerializeToString()), dtype=torch.uint8)


def test_a_data_set_is_prepared_and_its_neighbourhoods_are_reported(photo, tmp_path, capsys):
    for name in ("sunny", "dull"):
        write_pictures(tmp_path / "pictures" / name, photo, 4, seed=len(name))
    path = write(onnx_encoder(side="s"), tmp_path / "dino.onnx")
    command = ["prepare", str(tmp_path / "pictures"), "--resolution", "16", "--neighbours", "2"]
    command += ["--out", str(tmp_path / "data"), "--encoder", str(path), "--input-size", "32"]
    assert main(command) == 1
    assert "--encoder-mean" in capsys.readouterr().err
    assert not (tmp_path / "data.partial").exists()
    assert main([*command, "--encoder-scale", "255", "--encoder-resize", "bilinear"]) == 0
    said = capsys.readouterr().err
    assert "label agreement" in said
    assert "two random pictures" in said
    data = PreparedDataset.open(tmp_path / "data")
    assert (data.meta.encoder.name, data.meta.encoder.input_size) == ("onnx:dino", 32)
    encoder = load_encoder(data.encoder_path)
    assert encoder.config.std == pytest.approx((1 / 255,) * 3)
    with torch.inference_mode():
        found = encoder(torch.from_numpy(np.array(data.images))).numpy()
    np.testing.assert_allclose(found, data.embeddings, atol=1e-6)
    assert isinstance(encoder, Encoder)
    assert main(["neighbours", str(tmp_path / "data"), "--out", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    other = ["--encoder", str(data.encoder_path), "--out", str(tmp_path / "other"), "--encoder-scale", "1"]
    assert main([*command[:6], *other]) == 1
    assert "--encoder-scale goes with --encoder FILE.onnx" in capsys.readouterr().err
