import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from icgan_training.networks.config import ModelConfig
from icgan_training.networks.generator import Generator
from icgan_training.networks.presets import preset
from tests.models.published import Shape, generate, random_generator

GOLDEN = Path(__file__).parents[2] / "golden" / "published.safetensors"
VECTORS = Path(__file__).parents[4] / "shared" / "reference" / "vectors"

SHAPES = [
    Shape(32, ch=4, attention=16, embedding=48, shared_feat=24),
    Shape(64, ch=2, attention=32, embedding=48, shared_feat=24),
    Shape(64, ch=2, attention=32, classes=7, embedding=48, shared_feat=24),
    Shape(128, ch=2, attention=64, classes=7, embedding=None),
    Shape(256, ch=2, attention=64, embedding=48, shared_feat=24),
    Shape(512, ch=2, attention=64, embedding=48, shared_feat=24),
]


def config_of(shape):
    return ModelConfig(
        shape.resolution,
        shape.ch,
        attention=(shape.attention,),
        dim_z=shape.dim_z,
        shared_dim_feat=shape.shared_feat,
        embedding_dim=shape.embedding,
        class_count=shape.classes,
    )


def ours(config, published):
    """A generator with published weights, which carry two kinds of entries that evaluation never reads."""
    generator = Generator(config).eval()
    unused = () if config.class_count else ("shared.weight",)
    state = {k: v for k, v in published.items() if not k.endswith("sv0") and k not in unused}
    generator.load_state_dict(state, strict=True)
    return generator


def inputs_of(shape, count=2, seed=3):
    source = torch.Generator().manual_seed(seed)
    z = torch.randn(count, shape.dim_z, generator=source)
    feats = None
    if shape.embedding is not None:
        feats = F.normalize(torch.randn(count, shape.embedding, generator=source), dim=1)
    labels = None if shape.classes is None else torch.arange(count) % shape.classes
    return z, feats, labels


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pictures_are_those_of_the_published_network(shape):
    published = random_generator(shape)
    z, feats, labels = inputs_of(shape)
    image = ours(config_of(shape), published)(z, feats, labels)
    assert image.shape == (2, 3, shape.resolution, shape.resolution)
    assert (image - generate(published, shape, z, feats, labels)).abs().max() < 1e-5


@torch.no_grad()
def test_pictures_are_the_frozen_ones():
    tensors = load_file(GOLDEN)
    shape = Shape(64, ch=2, attention=32, classes=10, embedding=64, shared_feat=32)
    published = {k.removeprefix("generator."): v for k, v in tensors.items() if k.startswith("generator.")}
    image = ours(config_of(shape), published)(tensors["z"], tensors["feats"], tensors["labels"])
    assert (image - tensors["image"]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    ("folder", "shape"),
    [
        ("icgan_res64_ch8", Shape(64, ch=8, attention=32)),
        ("cc_icgan_res128_ch8", Shape(128, ch=8, attention=64, classes=100)),
    ],
)
@pytest.mark.parametrize("noise", ["z", "z_wide128"])
def test_the_shared_vectors_agree_for_modules_and_oracle(folder, shape, noise):
    if not VECTORS.is_dir():
        pytest.skip("the published networks' full-size vectors are not beside this checkout")
    inputs = {k: torch.from_numpy(v) for k, v in np.load(VECTORS / folder / "inputs.npz").items()}
    reference = {k: torch.from_numpy(v) for k, v in np.load(VECTORS / folder / "reference.npz").items()}
    published = torch.load(VECTORS / folder / "G_ema_best0.pth", weights_only=True)
    generator = ours(config_of(shape), published)
    activations: dict[str, torch.Tensor] = {}
    for name, module in generator.named_modules():
        module.register_forward_hook(lambda _m, _i, out, name=name: activations.__setitem__(name, out))
    args = (inputs[noise], inputs["feats"], inputs.get("labels"))
    assert (generator(*args) - reference["image"]).abs().max() < 1e-5
    assert (generate(published, shape, *args) - reference["image"]).abs().max() < 1e-5
    for key, expected in reference.items():
        if key.startswith("act_"):
            name = key.removeprefix("act_")
            name = name.replace("_", ".") if name.startswith("blocks") else name
            assert (activations[name] - expected).abs().max() < 1e-5, name


@torch.no_grad()
def test_noise_past_the_used_columns_changes_nothing():
    shape = SHAPES[-2]  # 256 px uses 119 of its 120 columns
    generator = Generator(config_of(shape)).eval()
    z, feats, _ = inputs_of(shape)
    image = generator(z, feats)
    wide = torch.cat([z[:, :119], torch.full((2, 9), 50.0)], dim=1)
    assert torch.equal(generator(z[:, :119], feats), image)
    assert torch.equal(generator(wide, feats), image)
    with pytest.raises(ValueError, match=r"noise is \[2, 118\]"):
        generator(z[:, :118], feats)


@torch.no_grad()
def test_flat_noise_enters_at_the_bottom_only():
    config = ModelConfig(32, ch=2, hierarchical=False, embedding_dim=8, shared_dim_feat=8, dim_z=12)
    image = Generator(config).eval()(torch.randn(2, 12), torch.randn(2, 8))
    assert image.shape == (2, 3, 32, 32)
    assert config.condition_dim == 8


@torch.no_grad()
def test_the_unconditional_model_takes_noise_alone():
    config = preset("cifar10-unconditional").model
    generator = Generator(ModelConfig(32, ch=2, embedding_dim=None, class_count=1)).eval()
    z = torch.randn(2, config.dim_z)
    assert torch.equal(generator(z), generator(z, label=torch.zeros(2, dtype=torch.int64)))


def test_a_missing_or_misshapen_condition_is_named():
    z, feats, _ = inputs_of(SHAPES[2])
    generator = Generator(config_of(SHAPES[2])).eval()
    with pytest.raises(ValueError, match="label is missing; the model has 7 classes"):
        generator(z, feats)
    with pytest.raises(ValueError, match=r"embedding is \[2, 47\]; expected \[N, 48\]"):
        generator(z, feats[:, :-1], torch.zeros(2, dtype=torch.int64))


def test_evaluation_writes_nothing_and_training_moves_statistics_and_power_vectors():
    generator = Generator(preset("tiny").model).eval()
    args = torch.randn(4, 16), F.normalize(torch.randn(4, 16), dim=1)
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    generator(*args)
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())
    generator.train()(*args)
    moved = {k for k, v in generator.state_dict().items() if not torch.equal(v, before[k])}
    expected = {k for k in before if k.rsplit(".")[-1] in ("u0", "stored_mean", "stored_var")}
    assert moved == expected


def test_every_parameter_receives_a_gradient():
    torch.manual_seed(0)
    generator = Generator(config_of(SHAPES[2]))
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("gamma"):  # starts at zero, which would hide the attention behind it
                parameter.fill_(0.5)
    z, feats, labels = inputs_of(SHAPES[2], count=4)
    (generator(z, feats, labels) * torch.randn(4, 3, 64, 64)).sum().backward()
    idle = [n for n, p in generator.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@torch.no_grad()
def test_bfloat16_autocast_gives_float32_pictures_close_to_the_exact_ones():
    torch.manual_seed(0)
    generator = Generator(config_of(SHAPES[1])).eval()
    z, feats, _ = inputs_of(SHAPES[1])
    with torch.autocast("cpu", torch.bfloat16):
        image = generator(z, feats)
    assert image.dtype == torch.float32
    assert (image - generator(z, feats)).abs().mean() < 0.02


def test_a_training_forward_is_captured_as_one_graph():
    generator = Generator(preset("tiny").model)
    args = torch.randn(4, 16), F.normalize(torch.randn(4, 16), dim=1)
    twin = copy.deepcopy(generator)
    image = torch.compile(twin, backend="eager", fullgraph=True)(*args)
    assert torch.allclose(image, generator(*args), atol=1e-6)
    assert torch.equal(twin.linear.u0, generator.linear.u0)
