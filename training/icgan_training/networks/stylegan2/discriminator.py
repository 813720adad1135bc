"""The StyleGAN2 discriminator with the projection of IC-GAN on instance and class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icgan_training.networks.layers import float32_region
from icgan_training.networks.stylegan2.config import SMALLEST_SIDE, StyleGAN2Config
from icgan_training.networks.stylegan2.generator import checked_conditions
from icgan_training.networks.stylegan2.layers import EPS, GAIN, LEAK, EqualConv, EqualLinear
from icgan_training.networks.stylegan2.mapping import Mapping


class DiscriminatorStage(nn.Module):
    """A residual block that halves the side; the first one reads the colours, too."""

    def __init__(self, config: StyleGAN2Config, side: int) -> None:
        super().__init__()
        channels, out, clamp = config.channels(side), config.channels(side // 2), config.conv_clamp
        self.fromrgb = EqualConv(3, channels, 1, clamp=clamp) if side == config.resolution else None
        self.conv0 = EqualConv(channels, channels, 3, clamp=clamp)
        half = math.sqrt(0.5)  # two branches of unit variance add up to one
        self.conv1 = EqualConv(channels, out, 3, down=True, gain=half, clamp=clamp)
        self.skip = EqualConv(channels, out, 1, down=True, bias=False, activate=False, gain=half)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, side, side] (the first: [N, 3, R, R]) -> [N, C', side/2, side/2]."""
        if self.fromrgb is not None:
            x = self.fromrgb(x)
        shortcut: Tensor = self.skip(x)
        out: Tensor = shortcut + self.conv1(self.conv0(x))
        return out


class Epilogue(nn.Module):
    """The last 4x4: variety of the batch as one more channel, a convolution, two linear maps."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        channels = config.channels(SMALLEST_SIDE)
        self.group = config.minibatch_group
        self.conv = EqualConv(channels + 1, channels, 3, clamp=config.conv_clamp)
        self.fc = EqualLinear(channels * SMALLEST_SIDE**2, channels)
        self.out = EqualLinear(channels, channels if config.conditions else 1)

    def forward(self, x: Tensor, parts: int = 1) -> Tensor:
        """[N, C, 4, 4] -> [N, C], or [N, 1] without conditions."""
        spread = torch.cat([minibatch_spread(part, self.group) for part in x.chunk(parts)])
        x = self.conv(torch.cat([x, spread], dim=1))
        x = F.leaky_relu(self.fc(x.flatten(1)), LEAK) * GAIN
        score: Tensor = self.out(x)
        return score


class StyleGAN2Discriminator(nn.Module):
    """Scores how real a picture is as a neighbour of its instance (and as a member of its class)."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        self.halving = tuple(side for side in reversed(config.sides) if side > SMALLEST_SIDE)
        for side in self.halving:
            self.add_module(f"b{side}", DiscriminatorStage(config, side))
        self.b4 = Epilogue(config)
        width = config.channels(SMALLEST_SIDE)
        if config.conditions:
            self.mapping = Mapping(config, 0, width, config.discriminator_mapping_layers)

    def forward(
        self,
        image: Tensor,
        embedding: Tensor | None = None,
        label: Tensor | None = None,
        parts: int = 1,
    ) -> Tensor:
        """Score one picture per row.

        image: float32 [N, 3, R, R] in [-1, 1]; embedding and label as the generator takes them. Rows are
        compared with rows N/group apart, within each of `parts` equal parts of the batch.
        Returns float32 [N, 1], unbounded: positive for real.
        """
        x = image
        for side in self.halving:
            x = self.get_submodule(f"b{side}")(x)
        with float32_region(x):
            score: Tensor = self.b4(x.float(), parts)
            if self.config.conditions:
                given = checked_conditions(self.config, image, embedding, label)
                condition = self.mapping(None, *given)
                score = (score * condition).sum(1, keepdim=True) / math.sqrt(condition.shape[1])
            return score


def minibatch_spread(x: Tensor, group: int) -> Tensor:
    """How different the pictures of a group are, one number for each as a channel: [N, 1, 4, 4].

    A group is rows N/group apart; a batch smaller than a group is one (StyleGAN2, after Karras et al. 2018).
    """
    count = x.shape[0]
    group = min(group, count)
    grouped = x.reshape(group, count // group, -1)
    spread = grouped.var(0, unbiased=False).add(EPS).sqrt().mean(1)  # [N / group]
    return spread.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
