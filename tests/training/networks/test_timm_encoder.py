"""timm's models as encoders: any architecture, with a file of weights that is the right one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from icgan_runtime.errors import MissingExtraError
from icgan_training.cli import main
from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import WeightsError
from icgan_training.networks import timm_encoder
from icgan_training.networks.encoder import encoder_from_timm, fold_batch_norm, load_encoder, save_encoder
from icgan_training.networks.timm_encoder import describe, read_timm_weights, timm_backbone
from tests.training.pictures import write_pictures

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="pip install --no-deps timm")
SHIPPED = Path(__file__).parents[3] / "models" / "encoders" / "efficientnet-lite0.safetensors"
VIT, CONVNEXT, EFFICIENTNET = "test_vit", "test_convnext", "test_efficientnet"  # timm's own for tests, 160 px


@pytest.fixture(scope="module", params=[VIT, CONVNEXT])
def weights(request, tmp_path_factory) -> tuple[str, Path]:
    """An architecture, and random weights in its names, with a classifier as published files have."""
    torch.manual_seed(0)
    state = timm_backbone(request.param, describe(request.param).input_size).state_dict()
    path = tmp_path_factory.mktemp("timm") / f"{request.param}.safetensors"
    save_file(state | {"head.fc.weight": torch.zeros(10, 3), "head.bias": torch.zeros(10)}, path)
    return request.param, path


def pictures(side: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8))


def test_size_width_and_normalisation_are_timms(weights):
    name, path = weights
    config = encoder_from_timm(f"timm:{name}", path).config
    assert (config.input_size, config.embedding_dim) == (160, 64)
    assert config.mean == (0.5, 0.5, 0.5)
    other = describe(EFFICIENTNET)
    assert (other.embedding_dim, other.mean) == (256, (0.485, 0.456, 0.406))


def test_it_comes_back_from_our_file_as_it_was(weights, tmp_path):
    name, path = weights
    encoder = encoder_from_timm(f"timm:{name}", path, 32)
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    loaded = load_encoder(tmp_path / "encoder.safetensors")
    assert loaded.config == encoder.config
    with torch.inference_mode():
        expected = encoder(pictures(16))
        torch.testing.assert_close(loaded(pictures(16)), expected, rtol=0, atol=0)
        torch.testing.assert_close(fold_batch_norm(loaded)(pictures(16)), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(2))


def test_a_data_set_is_prepared_with_it(weights, photo, tmp_path, capsys):
    name, path = weights
    write_pictures(tmp_path / "pictures", photo, 6)
    command = ["prepare", str(tmp_path / "pictures"), "--resolution", "16", "--neighbours", "2"]
    command += ["--out", str(tmp_path / "data"), "--encoder", f"timm:{name}", "--input-size", "32"]
    assert main(command) == 1
    assert "--weights FILE" in capsys.readouterr().err
    assert main([*command, "--weights", str(path)]) == 0
    data = PreparedDataset.open(tmp_path / "data")
    assert data.meta.encoder.name == f"timm:{name}"
    assert data.embeddings.shape == (6, data.meta.encoder.embedding_dim)


def test_the_shipped_weights_in_timms_names_give_the_shipped_encoders_embeddings(photo, tmp_path):
    ours = load_encoder(SHIPPED)
    names = {
        "stem.conv": "conv_stem", "stem.bn": "bn1", "head.conv": "conv_head", "head.bn": "bn2",
    }  # fmt: skip
    theirs = timm_backbone("tf_efficientnet_lite0", 224).state_dict()
    blocks = [
        key.rpartition(".")[0] for key in theirs if key.startswith("blocks.") and key.endswith("weight")
    ]
    order = [key.rpartition(".")[0] for key in ours.backbone.state_dict() if key.endswith("weight")]
    names |= dict(zip([key for key in order if key.startswith("blocks.")], blocks, strict=True))
    state = {
        f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value.contiguous()
        for key, value in ours.backbone.state_dict().items()
    }
    save_file(state, tmp_path / "weights.safetensors")
    encoder = encoder_from_timm("timm:tf_efficientnet_lite0", tmp_path / "weights.safetensors")
    picture = torch.from_numpy(np.array(photo.resize((64, 64), Image.Resampling.BILINEAR)))[None]
    with torch.inference_mode():
        torch.testing.assert_close(encoder(picture), ours(picture), rtol=0, atol=1e-4)


def test_position_embeddings_are_resampled_to_the_side_of_the_pictures(tmp_path):
    torch.manual_seed(0)
    save_file(timm_backbone(VIT, 160).state_dict(), tmp_path / "w.safetensors")
    assert read_timm_weights(VIT, tmp_path / "w.safetensors", 64).get_parameter("pos_embed").shape[1] == 17


def test_a_file_of_another_model_is_refused_by_name(tmp_path):
    state = timm_backbone(VIT, 160).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=rf"w\.safetensors does not fit timm:{CONVNEXT}: "):
        read_timm_weights(CONVNEXT, tmp_path / "w.safetensors", 160)
    save_file({**state, "norm.weight": torch.zeros(65)}, tmp_path / "wide.safetensors")
    with pytest.raises(WeightsError, match=rf"timm:{VIT}: shape of norm\.weight is \[65\], expected \[64\]"):
        read_timm_weights(VIT, tmp_path / "wide.safetensors", 160)


def test_a_file_that_lacks_one_tensor_or_has_one_too_many_is_refused(tmp_path):
    state = timm_backbone(VIT, 160).state_dict()
    save_file({**state, "blocks.99.norm1.bias": torch.zeros(64)}, tmp_path / "more.safetensors")
    with pytest.raises(WeightsError, match=r"unexpected blocks\.99\.norm1\.bias"):
        read_timm_weights(VIT, tmp_path / "more.safetensors", 160)
    del state["norm.bias"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(WeightsError, match=r"missing norm\.bias"):
        read_timm_weights(VIT, tmp_path / "less.safetensors", 160)


def test_a_training_checkpoint_of_torch_is_read_for_its_state_dict(tmp_path):
    state = {f"module.{key}": value for key, value in timm_backbone(CONVNEXT, 160).state_dict().items()}
    torch.save({"epoch": 3, "model": state}, tmp_path / "checkpoint.pth")
    found = read_timm_weights(CONVNEXT, tmp_path / "checkpoint.pth", 160).state_dict()
    assert all(torch.equal(found[key.removeprefix("module.")], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_tiny_patch17",
            r"no model 'vit_tiny_patch17'; it has vit_tiny_patch16_384, vit_tiny_",
        ),
        ("nowhere", r"timm has no model 'nowhere'$"),
    ],
)
def test_an_unknown_name_is_refused_with_names_like_it(name, message):
    with pytest.raises(WeightsError, match=message):
        describe(name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_size": (3, 224, 192)}, "ours are square RGB"),
        ({"input_size": (1, 224, 224)}, "1 channels"),
        ({"interpolation": "lanczos"}, "resized by 'lanczos', known: bicubic, bilinear"),
    ],
)
def test_preprocessing_that_ours_cannot_be_is_refused(given, message, monkeypatch):
    create = timm_encoder._create

    def changed(name: str) -> object:
        model = create(name)
        model.pretrained_cfg = model.pretrained_cfg | given
        return model

    monkeypatch.setattr(timm_encoder, "_create", changed)
    with pytest.raises(WeightsError, match=message):
        describe(CONVNEXT)


def test_without_timm_the_message_names_the_extra(monkeypatch, tmp_path):
    def missing() -> None:
        raise MissingExtraError("timm", "timm")

    monkeypatch.setattr(timm_encoder, "_timm", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'icgan\[timm\]'"):
        encoder_from_timm("timm:resnet18", tmp_path / "any.pth")
