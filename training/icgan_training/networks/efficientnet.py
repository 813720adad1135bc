"""EfficientNet-lite0 (Tan & Le 2019, the "lite" variant: ReLU6, no squeeze-and-excitation) up to its pooled
1280 features.

The published weights were trained with TensorFlow's "same" padding, which pads one pixel more at the bottom
and right where the stride is 2: `same_padding` reproduces it, and symmetric padding would shift the features.
"""

import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING_DIM = 1280
STEM_CHANNELS = 32
BN_EPS = 1e-3
# (expansion, kernel, stride of the first block, output channels, number of blocks)
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) padding of one axis so that the output has ceil(size / stride) cells."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """Convolution, without bias until a batch norm is folded into it, padded as TensorFlow's "same"."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(in_channels, out_channels, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
        left, right = same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
        if top == bottom and left == right:  # symmetric: the convolution pads by itself, without a copy
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), 1, self.groups)
        return super().forward(F.pad(x, (left, right, top, bottom)))


class ConvBN(nn.Sequential):
    """Convolution, batch norm and, unless `linear`, ReLU6."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = SameConv2d(in_channels, out_channels, kernel, stride, groups)
        self.bn = nn.BatchNorm2d(out_channels, eps=BN_EPS)
        if not linear:
            self.act = nn.ReLU6(inplace=True)


class InvertedResidual(nn.Module):
    """1×1 expand (absent at expansion 1), depthwise k×k, linear 1×1 project; shortcut where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = ConvBN(in_channels, hidden, 1) if expansion != 1 else nn.Identity()
        self.depthwise = ConvBN(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvBN(hidden, out_channels, 1, linear=True)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.has_shortcut else out


class EfficientNetLite0(nn.Module):
    """Normalised pictures [N, 3, H, W] -> average-pooled features [N, 1280], in [0, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(3, STEM_CHANNELS, 3, stride=2)
        self.blocks = nn.Sequential()
        channels = STEM_CHANNELS
        for expansion, kernel, stride, out_channels, blocks in STAGES:
            for block in range(blocks):
                first_stride = stride if block == 0 else 1
                self.blocks.append(InvertedResidual(channels, out_channels, kernel, first_stride, expansion))
                channels = out_channels
        self.head = ConvBN(channels, EMBEDDING_DIM, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x))).mean(dim=(2, 3))  # type: ignore[no-any-return]
