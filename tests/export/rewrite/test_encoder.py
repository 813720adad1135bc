import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from icgan_export.lower.graphs import encoder_graph
from icgan_export.lower.onnx_export import count_operators
from icgan_export.rewrite.encoder import EncoderRewrites, resize_matrix, rewrite_encoder
from icgan_training.networks.encoder import Encoder, EncoderConfig, random_encoder

EXACT = 1e-10  # in float64
REWRITES = {
    "normalisation": EncoderRewrites(True, False, False),
    "resize": EncoderRewrites(False, True, False),
    "batch_norm": EncoderRewrites(False, False, True),
    "all": EncoderRewrites(),
    "none": EncoderRewrites.none(),
}


def lively_encoder(architecture: str, dim: int, size: int) -> Encoder:
    """Random weights in float64; no batch norm is trivial."""
    config = EncoderConfig(architecture, dim, size, (0.4, 0.5, 0.3), (0.2, 0.25, 0.3))
    encoder = random_encoder(config).double()
    rng = torch.Generator().manual_seed(0)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=rng)
            module.running_var.uniform_(0.5, 2, generator=rng)
    return encoder


def published(encoder: Encoder, pictures: Tensor) -> Tensor:
    """`Encoder.forward` with float64 where it writes float32."""
    x = pictures.permute(0, 3, 1, 2).double() / 255
    size = encoder.config.input_size
    x = F.interpolate(x, size=(size, size), mode="bicubic", align_corners=False)
    return F.normalize(encoder.backbone((x - encoder.mean) / encoder.std), dim=1)


@pytest.mark.parametrize("name", REWRITES)
@pytest.mark.parametrize(("architecture", "dim"), [("efficientnet-lite0", 1280), ("resnet50", 2048)])
def test_each_rewrite_alone_and_all_together_change_nothing(architecture: str, dim: int, name: str) -> None:
    encoder = lively_encoder(architecture, dim, 96)
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        found = rewrite_encoder(encoder, 32, REWRITES[name])(pictures)
        torch.testing.assert_close(found, published(encoder, pictures), rtol=0, atol=EXACT)


def test_no_resize_where_the_picture_already_has_the_networks_size() -> None:
    encoder = lively_encoder("efficientnet-lite0", 1280, 32)
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        found = rewrite_encoder(encoder, 32)(pictures)
        torch.testing.assert_close(found, published(encoder, pictures), rtol=0, atol=EXACT)


def test_the_encoder_itself_is_left_alone() -> None:
    encoder = lively_encoder("efficientnet-lite0", 1280, 32)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    rewrite_encoder(encoder, 16)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


def test_without_its_rewrites_the_graph_resizes_as_published_and_the_operators_are_counted() -> None:
    encoder = lively_encoder("efficientnet-lite0", 1280, 32).float()
    told: list[str] = []
    graph = encoder_graph(encoder, 16, {}, EncoderRewrites.none(), told.append)
    assert count_operators(graph)["Resize"] == 1
    assert told[0].endswith(f"{len(graph.graph.node)} after folding constants")


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_two_matrix_products_are_torchs_interpolation(mode: str) -> None:
    x = torch.randn(1, 2, 7, 7, dtype=torch.float64)
    matrix = resize_matrix(7, 19, mode)
    expected = F.interpolate(x, size=(19, 19), mode=mode, align_corners=False)
    torch.testing.assert_close(matrix @ x @ matrix.t(), expected, rtol=0, atol=1e-12)
