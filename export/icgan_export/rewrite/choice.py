"""Exact rewrites of the generator, applied before tracing: the same function with less arithmetic.

Which to apply. Every rewrite can be switched off alone, is tested in float64 against the original to 1e-10,
and is folded in float64 (`fold.py`), so that float32 loses nothing. What each gains is measured in
`docs/reports/performance.md`.

    spectral norm       W / sigma once, instead of a power step in every call                       (always)
    statistics          batch norm's mean and variance and conv1's bias go into scale and shift     (always)
    condition_product   every layer's scale and shift from one matrix product
    early_shortcut      the 1x1 shortcut before the upsampling: a quarter of its pixels
    output_norm         the last batch norm goes into the last block's weights
    attention_product   theta, phi and g as one 1x1 convolution, gamma inside o
    attention_parts     attention on large pictures for a part of the queries at a time, whose scores stay in
                        a cache
    output_transposed   the last convolution, to three channels, as a transposed one of stride 1, which a
                        runtime may multiply for all taps at once
    block forms         how a block computes conv2(relu(norm(conv1(upsample(x))))):

        plain           as written: 36 multiply-adds for each input pixel and channel pair in conv1
        transposed      upsample + 3x3 as one 4x4 transposed convolution of stride 2: 16
        phases          upsample + 3x3 as one 2x2 convolution to 4C channels and an interleave: 16
        products        upsample + 3x3 as nine matrix products on the picture and its differences: 9,
                        conv2 as sixteen on quarter pictures (Winograd F(2x2, 3x3)): 16 instead of 36
        shifts      the same products with differences of columns after them: no row is multiplied that a
                    picture has not, and fewer operators
        matrices    the same products, and the sums around them as products with constant matrices: 36 to 75
                    operators where products has 160
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from icgan_export.errors import ExportError
from icgan_training.networks.config import ModelConfig

BlockForm = Literal["plain", "transposed", "phases", "products", "matrices", "shifts"]
Target = Literal["onnxruntime", "openvino", "tensorrt", "litert", "mnn", "ncnn", "coreml", "executorch"]

# Block input widths from which the matrix products beat a convolution, measured on a 2-core AVX-512 machine
# (docs/reports/performance.md): below, adding up the products costs more than the multiplications saved.
PRODUCTS_FROM_WIDTH = 256
# These multiply many small matrices several times slower, or have no tensors of six axes (Core ML).
NO_PRODUCTS: tuple[Target, ...] = ("tensorrt", "ncnn", "coreml")
# From this width on it depends on the side of the block's input, as tensors fit a cache or do not: measured
# with 64 px ch 16 and 128 px ch 8 (docs/edge.md). Other sides take the form of narrow blocks.
CLOSE_FROM_WIDTH = 128
_CLOSE: dict[int, BlockForm] = {4: "matrices", 16: "products"}
CLOSE_FORMS: dict[Target, dict[int, BlockForm]] = {
    "onnxruntime": _CLOSE,
    "openvino": _CLOSE,
    "litert": {16: "products"},
    "ncnn": {16: "plain"},  # whose own convolution of 3 x 3 is Winograd's
}
NARROW: dict[Target, BlockForm] = {"litert": "phases", "mnn": "phases"}  # others: transposed
# For these targets "shifts" takes the place of both; the others were not faster with it, or not measured.
SHIFTS: tuple[Target, ...] = ("onnxruntime",)
IN_PARTS: tuple[Target, ...] = ("onnxruntime", "openvino")  # those that attention in parts makes faster
# OpenVINO starts an operator less quickly than ONNX Runtime: up to this side the sums pay as products, too.
MATRICES_UP_TO = {"openvino": 8}


@dataclass(frozen=True)
class Rewrites:
    """Which rewrites to apply; `blocks` has one form per block, from 4x4 upwards."""

    blocks: tuple[BlockForm, ...]
    condition_product: bool = True
    early_shortcut: bool = True
    output_norm: bool = True
    attention_product: bool = True
    attention_parts: bool = False
    output_transposed: bool = False

    @classmethod
    def none(cls, config: ModelConfig) -> Rewrites:
        """Only what is always done."""
        return cls(_uniform("plain", config), False, False, False, False)

    @classmethod
    def best(cls, config: ModelConfig, target: Target = "onnxruntime") -> Rewrites:
        """The forms measured as fastest for `target`."""
        sides = [side // 2 for side in config.block_resolutions]
        forms = [_form(*each, target) for each in zip(config.generator_widths, sides, strict=False)]
        fewer = target in SHIFTS
        blocks: tuple[BlockForm, ...] = tuple(
            "shifts" if fewer and form != "transposed" else form for form in forms
        )
        return cls(
            blocks,
            attention_product=target != "ncnn",  # which is faster without (docs/reports/log.md)
            attention_parts=target in IN_PARTS,
            output_transposed=fewer,
        )

    def without(self, names: Sequence[str]) -> Rewrites:
        """The same with some rewrites switched off by name; "blocks" leaves every block as published."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in names:
            if name not in known:
                raise ExportError(f"--without {name}: choose from {', '.join(known)}")
        plain: tuple[BlockForm, ...] = tuple("plain" for _ in self.blocks)
        off: dict[str, Any] = {name: plain if name == "blocks" else False for name in names}
        return dataclasses.replace(self, **off)


def _form(width: int, side: int, target: Target) -> BlockForm:
    """Of a block whose input has `width` channels and `side` rows."""
    narrow = NARROW.get(target, "transposed")
    if width >= PRODUCTS_FROM_WIDTH:
        if target in NO_PRODUCTS:
            return "transposed"
        return "matrices" if side <= MATRICES_UP_TO.get(target, 0) else "products"
    if width < CLOSE_FROM_WIDTH:
        return narrow
    return CLOSE_FORMS.get(target, {}).get(side, narrow)


def _uniform(form: BlockForm, config: ModelConfig) -> tuple[BlockForm, ...]:
    return (form,) * len(config.block_resolutions)
