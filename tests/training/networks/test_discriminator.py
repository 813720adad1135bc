from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from icgan_training.networks.config import ModelConfig
from icgan_training.networks.discriminator import Discriminator
from tests.models.published import Shape, judge, random_discriminator

GOLDEN = Path(__file__).parents[2] / "golden" / "published.safetensors"
VECTORS = Path(__file__).parents[4] / "shared" / "reference" / "vectors"

SHAPES = [
    Shape(32, ch=4, attention=16, embedding=48),
    Shape(64, ch=2, attention=32, embedding=48),
    Shape(64, ch=2, attention=32, classes=7, embedding=48),
    Shape(128, ch=2, attention=64, classes=7, embedding=None),
    Shape(256, ch=2, attention=64, classes=7, embedding=48),
    Shape(512, ch=1, attention=64, classes=7, embedding=48),
]


def config_of(shape):
    return ModelConfig(
        shape.resolution,
        shape.ch,
        attention=(shape.attention,),
        embedding_dim=shape.embedding,
        class_count=shape.classes,
    )


def ours(config, published):
    discriminator = Discriminator(config).eval()
    state = {k.removeprefix("module."): v for k, v in published.items() if not k.endswith("sv0")}
    discriminator.load_state_dict(state, strict=True)
    return discriminator


def inputs_of(shape, count=2, seed=3):
    source = torch.Generator().manual_seed(seed)
    image = torch.rand(count, 3, shape.resolution, shape.resolution, generator=source) * 2 - 1
    feats = None
    if shape.embedding is not None:
        feats = F.normalize(torch.randn(count, shape.embedding, generator=source), dim=1)
    labels = None if shape.classes is None else torch.arange(count) % shape.classes
    return image, feats, labels


@torch.no_grad()
def test_a_gain_makes_instances_count_for_more_and_their_mean_for_nothing():
    config = ModelConfig(32, ch=4, embedding_dim=48, instance_gain=4.0)
    torch.manual_seed(0)
    discriminator, image = Discriminator(config).eval(), torch.rand(1, 3, 32, 32)
    feats = F.normalize(torch.rand(20, 48), dim=1)
    discriminator.centre_instances(feats.mean(0))
    projected = discriminator.projection(image, feats, None)
    assert projected.mean(0).abs().max() < 1e-5
    discriminator.linear_feat.length = 1.0
    discriminator.centre_instances(feats.mean(0))
    assert torch.allclose(projected, 4 * discriminator.projection(image, feats, None), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_are_those_of_the_published_network(shape):
    published = random_discriminator(shape)
    image, feats, labels = inputs_of(shape)
    logits = ours(config_of(shape), published)(image, feats, labels)
    expected = judge(published, shape, image, feats, labels)
    assert logits.shape == (2, 1)
    assert (logits - expected).abs().max() < 1e-5 * (1 + expected.abs().max())


@torch.no_grad()
def test_scores_are_the_frozen_ones():
    tensors = load_file(GOLDEN)
    shape = Shape(64, ch=2, attention=32, classes=10, embedding=64)
    prefix = "discriminator."
    published = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    logits = ours(config_of(shape), published)(tensors["image"], tensors["feats"], tensors["labels"])
    assert (logits - tensors["logits"]).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(
    ("folder", "shape"),
    [
        ("icgan_res64_ch8", Shape(64, ch=8, attention=32)),
        ("cc_icgan_res128_ch8", Shape(128, ch=8, attention=64, classes=100)),
    ],
)
def test_the_shared_vectors_agree_for_modules_and_oracle(folder, shape):
    if not VECTORS.is_dir():
        pytest.skip("the published networks' full-size vectors are not beside this checkout")
    inputs = {k: torch.from_numpy(v) for k, v in np.load(VECTORS / folder / "inputs.npz").items()}
    reference = {k: torch.from_numpy(v) for k, v in np.load(VECTORS / folder / "reference.npz").items()}
    published = torch.load(VECTORS / folder / "D_best0.pth", weights_only=True)
    plain = {k.removeprefix("module."): v for k, v in published.items()}
    args = (reference["image"], inputs["feats"], inputs.get("labels"))
    for logits in (ours(config_of(shape), published)(*args), judge(plain, shape, *args)):
        assert (logits - reference["d_logits"]).abs().max() < 1e-5


def test_one_pass_over_two_batches_scores_each_picture_as_on_its_own():
    discriminator = Discriminator(config_of(SHAPES[2])).eval()
    image, feats, labels = inputs_of(SHAPES[2], count=4)
    together = discriminator(image, feats, labels)
    apart = [discriminator(image[i : i + 2], feats[i : i + 2], labels[i : i + 2]) for i in (0, 2)]
    assert torch.allclose(together, torch.cat(apart), atol=1e-5)


def test_every_parameter_receives_a_gradient():
    torch.manual_seed(0)
    discriminator = Discriminator(config_of(SHAPES[2]))
    with torch.no_grad():
        for name, parameter in discriminator.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
    discriminator(*inputs_of(SHAPES[2], count=4)).square().sum().backward()
    assert [n for n, p in discriminator.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_scores_stay_float32_under_bfloat16_autocast():
    discriminator = Discriminator(config_of(SHAPES[1])).eval()
    args = inputs_of(SHAPES[1])
    exact = discriminator(*args)
    with torch.autocast("cpu", torch.bfloat16):
        logits = discriminator(*args)
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().max() < 0.05 * (1 + exact.abs().max())


def test_a_missing_condition_is_named():
    image, feats, labels = inputs_of(SHAPES[2])
    discriminator = Discriminator(config_of(SHAPES[2]))
    with pytest.raises(ValueError, match="label is missing"):
        discriminator(image, feats)
    with pytest.raises(ValueError, match="embedding is None"):
        discriminator(image, None, labels)
