import copy
import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from icgan_training.errors import WeightsError
from icgan_training.networks.efficientnet import same_padding
from icgan_training.networks.encoder import (
    EncoderConfig,
    fold_batch_norm,
    load_encoder,
    random_encoder,
    resnet50_from_torch,
    save_encoder,
)
from tests.training.pictures import TINY_ENCODER

RESNET = EncoderConfig("resnet50", 2048, 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def pictures(photo):
    crops = [photo.crop((left, 0, left + 200, 200)).resize((24, 24)) for left in (0, 60, 120)]
    return torch.from_numpy(np.stack([np.asarray(crop) for crop in crops]))


@pytest.fixture(scope="module")
def resnet():
    return random_encoder(RESNET)


@pytest.fixture(params=["efficientnet-lite0", "resnet50"])
def encoder(request, resnet):
    """A fresh encoder of either architecture."""
    return random_encoder(TINY_ENCODER) if request.param == "efficientnet-lite0" else copy.deepcopy(resnet)


@torch.inference_mode()
def test_embeddings_are_unit_rows_of_the_stated_width(encoder, pictures):
    embeddings = encoder(pictures)
    assert embeddings.shape == (3, encoder.config.embedding_dim)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


@torch.inference_mode()
def test_a_saved_encoder_comes_back_with_the_same_embeddings(encoder_file, pictures):
    loaded = load_encoder(encoder_file)
    assert loaded.config == TINY_ENCODER
    assert not loaded.training
    assert torch.equal(loaded(pictures), random_encoder(TINY_ENCODER)(pictures))


@torch.inference_mode()
def test_folding_batch_norm_changes_nothing_but_rounding(encoder, pictures):
    for norm in (module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
    before = encoder(pictures)
    folded = fold_batch_norm(encoder)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(pictures), before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("size", "padding"), [(224, (0, 1)), (223, (1, 1)), (7, (1, 1))])
def test_same_padding_puts_the_odd_pixel_last(size, padding):
    assert same_padding(size, kernel=3, stride=2) == padding


@pytest.mark.parametrize("kind", ["torchvision", "swav", "classifier-balancing"])
@torch.inference_mode()
def test_the_published_resnet_files_are_read(kind, resnet, pictures, tmp_path):
    state = resnet.backbone.state_dict()
    if kind == "torchvision":
        content = {**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    elif kind == "swav":
        content = {f"module.{key}": value for key, value in state.items()}
        content["module.projection_head.0.weight"] = torch.zeros(4, 2048)
        content["module.prototypes.weight"] = torch.zeros(4, 4)
    else:
        network = {f"module._feature_blocks.{key}": value for key, value in state.items()}
        content = {"state_dict_best": {"feat_model": network, "classifier": {}}, "epoch": 90}
    path = tmp_path / "resnet50.pth"
    torch.save(content, path)
    read = resnet50_from_torch(path, source="test", licence="test")
    read.config = dataclasses.replace(read.config, input_size=64)
    assert torch.equal(read(pictures), resnet(pictures))


def test_a_resnet_file_with_a_missing_layer_is_refused_by_name(resnet, tmp_path):
    state = resnet.backbone.state_dict()
    del state["layer3.2.conv1.weight"]
    torch.save(state, tmp_path / "partial.pth")
    with pytest.raises(WeightsError, match=r"missing layer3\.2\.conv1\.weight; unexpected none"):
        resnet50_from_torch(tmp_path / "partial.pth", source="", licence="")


def test_code_in_a_weights_file_never_runs(tmp_path):
    trap = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"conv1.weight": Trap()}))
    with pytest.raises(WeightsError, match="not a plain torch state dict") as refusal:
        resnet50_from_torch(tmp_path / "evil.pth", source="", licence="")
    assert not trap.exists()
    assert "weights_only" not in str(refusal.value), "torch's own words recommend to run it"


def test_a_safetensors_file_that_is_no_encoder_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no encoder config"):
        load_encoder(tmp_path / "other.safetensors")


def test_a_truncated_encoder_file_is_refused(encoder_file, tmp_path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(encoder_file.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_encoder(path)


def test_an_encoder_file_from_a_later_program_is_refused(encoder_file, tmp_path):
    content = encoder_file.read_bytes().replace(rb"\"schema_version\": 1", rb"\"schema_version\": 9")
    (tmp_path / "later.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="schema_version is 9, this program reads 1"):
        load_encoder(tmp_path / "later.safetensors")


def test_a_width_that_the_network_does_not_have_is_refused():
    with pytest.raises(WeightsError, match="embedding_dim is 512, resnet50 gives 2048"):
        dataclasses.replace(RESNET, embedding_dim=512)


def test_saving_leaves_no_temporary_file(tmp_path):
    save_encoder(random_encoder(TINY_ENCODER), tmp_path / "encoder.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["encoder.safetensors"]


@torch.inference_mode()
def test_the_picture_is_enlarged_inside(encoder_file, photo):
    """A picture already at the input size and the same one reduced first stay close."""
    encoder = load_encoder(encoder_file)
    at_size, reduced = (
        torch.from_numpy(np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR)).copy())[None]
        for size in (32, 24)
    )
    assert (encoder(at_size) * encoder(reduced)).sum() > 0.9
