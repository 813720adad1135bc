"""Which rewrites are applied to a generator."""

import pytest

from icgan_export.errors import ExportError
from icgan_export.rewrite.choice import Rewrites
from icgan_training.networks.config import ModelConfig

FOUR_BLOCKS = ModelConfig(64, 4, (32,), embedding_dim=24, shared_dim_feat=16)


def test_nothing_is_rewritten_when_nothing_is_asked_for() -> None:
    expected = Rewrites(("plain",) * 4, False, False, False, False)
    assert Rewrites.none(FOUR_BLOCKS) == expected


def test_wide_blocks_become_products_and_narrow_ones_transposed_convolutions() -> None:
    widths = ModelConfig(32, 16, generator_multipliers=(17, 16, 15, 1), embedding_dim=24)
    shifts = Rewrites(("shifts", "shifts", "shifts"), attention_parts=True, output_transposed=True)
    assert Rewrites.best(widths) == shifts
    assert Rewrites.best(widths) == Rewrites.best(widths, "onnxruntime")
    matrices = Rewrites(("matrices", "matrices", "products"), attention_parts=True)
    assert Rewrites.best(widths, "openvino") == matrices
    assert Rewrites.best(widths, "executorch") == Rewrites(("products", "products", "transposed"))
    assert Rewrites.best(widths, "litert") == Rewrites(("products", "products", "products"))
    assert Rewrites.best(widths, "mnn") == Rewrites(("products", "products", "phases"))
    for target in ("tensorrt", "coreml"):
        assert Rewrites.best(widths, target) == Rewrites(("transposed",) * 3)
    plain_at_16 = Rewrites(("transposed", "transposed", "plain"), attention_product=False)
    assert Rewrites.best(widths, "ncnn") == plain_at_16


def test_narrow_blocks_take_the_form_that_was_measured_at_their_side() -> None:
    narrow = ModelConfig(128, 8, embedding_dim=24)  # widths 128, 128, 64, 32, 16
    assert Rewrites.best(narrow).blocks == ("shifts", *("transposed",) * 4)
    assert Rewrites.best(narrow, "litert").blocks == ("phases",) * 5


def test_a_rewrite_is_switched_off_by_its_name() -> None:
    best = Rewrites.best(FOUR_BLOCKS)
    less = best.without(["blocks", "output_norm"])
    assert set(less.blocks) == {"plain"}
    assert (less.output_norm, less.early_shortcut) == (False, True)
    with pytest.raises(ExportError, match="--without magic: choose from blocks, condition_product"):
        best.without(["magic"])
