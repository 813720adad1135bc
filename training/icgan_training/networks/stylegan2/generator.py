"""The IC-GAN generator on the StyleGAN2 backbone: noise, instance and class in, a picture out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from icgan_training.networks.generator import checked_embedding, constant_label
from icgan_training.networks.stylegan2.config import SMALLEST_SIDE, StyleGAN2Config
from icgan_training.networks.stylegan2.layers import ModulatedConv, ToRGB, doubled
from icgan_training.networks.stylegan2.mapping import LatentMapping, truncated


class SynthesisBlock(nn.Module):
    """Two layers (at 4x4 one, on a learnt constant) and the colours of one side."""

    def __init__(self, config: StyleGAN2Config, side: int) -> None:
        super().__init__()
        channels, clamp = config.channels(side), config.conv_clamp
        self.takes_half = config.computes_half(side)
        if side == SMALLEST_SIDE:
            self.const = nn.Parameter(torch.randn(channels, side, side))
        else:
            self.conv0 = ModulatedConv(
                config.channels(side // 2), channels, config.dim_w, side, up=True, clamp=clamp
            )
        self.conv1 = ModulatedConv(channels, channels, config.dim_w, side, up=False, clamp=clamp)
        self.torgb = ToRGB(channels, config.dim_w, clamp)


class Synthesis(nn.Module):
    """w -> picture, a block for each side; the picture is the sum of every side's colours (skip generator).

    The colours of a side and the first layer of the next share a latent.
    """

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.sides = config.sides
        for side in config.sides:
            self.add_module(f"b{side}", SynthesisBlock(config, side))

    def blocks(self) -> list[SynthesisBlock]:
        """The blocks, from 4x4 up."""
        found = [self.get_submodule(f"b{side}") for side in self.sides]
        return [block for block in found if isinstance(block, SynthesisBlock)]

    def forward(self, w: Tensor, noise: bool | Sequence[Tensor] = True, half: bool = False) -> Tensor:
        """w [N, latents, dim_w] -> float32 [N, 3, R, R].

        noise: the constant one, none, or values [N, 1, side, side] for each layer in turn. half: the largest
        sides compute in FP16, as the published networks do on a GPU.
        """
        given = iter(noise) if not isinstance(noise, bool) else None

        def drawn() -> bool | Tensor:
            return bool(noise) if given is None else next(given)

        x = image = None
        for index, block in enumerate(self.blocks()):
            dtype = torch.float16 if half and block.takes_half else w.dtype
            first = 2 * index
            if x is None:
                x = block.const.to(dtype).expand(w.shape[0], -1, -1, -1)
            else:
                x = block.conv0(x.to(dtype), w[:, first - 1], drawn())
            x = block.conv1(x, w[:, first], drawn())
            colours: Tensor = block.torgb(x, w[:, first + 1]).to(w.dtype)
            image = colours if image is None else doubled(image) + colours
        assert image is not None
        return image


class StyleGAN2Generator(nn.Module):
    """Draws images that look like the neighbours of an instance (IC-GAN, section 3).

    State-dict keys are those of the published weights without their copies of the resampling filter.
    """

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        self.synthesis = Synthesis(config)
        self.mapping = LatentMapping(config)

    def forward(
        self,
        noise: Tensor,
        embedding: Tensor | None = None,
        label: Tensor | None = None,
        psi: float | Tensor = 1.0,
    ) -> Tensor:
        """Generate one image per row, with the constant noise of the weights in every layer.

        noise: float32 [N, dim_z or more]; its length makes no difference. embedding: float32 [N,
        embedding_dim], unit rows. label: int64 [N]. psi: truncation towards the mean w, a number or float32
        [N]; 1 is none. Returns float32 [N, 3, R, R], around [-1, 1] and not held within it.
        """
        w = self.latents(noise, embedding, label)
        if isinstance(psi, Tensor) or psi != 1.0:
            w = truncated(w[:, None], self.mapping.w_avg, psi)[:, 0]
        image: Tensor = self.synthesis(w[:, None].expand(-1, self.config.latents, -1))
        return image.to(torch.promote_types(image.dtype, torch.float32))

    def latents(self, noise: Tensor, embedding: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """w [N, dim_w], before truncation, of the arguments that `forward` takes."""
        config = self.config
        if noise.dim() != 2 or noise.shape[1] < config.dim_z:
            raise ValueError(f"noise is {list(noise.shape)}; expected [N, {config.dim_z}]")
        embedding, label = checked_conditions(config, noise, embedding, label)
        w: Tensor = self.mapping(noise[:, : config.dim_z], embedding, label)
        return w


def checked_conditions(
    config: StyleGAN2Config, like: Tensor, embedding: Tensor | None, label: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The conditions that the model takes, a constant label filled in. Raises ValueError without one."""
    if config.embedding_dim is not None:
        embedding = checked_embedding(config, embedding)
    if config.class_count is not None and label is None:
        label = constant_label(config, like, like.shape[0])
    return embedding if config.takes_embedding else None, label if config.class_count is not None else None
