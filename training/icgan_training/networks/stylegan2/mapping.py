"""Noise and conditions to w, the latent that styles are linear in (StyleGAN, section 2; IC-GAN, appendix)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icgan_training.networks.layers import float32_region
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.layers import GAIN, LEAK, EqualLinear, normalised

RATE = 0.01  # the mapping learns a hundred times slower than the rest
AVERAGE_DECAY = 0.995  # of the mean w, a step


class Mapping(nn.Module):
    """Noise [N, dim_z] (where `dim_z` is not 0) and conditions -> [N, out].

    Each condition is embedded linearly. With both, class comes first and they are normalised as one vector.
    """

    def __init__(self, config: StyleGAN2Config, dim_z: int, out: int, layers: int) -> None:
        super().__init__()
        self.dim_z, self.layers, self.class_count = dim_z, layers, config.class_count
        if config.embedding_dim is not None:
            self.embed_feats = EqualLinear(config.embedding_dim, out)
        if config.class_count is not None:
            self.embed = EqualLinear(config.class_count, out)
        widths = [dim_z + config.conditions * out] + [out] * layers
        for index in range(layers):
            self.add_module(f"fc{index}", EqualLinear(widths[index], widths[index + 1], rate=RATE))

    def forward(self, noise: Tensor | None, embedding: Tensor | None, label: Tensor | None) -> Tensor:
        """embedding [N, embedding_dim] and label int64 [N] as the model takes them; in float32 throughout."""
        with float32_region(next(self.parameters())):
            return self._map(noise, embedding, label)

    def _map(self, noise: Tensor | None, embedding: Tensor | None, label: Tensor | None) -> Tensor:
        parts = [] if noise is None else [normalised(noise)]
        if (condition := self.condition(embedding, label)) is not None:
            parts.append(condition)
        x = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        for index in range(self.layers):
            x = F.leaky_relu(self.get_submodule(f"fc{index}")(x), LEAK) * GAIN
        return x

    def condition(self, embedding: Tensor | None, label: Tensor | None) -> Tensor | None:
        """The conditions embedded and normalised, [N, out or 2·out]; None of a model without any."""
        parts: list[Tensor] = []
        if self.class_count is not None:
            assert label is not None
            one_hot = F.one_hot(label, self.class_count).to(self.embed.weight.dtype)
            parts.append(self.embed(one_hot))
        if embedding is not None:
            parts.append(self.embed_feats(embedding))
        return normalised(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]) if parts else None


class LatentMapping(Mapping):
    """The generator's mapping, and the mean w that truncation pulls towards."""

    w_avg: Tensor  # [dim_w]

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__(config, config.dim_z, config.dim_w, config.mapping_layers)
        self.register_buffer("w_avg", torch.zeros(config.dim_w))

    @torch.no_grad()
    def follow(self, mean: Tensor) -> None:
        """Move the mean w towards that of a training batch [dim_w]."""
        self.w_avg.lerp_(mean.to(self.w_avg), 1 - AVERAGE_DECAY)


def truncated(w: Tensor, mean: Tensor, psi: float | Tensor, cutoff: int | None = None) -> Tensor:
    """w [N, latents, dim_w] pulled towards the mean w [dim_w]: mean + psi (w - mean).

    psi: a number, or one for each row [N]. cutoff: only the first so many latents of each row.
    """
    factor = psi[:, None, None] if isinstance(psi, Tensor) else psi
    if cutoff is None:
        return torch.lerp(mean, w, factor)
    return torch.cat([torch.lerp(mean, w[:, :cutoff], factor), w[:, cutoff:]], dim=1)
