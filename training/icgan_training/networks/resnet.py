"""ResNet-50 (He et al. 2015) up to its global average pool, with the parameter names of torchvision.

Two variants exist in the wild and differ in one detail: the original and the Keras weights put the stride of
a stage on its first 1×1 convolution, torchvision ("v1.5") puts it on the 3×3.
"""

from typing import Literal

from torch import Tensor, nn

StridePlace = Literal["1x1", "3x3"]

EMBEDDING_DIM = 2048
# (width of the 3x3 convolutions, number of blocks, stride of the first block)
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1 reduce, 3×3, 1×1 expand, plus the shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int, stride_place: StridePlace) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = nn.Conv2d(
            in_channels, width, 1, stride=stride if stride_place == "1x1" else 1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride=stride if stride_place == "3x3" else 1, padding=1, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x)) + shortcut
        return self.relu(x)  # type: ignore[no-any-return]


class ResNet50(nn.Module):
    """Normalised pictures [N, 3, H, W] -> average-pooled features [N, 2048], non-negative."""

    def __init__(self, stride_place: StridePlace = "3x3") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for number, (width, blocks, stride) in enumerate(STAGES, start=1):
            stage = nn.Sequential()
            for block in range(blocks):
                stage.append(Bottleneck(channels, width, stride if block == 0 else 1, stride_place))
                channels = width * EXPANSION
            self.add_module(f"layer{number}", stage)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x.mean(dim=(2, 3))
