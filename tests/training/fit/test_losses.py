"""The hinge losses."""

import pytest
import torch

from icgan_training.fit.losses import discriminator_hinge, generator_hinge


def gradient(logits):
    return logits.grad.tolist()


def test_discriminator_pays_only_for_logits_inside_their_margin():
    real = torch.tensor([2.0, 1.0, 0.0, -1.0])
    fake = torch.tensor([-2.0, -1.0, 0.0, 1.0])
    assert discriminator_hinge(real, fake).item() == pytest.approx((0 + 0 + 1 + 2) / 4 * 2)


def test_logits_beyond_the_margin_get_no_gradient():
    real = torch.tensor([1.5, 0.5], requires_grad=True)
    fake = torch.tensor([-1.5, -0.5], requires_grad=True)
    discriminator_hinge(real, fake).backward()
    assert gradient(real) == [0, -0.5]
    assert gradient(fake) == [0, 0.5]


def test_generator_pushes_its_logits_up_without_limit():
    fake = torch.tensor([5.0, -5.0], requires_grad=True)
    generator_hinge(fake).backward()
    assert gradient(fake) == [-0.5, -0.5]
