import pytest
import torch
import torch.nn.functional as F

from icgan_export.fold_encoder import bicubic_matrix, rewrite_encoder
from icgan_training.encoder import EncoderConfig, random_encoder


@pytest.mark.parametrize(("architecture", "dim"), [("efficientnet-lite0", 1280), ("resnet50", 2048)])
def test_rewritten_encoder_gives_the_same_embeddings(architecture: str, dim: int) -> None:
    config = EncoderConfig(architecture, dim, 96, (0.4, 0.5, 0.3), (0.2, 0.25, 0.3))  # type: ignore[arg-type]
    encoder = random_encoder(config)
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(
            rewrite_encoder(encoder, 32)(pictures), encoder(pictures), rtol=0, atol=2e-6
        )


def test_no_resize_where_the_picture_already_has_the_networks_size() -> None:
    config = EncoderConfig("efficientnet-lite0", 1280, 32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    encoder = random_encoder(config)
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(
            rewrite_encoder(encoder, 32)(pictures), encoder(pictures), rtol=0, atol=2e-6
        )


def test_two_matrix_products_are_torchs_bicubic_interpolation() -> None:
    x = torch.randn(1, 2, 7, 7, dtype=torch.float64)
    matrix = bicubic_matrix(7, 19)
    expected = F.interpolate(x, size=(19, 19), mode="bicubic", align_corners=False)
    torch.testing.assert_close(matrix @ x @ matrix.t(), expected, rtol=0, atol=1e-12)
