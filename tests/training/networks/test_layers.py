import copy
import math

import pytest
import torch
from torch import distributed as dist

from icgan_training.networks.layers import (
    BatchNorm,
    SelfAttention,
    SNConv2d,
    SNDownConv2d,
    SNEmbedding,
    SNLinear,
    synchronise_statistics,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def largest_singular_value(layer):
    return torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)


@pytest.mark.parametrize(
    "layer", [SNConv2d(6, 9, 3), SNLinear(20, 7), SNEmbedding(11, 5)], ids=["conv", "linear", "embedding"]
)
def test_training_steps_find_the_largest_singular_value(layer):
    torch.nn.init.normal_(layer.weight)
    for _ in range(200):
        layer.spectral_norm()
    assert torch.allclose(layer.spectral_norm(), largest_singular_value(layer), rtol=1e-4)


def test_a_fresh_layer_has_orthogonal_rows():
    weight = SNConv2d(8, 5, 3).weight.flatten(1)
    assert torch.allclose(weight @ weight.T, torch.eye(5), atol=1e-5)


def test_evaluation_repeats_the_step_from_the_stored_vector():
    layer = SNConv2d(4, 4, 3).eval()
    torch.nn.init.normal_(layer.weight)
    stored = layer.u0.clone()
    first = layer.spectral_norm()
    assert torch.equal(layer.spectral_norm(), first)
    assert torch.equal(layer.u0, stored)
    layer.train()
    assert torch.equal(layer.spectral_norm(), first)  # a training step starts from the same vector
    assert not torch.equal(layer.u0, stored)


def test_the_gradient_takes_the_norm_into_account():
    layer = SNLinear(6, 4).double().eval()
    torch.nn.init.normal_(layer.weight)
    for _ in range(500):  # at convergence the power step's vectors are the singular vectors
        layer.train().spectral_norm()
    layer.eval()
    direction, target = torch.randn(4, 6).double(), torch.randn(4, 6).double()
    (layer.normalised_weight() * target).sum().backward()
    step = 1e-6
    moved = []
    for sign in (1, -1):
        weight = layer.weight.detach() + sign * step * direction
        moved.append((weight / torch.linalg.matrix_norm(weight, ord=2) * target).sum())
    numeric = (moved[0] - moved[1]) / (2 * step)
    gradient = layer.weight.grad
    assert gradient is not None
    assert math.isclose(float((gradient * direction).sum()), float(numeric), rel_tol=1e-5)


def test_channels_last_weights_give_the_same_output():
    layer = SNConv2d(6, 5, 3).eval()
    x = torch.randn(2, 6, 8, 8)
    expected = layer(x)
    layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
    assert torch.allclose(layer(x.to(memory_format=torch.channels_last)), expected, atol=1e-6)


def test_the_norm_stays_float32_under_autocast():
    layer = SNLinear(6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.spectral_norm().dtype == torch.float32
        assert layer.normalised_weight().dtype == torch.float32
        assert layer(torch.randn(2, 6)).dtype == torch.bfloat16


def test_attention_starts_as_the_identity():
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(SelfAttention(16)(x), x)


def test_batch_norm_over_processes_is_that_over_the_joined_batch(one_process):
    plain, joined = BatchNorm(5), BatchNorm(5)
    synchronise_statistics(joined, True)
    x = 3 + 2 * torch.randn(8, 5, 6, 6)
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs = plain(inputs[0]), joined(inputs[1])
    assert torch.allclose(*outputs, atol=1e-5)
    target = torch.randn_like(x)
    for output in outputs:
        (output * target).sum().backward()
    plainly, jointly = (x.grad for x in inputs)
    assert plainly is not None
    assert jointly is not None
    assert torch.allclose(plainly, jointly, atol=1e-5)
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, joined.state_dict()[name], atol=1e-5), name


def test_compiled_layers_have_the_gradient_of_the_written_ones():
    # The backend partitions forward and backward as the real compiler does, and compiles nothing.
    torch.manual_seed(0)
    written = torch.nn.Sequential(SNConv2d(3, 4, 3), torch.nn.ReLU(), SNDownConv2d(4, 6))
    again = copy.deepcopy(written)
    compiled = torch.compile(again, backend="aot_eager_decomp_partition")
    picture = torch.rand(2, 3, 8, 8)
    for _ in range(2):  # the second pass starts from the moved power vectors
        for network in (written, compiled):
            network(picture).square().sum().backward()
    for expected, found in zip(written.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=1e-5)
    assert torch.equal(again.state_dict()["0.u0"], written.state_dict()["0.u0"])
