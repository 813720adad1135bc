"""Which rewrites a StyleGAN2 generator is exported with. Each leaves the function as it is.

Always done, because they cost nothing: the scale of every weight, the gain of every activation and the
strength of the noise are multiplied into constants.

    styles_product      every layer's style by one matrix product of w instead of one a layer
    colours_product     colours as a product of rows with pictures; no styled copy of the picture is made
    enlarged_colours    the colours' filter and enlargement as one 3x3 convolution in phases
    block forms         how a block computes conv1(style(act(filter(up(conv0(style(x)))))):

        separate        a transposed convolution and the filter, as published
        phases          both as one 3x3 convolution to 4C channels and an interleave, four times the sums
        products        conv0 as nine matrix products on the small picture, the filter as two with banded
                        constants, conv1 as sixteen on quarter pictures (Winograd F(2x2, 3x3))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from icgan_export.errors import ExportError
from icgan_export.rewrite.choice import Target
from icgan_training.networks.stylegan2.config import StyleGAN2Config

StyleForm = Literal["separate", "phases", "products"]

PRODUCTS_FROM_CHANNELS = 256  # what goes into a block; below, adding up costs more than is saved
PRODUCTS_UP_TO_SIDE = 64  # the banded products grow with the side


@dataclass(frozen=True)
class StyleRewrites:
    """Which rewrites to apply; `blocks` has one form per block that doubles the side, from 8x8 upwards."""

    blocks: tuple[StyleForm, ...]
    styles_product: bool = True
    colours_product: bool = True
    enlarged_colours: bool = True

    @classmethod
    def none(cls, config: StyleGAN2Config) -> StyleRewrites:
        """Only what is always done."""
        return cls(_separate(config), False, False, False)

    @classmethod
    def best(cls, config: StyleGAN2Config, target: Target = "onnxruntime") -> StyleRewrites:
        """The forms measured as fastest for `target`."""
        if target == "tensorrt":
            return cls(_separate(config))
        return cls(tuple(_best_form(config, side) for side in config.sides[1:]))

    def without(self, names: Sequence[str]) -> StyleRewrites:
        """The same with some rewrites switched off by name; "blocks" leaves every block as published."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in names:
            if name not in known:
                raise ExportError(f"--without {name}: choose from {', '.join(known)}")
        plain: tuple[StyleForm, ...] = tuple("separate" for _ in self.blocks)
        off: dict[str, Any] = {name: plain if name == "blocks" else False for name in names}
        return dataclasses.replace(self, **off)


def _separate(config: StyleGAN2Config) -> tuple[StyleForm, ...]:
    return tuple("separate" for _ in config.sides[1:])


def _best_form(config: StyleGAN2Config, side: int) -> StyleForm:
    wide = config.channels(side // 2) >= PRODUCTS_FROM_CHANNELS
    return "products" if wide and side <= PRODUCTS_UP_TO_SIDE else "separate"
