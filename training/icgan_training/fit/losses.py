"""The hinge losses that BigGAN and IC-GAN train with (BigGAN, appendix C; Lim & Ye 2017)."""

from torch import Tensor
from torch.nn import functional as F


def discriminator_hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake)): a logit beyond its margin pushes no further.

    `real_logits` and `fake_logits` are any shape; the result is a scalar.
    """
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def generator_hinge(fake_logits: Tensor) -> Tensor:
    """-mean D(fake): the generator's side of the hinge is linear. The result is a scalar."""
    return -fake_logits.mean()
