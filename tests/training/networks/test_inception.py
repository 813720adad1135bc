import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from icgan_training.errors import WeightsError
from icgan_training.networks.inception import (
    BN_EPS,
    Conv,
    Inception,
    enlarge,
    graph_names,
    inception_from_graph,
    load_inception,
    load_inception_with_logits,
    save_inception,
    torch_names,
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Inception().eval()


@pytest.fixture(scope="module")
def pictures():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8))


def with_norms(network, names, leaves):
    """The network's weights under other names, with batch norms that undo themselves when folded."""
    state: dict[str, torch.Tensor] = {}
    convs = [module for module in network.modules() if isinstance(module, Conv)]
    for conv, name in zip(convs, names, strict=True):
        assert conv.bias is not None
        var = torch.rand(conv.out_channels) + 0.5
        scale = torch.sqrt(var + BN_EPS)
        mean = torch.randn(conv.out_channels)
        tensors = {
            "weight": conv.weight * scale.view(-1, 1, 1, 1),
            "mean": mean,
            "var": var,
            "beta": conv.bias + mean / scale,
            "gain": torch.ones(conv.out_channels),
        }
        state |= {f"{name}.{leaf}": tensors[kind].detach() for kind, leaf in leaves.items()}
    return state


def test_enlarging_samples_without_half_pixel_centres():
    line = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    assert enlarge(line, 8)[0, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]


@torch.inference_mode()
def test_features_have_the_published_width_and_survive_saving(network, pictures, tmp_path):
    save_inception(network, tmp_path / "inception.safetensors", source="test", licence="MIT")
    features = load_inception(tmp_path / "inception.safetensors")(pictures)
    assert features.shape == (1, 2048)
    torch.testing.assert_close(features, network(pictures), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_weights_with_the_names_of_the_original_graph_are_folded_in(network, pictures):
    names = ("weight", "mean", "var", "beta")
    state = with_norms(network, graph_names(), dict(zip(names, names, strict=True)))
    torch.testing.assert_close(inception_from_graph(state)(pictures), network(pictures), atol=1e-4, rtol=1e-3)


@torch.inference_mode()
def test_a_users_file_with_a_class_layer_gives_logits(network, pictures, tmp_path):
    leaves = {"weight": "conv.weight", "mean": "bn.running_mean", "var": "bn.running_var"}
    state = with_norms(network, torch_names(), leaves | {"beta": "bn.bias", "gain": "bn.weight"})
    state["fc.weight"] = torch.randn(1008, 2048)
    torch.save(state, tmp_path / "full.pth")
    full = load_inception_with_logits(tmp_path / "full.pth")
    features = full(pictures)
    torch.testing.assert_close(features, network(pictures), atol=1e-4, rtol=1e-3)
    assert torch.equal(full.logits(features), features @ state["fc.weight"].T)


def test_the_class_layer_goes_to_the_device_with_the_rest():
    with torch.device("meta"):
        network = Inception()
    network.head = torch.zeros(1008, 2048)
    assert network.to("meta").head.device.type == "meta"
    assert "head" not in network.state_dict()


def test_a_file_without_a_class_layer_cannot_give_logits(network, tmp_path):
    with pytest.raises(WeightsError, match="no class layer"):
        network.logits(torch.zeros(1, 2048))
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="not a full FID Inception"):
        load_inception_with_logits(tmp_path / "other.pth")


def test_another_safetensors_file_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="expected fid-inception-v3"):
        load_inception(tmp_path / "other.safetensors")


def test_average_pools_leave_the_border_out(network):
    pools = [module for module in network.modules() if isinstance(module, nn.AvgPool2d)]
    assert len(pools) == 8
    assert not any(pool.count_include_pad for pool in pools)
