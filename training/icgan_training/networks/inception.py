"""The Inception-v3 network behind FID: its 2048 pooled features, and class logits where weights have them.

FID is only comparable between papers when the network, the enlarging of the pictures and the input scale are
those of the original TensorFlow graph, so three things here look odd and are on purpose: bilinear enlarging
without half-pixel centres, average pools that leave the border out of the mean, and a maximum pool in the
last block (Heusel et al. 2017; the graph is of 2015). Batch norms are folded into the convolutions.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from icgan_runtime.files import atomic_file
from icgan_training.errors import WeightsError

INPUT_SIZE = 299
BN_EPS = 1e-3
KIND = "fid-inception-v3"


class Conv(nn.Conv2d):
    """Convolution with bias, then ReLU; padded to keep the size unless `valid`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        valid: bool = False,
    ) -> None:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid else (height // 2, width // 2)
        super().__init__(in_channels, out_channels, (height, width), stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x), inplace=True)


class Fork(nn.ModuleList):
    """The same input through every branch, outputs joined along the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], dim=1)


def _average_pool() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def _block_a(channels: int, pool_channels: int) -> Fork:
    """35×35: 1×1, 5×5, two 3×3, pool."""
    return Fork(
        [
            Conv(channels, 64, 1),
            nn.Sequential(Conv(channels, 48, 1), Conv(48, 64, 5)),
            nn.Sequential(Conv(channels, 64, 1), Conv(64, 96, 3), Conv(96, 96, 3)),
            nn.Sequential(_average_pool(), Conv(channels, pool_channels, 1)),
        ]
    )


def _reduce_a(channels: int) -> Fork:
    """35×35 -> 17×17."""
    return Fork(
        [
            Conv(channels, 384, 3, stride=2, valid=True),
            nn.Sequential(Conv(channels, 64, 1), Conv(64, 96, 3), Conv(96, 96, 3, stride=2, valid=True)),
            nn.MaxPool2d(3, stride=2),
        ]
    )


def _block_b(channels: int, c: int) -> Fork:
    """17×17: 1×1, 7×7 as 1×7 and 7×1, the same twice, pool; c channels in between."""
    return Fork(
        [
            Conv(channels, 192, 1),
            nn.Sequential(Conv(channels, c, 1), Conv(c, c, (1, 7)), Conv(c, 192, (7, 1))),
            nn.Sequential(
                Conv(channels, c, 1),
                Conv(c, c, (7, 1)),
                Conv(c, c, (1, 7)),
                Conv(c, c, (7, 1)),
                Conv(c, 192, (1, 7)),
            ),
            nn.Sequential(_average_pool(), Conv(channels, 192, 1)),
        ]
    )


def _reduce_b(channels: int) -> Fork:
    """17×17 -> 8×8."""
    return Fork(
        [
            nn.Sequential(Conv(channels, 192, 1), Conv(192, 320, 3, stride=2, valid=True)),
            nn.Sequential(
                Conv(channels, 192, 1),
                Conv(192, 192, (1, 7)),
                Conv(192, 192, (7, 1)),
                Conv(192, 192, 3, stride=2, valid=True),
            ),
            nn.MaxPool2d(3, stride=2),
        ]
    )


def _block_c(channels: int, pool: nn.Module) -> Fork:
    """8×8: branches that end in a 1×3 beside a 3×1."""

    def wide_and_tall() -> Fork:
        return Fork([Conv(384, 384, (1, 3)), Conv(384, 384, (3, 1))])

    return Fork(
        [
            Conv(channels, 320, 1),
            nn.Sequential(Conv(channels, 384, 1), wide_and_tall()),
            nn.Sequential(Conv(channels, 448, 1), Conv(448, 384, 3), wide_and_tall()),
            nn.Sequential(pool, Conv(channels, 192, 1)),
        ]
    )


class Inception(nn.Module):
    """uint8 RGB pictures [N, S, S, 3] -> features float32 [N, 2048]."""

    head: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Conv(3, 32, 3, stride=2, valid=True),
            Conv(32, 32, 3, valid=True),
            Conv(32, 64, 3),
            nn.MaxPool2d(3, stride=2),
            Conv(64, 80, 1),
            Conv(80, 192, 3, valid=True),
            nn.MaxPool2d(3, stride=2),
            _block_a(192, 32),
            _block_a(256, 64),
            _block_a(288, 64),
            _reduce_a(288),
            _block_b(768, 128),
            _block_b(768, 160),
            _block_b(768, 160),
            _block_b(768, 192),
            _reduce_b(768),
            _block_c(1280, _average_pool()),
            _block_c(2048, nn.MaxPool2d(3, stride=1, padding=1)),
        )
        # [classes, 2048]; a buffer, so that it goes to the device with the rest, and in no file of ours
        self.register_buffer("head", None, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = (enlarge(image.permute(0, 3, 1, 2).float(), INPUT_SIZE) - 128) / 128
        x = x.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.layers(x).mean(dim=(2, 3))
        return features

    def logits(self, features: Tensor) -> Tensor:
        """Class logits [N, classes] of features; without bias, as the Inception Score is defined."""
        if self.head is None:
            raise WeightsError(
                "these Inception weights have no class layer; give a full FID Inception file with --logits"
            )
        return features @ self.head.T


def enlarge(image: Tensor, size: int) -> Tensor:
    """Bilinear resize of [N, C, H, W] in the way of the original graph: pixel i samples position i·H/size."""
    rows = _interpolation(image.shape[2], size).to(image)
    columns = _interpolation(image.shape[3], size).to(image)
    return rows @ image @ columns.T


def _interpolation(old: int, new: int) -> Tensor:
    """[new, old] matrix whose rows hold the two bilinear weights."""
    position = torch.arange(new, dtype=torch.float64) * (old / new)
    left = position.floor().long()
    right = (left + 1).clamp(max=old - 1)
    weight = position - left
    matrix = torch.zeros(new, old, dtype=torch.float64)
    row = torch.arange(new)
    matrix.index_put_((row, left), 1 - weight, accumulate=True)
    matrix.index_put_((row, right), weight, accumulate=True)
    return matrix.float()


# ---- weights ---------------------------------------------------------------------------------------------


def save_inception(network: Inception, path: Path, *, source: str, licence: str) -> None:
    """Write the weights, and where they come from, to one safetensors file, whole or not at all."""
    metadata = {"config": json.dumps({"kind": KIND, "source": source, "licence": licence})}
    with atomic_file(path) as partial:
        partial.write_bytes(save(network.state_dict(), metadata=metadata))


def load_inception(path: Path) -> Inception:
    """Read a file `save_inception` wrote; eval mode, channels last in memory. Raises WeightsError."""
    try:
        with safe_open(path, framework="pt") as file:
            kind = json.loads((file.metadata() or {}).get("config", "{}")).get("kind")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError as error:
        raise WeightsError(f"{path} does not exist: icgan-train fetch inception brings it") from error
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    if kind != KIND:
        raise WeightsError(f"{path} holds {kind or 'something else'}, expected {KIND}")
    network = Inception()
    network.load_state_dict(state)
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def load_inception_with_logits(path: Path) -> Inception:
    """Read the widely used PyTorch file of the FID Inception: torchvision's names, `fc` of 1008 classes.

    Raises WeightsError for a file that is missing, damaged or another network's.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"--logits {path} does not exist") from error
    except Exception as error:  # torch reports broken files with many types, all of them the file's fault
        raise WeightsError(f"--logits {path} is not a plain torch state dict") from error
    network = Inception()
    convs = [module for module in network.modules() if isinstance(module, Conv)]
    try:
        for conv, name in zip(convs, torch_names(), strict=True):
            leaves = ("conv.weight", "bn.running_mean", "bn.running_var", "bn.bias", "bn.weight")
            put_conv(conv, *(state[f"{name}.{leaf}"] for leaf in leaves))
        network.head = state["fc.weight"].float()
    except KeyError as error:
        raise WeightsError(f"--logits {path} is not a full FID Inception: it has no {error}") from error
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def inception_from_graph(state: Mapping[str, Tensor]) -> Inception:
    """The network from tensors named as in the original graph (`mixed_3.tower.conv_1.weight`, …)."""
    network = Inception()
    convs = [module for module in network.modules() if isinstance(module, Conv)]
    for conv, name in zip(convs, graph_names(), strict=True):
        put_conv(conv, *(state[f"{name}.{leaf}"] for leaf in ("weight", "mean", "var", "beta")))
    return network.eval()


@torch.no_grad()
def put_conv(
    conv: Conv, weight: Tensor, mean: Tensor, var: Tensor, beta: Tensor, gain: Tensor | None = None
) -> None:
    """Fill a convolution with a kernel and the batch norm after it, folded in double precision."""
    scale = torch.rsqrt(var.double() + BN_EPS) * (1 if gain is None else gain.double())
    if conv.bias is None or conv.weight.shape != weight.shape:
        raise WeightsError(f"kernel {list(weight.shape)} does not fit {list(conv.weight.shape)}")
    conv.weight.copy_(weight.double() * scale.view(-1, 1, 1, 1))
    conv.bias.copy_(beta.double() - mean.double() * scale)


def graph_names() -> Iterator[str]:
    """Names of the convolutions in the original graph, in the order of our modules."""

    def tower(prefix: str, length: int) -> list[str]:
        return [f"{prefix}.conv" + (f"_{index}" if index else "") for index in range(length)]

    blocks = [tower("", 5)]
    for number in range(11):
        if number < 3:
            layers = ["conv", *tower("tower", 2), *tower("tower_1", 3), "tower_2.conv"]
        elif number == 3:
            layers = ["conv", *tower("tower", 3)]
        elif number < 8:
            layers = ["conv", *tower("tower", 3), *tower("tower_1", 5), "tower_2.conv"]
        elif number == 8:
            layers = [*tower("tower", 2), *tower("tower_1", 4)]
        else:
            layers = [
                "conv",
                *("tower_conv", "tower_mixed_conv", "tower_mixed_conv_1"),
                *("tower_1_conv", "tower_1_conv_1", "tower_1_mixed_conv", "tower_1_mixed_conv_1"),
                "tower_2_conv",
            ]
        mixed = "mixed" + (f"_{number}" if number else "")
        blocks.append([f"{mixed}.{layer}" for layer in layers])
    for block in blocks:
        yield from (name.removeprefix(".") for name in block)


def torch_names() -> Iterator[str]:
    """Names of the same convolutions in torchvision's Inception-v3."""

    def numbered(prefix: str, count: int) -> list[str]:
        return [f"{prefix}_{index}" for index in range(1, count + 1)]

    first = ["branch1x1", *numbered("branch5x5", 2), *numbered("branch3x3dbl", 3), "branch_pool"]
    second = ["branch1x1", *numbered("branch7x7", 3), *numbered("branch7x7dbl", 5), "branch_pool"]
    third = ["branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b"]
    third += ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"]
    yield from (f"Conv2d_{name}" for name in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"))
    blocks = {
        **dict.fromkeys(("5b", "5c", "5d"), first),
        "6a": ["branch3x3", *numbered("branch3x3dbl", 3)],
        **dict.fromkeys(("6b", "6c", "6d", "6e"), second),
        "7a": [*numbered("branch3x3", 2), *numbered("branch7x7x3", 4)],
        **dict.fromkeys(("7b", "7c"), third),
    }
    for block, layers in blocks.items():
        yield from (f"Mixed_{block}.{layer}" for layer in layers)
