"""DiffAugment: each transform, their independence, and the gradient through them."""

import pytest
import torch
from torch.nn import functional as F

from icgan_training.fit.augment import UNIFORMS, augment, cut_out, shift_colors, translate
from icgan_training.networks.config import DIFFAUGMENT_POLICIES


def pictures(count=6, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def uniforms(count=6):
    return torch.rand(count, UNIFORMS, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [32, 64, 128])
def test_translation_is_an_exact_shift_by_whole_pixels_with_grey_entering(size):
    images, limit = pictures(size=size), size // 8
    numbers = uniforms()[:, :2]
    moves = (numbers * (2 * limit + 1)).long() - limit
    padded = F.pad(images, (limit,) * 4)
    expected = torch.stack(
        [
            picture[:, limit - down : limit - down + size, limit - right : limit - right + size]
            for picture, (down, right) in zip(padded, moves.tolist(), strict=True)
        ]
    )
    assert torch.equal(translate(images, numbers), expected)


def test_translation_reaches_an_eighth_of_the_side_and_no_further():
    spot = torch.zeros(2, 3, 16, 16)
    spot[:, :, 8, 8] = 1
    moved = translate(spot, torch.tensor([[0.0, 0.0], [0.9999, 0.9999]]))
    assert moved[0, 0].nonzero().tolist() == [[6, 6]]
    assert moved[1, 0].nonzero().tolist() == [[10, 10]]


def test_cutout_removes_a_square_of_half_the_side_that_may_hang_over_the_edge():
    white = torch.ones(3, 3, 16, 16)
    holes = cut_out(white, torch.tensor([[0.5, 0.5], [0.0, 0.5], [0.999, 0.999]]))[:, 0] == 0
    assert holes.sum(dim=(1, 2)).tolist() == [64, 32, 16]


def test_colours_stay_as_they_are_in_the_middle_of_the_range():
    images = pictures()
    torch.testing.assert_close(shift_colors(images, torch.full((6, 3), 0.5)), images)


def test_saturation_zero_leaves_grey():
    grey = shift_colors(pictures(), torch.tensor([[0.5, 0.0, 0.5]]).expand(6, 3))
    torch.testing.assert_close(grey[:, 0], grey[:, 1])
    torch.testing.assert_close(grey[:, 0], grey[:, 2])


def test_no_policy_leaves_the_pictures_alone():
    images = pictures()
    assert augment(images, (), uniforms()) is images


def test_a_policy_does_the_same_alone_and_among_others():
    images, numbers = pictures(), uniforms()
    alone = augment(augment(images, ("color",), numbers), ("translation",), numbers)
    assert torch.equal(alone, augment(images, ("translation", "color"), numbers))


def test_each_picture_depends_on_its_own_numbers_only():
    images, numbers = pictures(), uniforms()
    whole = augment(images, DIFFAUGMENT_POLICIES, numbers)
    torch.testing.assert_close(augment(images[2:4], DIFFAUGMENT_POLICIES, numbers[2:4]), whole[2:4])


def test_the_gradient_flows_to_every_pixel_that_stays_in_view():
    images = pictures().requires_grad_()
    augment(images, ("translation", "cutout"), uniforms()).sum().backward()
    assert set(images.grad.unique().tolist()) == {0.0, 1.0}
    assert torch.autograd.gradcheck(
        lambda x: augment(x, ("color", "cutout"), uniforms(1).double()),
        pictures(1, 8).double().requires_grad_(),
    )


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="rotation"):
        augment(pictures(), ("rotation",), uniforms())
