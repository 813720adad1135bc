"""LPIPS as one ONNX graph of one picture, for programs that compare pictures without torch."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from icgan_export.errors import ExportError
from icgan_export.lower.onnx_export import TRACED_BATCH, export_onnx
from icgan_runtime import __version__
from icgan_training.networks.lpips import Lpips

TRACED_SIDE = 64


class LpipsFeatures(nn.Module):
    """`image` uint8 [N, H, W, 3] -> `features` float32 [N, F], of which squared distances are LPIPS.

    The maps of the network, each times the root of its channels' weights over its pixels, one after another.
    """

    def __init__(self, network: Lpips) -> None:
        super().__init__()
        self.network = network
        roots = [weight.detach().sqrt().view(1, -1, 1, 1) for weight in network.weights]
        self.roots = nn.ParameterList(nn.Parameter(root, requires_grad=False) for root in roots)

    def forward(self, image: Tensor) -> Tensor:
        parts = [
            (each * root / (each.shape[2] * each.shape[3]) ** 0.5).flatten(1)
            for each, root in zip(self.network.maps(image), self.roots, strict=True)
        ]
        return torch.cat(parts, dim=1)


def lpips_graph(network: Lpips) -> onnx.ModelProto:
    """The graph for pictures of any size from 32 pixels a side. Raises ExportError for negative weights."""
    if any(bool((weight < 0).any()) for weight in network.weights):
        raise ExportError("the LPIPS weights have negative channel weights, whose distance is none")
    example = torch.zeros((TRACED_BATCH, TRACED_SIDE, TRACED_SIDE + 5, 3), dtype=torch.uint8)
    metadata = {"icgan.version": __version__}
    free = {1: "H", 2: "W"}
    return export_onnx(LpipsFeatures(network), {"image": example}, ("features",), metadata, free=free)
