"""Adaptive discriminator augmentation (Karras et al., "Training GANs with Limited Data", NeurIPS 2020).

Pictures that the discriminator sees, real and generated, are moved, turned, scaled and recoloured, each
transform with probability p; p follows how sure D is of the real ones. Every transform is a function of the
pictures and of uniform random numbers given by the caller.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ADA_UNIFORMS = 24
"""Random numbers per picture: for each transform one that decides, and those of its strength."""

RATE_STEPS = 4  # p is moved every so many steps, by what they showed


class AdaptiveAugment(nn.Module):
    """The augmentation with its probability, which checkpoints carry."""

    p: Tensor
    signs: Tensor  # [2]: sum of the signs of D's logits on real pictures, and their count

    def __init__(self, target: float, images: int) -> None:
        super().__init__()
        self.target, self.images = target, images
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(2))

    def forward(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Pictures [N, 3, R, R] in [-1, 1] and uniforms [N, ADA_UNIFORMS] -> the same, augmented."""
        images = _moved(images, _placement(uniforms[:, :14], self.p, images.shape[-1]))
        return _recoloured(images, uniforms[:, 14:], self.p)

    @torch.no_grad()
    def observe(self, real_logits: Tensor) -> None:
        """Take in what D says of real pictures [N, 1]."""
        self.signs += torch.stack([real_logits.sign().sum(), real_logits.new_tensor(len(real_logits))])

    @torch.no_grad()
    def adjust(self) -> None:
        """Move p by what was observed since the last time, up where D was surer than the target."""
        sureness = self.signs[0] / self.signs[1].clamp(min=1)
        self.p.add_((sureness - self.target).sign() * self.signs[1] / self.images).clamp_(0, 1)
        self.signs.zero_()


def _on(uniform: Tensor, p: Tensor) -> Tensor:
    """1.0 where a transform is applied, else 0.0: [N]."""
    return (uniform < p).float()


def _normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers of uniform ones."""
    return math.sqrt(2) * torch.erfinv((2 * uniform - 1).clamp(-0.999999, 0.999999))


def _placement(u: Tensor, p: Tensor, size: int) -> Tensor:
    """Where each pixel of the augmented picture comes from: matrices [N, 2, 3] on coordinates in [-1, 1].

    In turn: mirroring, quarter turns, whole-pixel moves, scaling, stretching, turning, any moves.
    """
    count = len(u)
    mirror = 1 - 2 * _on(u[:, 0], p) * (u[:, 1] < 0.5)
    quarter = (u[:, 3] * 4).floor() * _on(u[:, 2], p) * (math.pi / 2)
    whole = ((u[:, 5:7] * 2 - 1) * 0.125 * size).round() * (2 / size) * _on(u[:, 4], p)[:, None]
    scale = torch.exp2(_normal(u[:, 8]) * 0.2 * _on(u[:, 7], p))
    stretch = torch.exp2(_normal(u[:, 10]) * 0.2 * _on(u[:, 9], p))
    turn = (u[:, 12] * 2 - 1) * math.pi * _on(u[:, 11], p)
    slide = _normal(u[:, 13]) * 0.125 * 2 * _on(u[:, 11], p)
    angle = quarter + turn
    cos, sin = angle.cos(), angle.sin()
    matrix = u.new_zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = cos * mirror / (scale * stretch), -sin / (scale * stretch)
    matrix[:, 1, 0], matrix[:, 1, 1] = sin * mirror * stretch / scale, cos * stretch / scale
    matrix[:, :, 2] = whole
    matrix[:, 0, 2] += slide
    return matrix


def _moved(images: Tensor, placement: Tensor) -> Tensor:
    grid = F.affine_grid(placement, list(images.shape), align_corners=False).to(images)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _recoloured(images: Tensor, u: Tensor, p: Tensor) -> Tensor:
    """Brightness, contrast, luma flip, hue and saturation, as one matrix and one shift a picture."""
    count = len(u)
    eye = torch.eye(3, device=u.device)
    luma = torch.full((3, 3), 1 / 3, device=u.device)  # onto the grey axis
    brightness = _normal(u[:, 1]) * 0.2 * _on(u[:, 0], p)
    contrast = torch.exp2(_normal(u[:, 3]) * 0.5 * _on(u[:, 2], p))
    flip = _on(u[:, 4], p) * (u[:, 5] < 0.5)
    turn = (u[:, 7] * 2 - 1) * math.pi * _on(u[:, 6], p)
    saturation = torch.exp2(_normal(u[:, 9]) * _on(u[:, 8], p))
    axis = 1 / math.sqrt(3)
    cross = axis * torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=u.device)
    cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
    matrix = luma + (eye - luma) * cos + cross * sin  # about the grey axis
    matrix = (eye - 2 * luma * flip[:, None, None]) @ matrix
    matrix = (luma + (eye - luma) * saturation[:, None, None]) @ matrix * contrast[:, None, None]
    shift = (brightness * contrast)[:, None].expand(count, 3)
    moved = torch.einsum("nij,njhw->nihw", matrix.to(images), images)
    return moved + shift.to(images)[:, :, None, None]
