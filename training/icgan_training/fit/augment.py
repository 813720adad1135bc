"""DiffAugment: differentiable augmentation of what the discriminator sees (Zhao et al. 2020).

Real and generated images go through the same family of transforms, and the gradient flows through them
to the generator. Every transform is a function of the pictures and of uniform random numbers given by the
caller: the same numbers give the same result on every device, and nothing here draws any.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from icgan_training.networks.config import DIFFAUGMENT_POLICIES

UNIFORMS = 7
"""Random numbers per picture: brightness, saturation, contrast, two of translation, two of cutout."""


def augment(images: Tensor, policy: tuple[str, ...], uniforms: Tensor) -> Tensor:
    """Pictures [N, 3, R, R] in [-1, 1] transformed by the named policies; colours may leave the range.

    `uniforms` is float32 [N, UNIFORMS] in [0, 1). A policy keeps its numbers whichever others are on.
    """
    if unknown := set(policy) - set(DIFFAUGMENT_POLICIES):
        known = ", ".join(DIFFAUGMENT_POLICIES)
        raise ValueError(f"augmentation {sorted(unknown)} is unknown: choose from {known}")
    if "color" in policy:
        images = shift_colors(images, uniforms[:, 0:3])
    if "translation" in policy:
        images = translate(images, uniforms[:, 3:5])
    if "cutout" in policy:
        images = cut_out(images, uniforms[:, 5:7])
    return images


def shift_colors(images: Tensor, uniforms: Tensor) -> Tensor:
    """Brightness shifted by ±0.5, saturation scaled by 0 to 2, contrast by 0.5 to 1.5; uniforms [N, 3]."""
    brightness, saturation, contrast = uniforms.view(-1, 3, 1, 1, 1).unbind(dim=1)  # each [N, 1, 1, 1]
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    level = images.mean(dim=(1, 2, 3), keepdim=True)
    return level + (images - level) * (contrast + 0.5)


def translate(images: Tensor, uniforms: Tensor, ratio: float = 1 / 8) -> Tensor:
    """Pictures moved by whole pixels, up to ±ratio of the side on each axis; what enters is 0 (mid-grey).

    `uniforms` [N, 2] are the downward and the rightward move.
    """
    size = images.shape[-1]
    limit = int(size * ratio + 0.5)
    moves = (uniforms * (2 * limit + 1)).floor() - limit  # [N, 2], whole pixels
    # A sampling grid of pixel centres: nearest and zero padding make it an exact integer shift, whose
    # backward pass is a gather, several times faster on a CPU than that of advanced indexing.
    centres = (2 * torch.arange(size, device=images.device) + 1) / size - 1  # [R]
    rows, columns = (centres - 2 * moves[:, :, None] / size).unbind(dim=1)  # [N, R] each
    grid = torch.stack(
        [columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], dim=-1
    )  # [N, R, R, 2] as (x, y)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def cut_out(images: Tensor, uniforms: Tensor, ratio: float = 0.5) -> Tensor:
    """A square of ratio·R on a side set to 0, its centre anywhere in the picture; uniforms [N, 2]."""
    size = images.shape[-1]
    side = int(size * ratio + 0.5)
    start = (uniforms * (size + 1 - side % 2)).floor() - side // 2  # [N, 2], may lie outside the picture
    offset = torch.arange(size, device=images.device) - start[:, :, None]  # [N, 2, R]
    inside = (offset >= 0) & (offset < side)
    hole = inside[:, 0, :, None] & inside[:, 1, None, :]  # [N, R, R]
    return images * ~hole[:, None]
