"""A rewritten generator draws what the generator draws, with less arithmetic."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from icgan_export.rewrite.choice import BlockForm, Rewrites, Target
from icgan_export.rewrite.constant_layers import Linear
from icgan_export.rewrite.whole import rewrite
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.generator import Generator
from tests.tiny_model import lively_generator

EXACT = 1e-10  # in float64
CONFIGS = {
    "instance": ModelConfig(64, 4, (32,), embedding_dim=24, shared_dim_feat=16),
    "class and instance": ModelConfig(32, 8, (16, 32), embedding_dim=24, class_count=5),
    "class": ModelConfig(32, 4, embedding_dim=None, class_count=3),
    "unconditional": ModelConfig(32, 4, (8,), embedding_dim=None, class_count=1),
    "flat noise": ModelConfig(32, 4, embedding_dim=24, hierarchical=False),
}
SWITCHES = ("condition_product", "early_shortcut", "output_norm", "attention_product", "output_transposed")
FORMS: tuple[BlockForm, ...] = ("plain", "transposed", "phases", "products", "matrices", "shifts")


def pictures_before_tanh(model: nn.Module, output: nn.Module, config: ModelConfig) -> Tensor:
    """float64, where tanh's own cast to float32 has not happened yet."""
    caught: list[Tensor] = []
    handle = output.register_forward_hook(lambda _, __, value: caught.append(value))
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(3, config.dim_z, generator=rng, dtype=torch.float64)
    embedding = label = None
    if config.embedding_dim is not None:
        raw = torch.randn(3, config.embedding_dim, generator=rng, dtype=torch.float64)
        embedding = F.normalize(raw, dim=1)
    if config.takes_label:
        label = torch.tensor([0, 2, 1])
    with torch.no_grad():
        model(noise, embedding, label)
    handle.remove()
    return caught[0]


def difference(generator: Generator, rewrites: Rewrites) -> float:
    reference = pictures_before_tanh(generator, generator.output_layer, generator.config)
    rewritten = rewrite(generator, rewrites)
    found = pictures_before_tanh(rewritten, rewritten.output, generator.config)
    assert reference.dtype == found.dtype == torch.float64
    return float((found - reference).abs().max())


def uniform(config: ModelConfig, form: BlockForm) -> tuple[BlockForm, ...]:
    return (form,) * len(config.block_resolutions)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_all_rewrites_together_change_nothing(name: str, target: Target) -> None:
    config = CONFIGS[name]
    assert difference(lively_generator(config).double(), Rewrites.best(config, target)) < EXACT


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_alone_changes_nothing(switch: str) -> None:
    config = CONFIGS["class and instance"]
    rewrites = dataclasses.replace(Rewrites.none(config), **{switch: True})  # type: ignore[arg-type]
    assert difference(lively_generator(config).double(), rewrites) < EXACT


def test_attention_in_parts_is_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icgan_export.rewrite.attention.LARGEST_SCORES", 1000)  # 32 px have 262,144 scores
    config = CONFIGS["class and instance"]
    rewrites = dataclasses.replace(Rewrites.none(config), attention_parts=True)
    assert difference(lively_generator(config).double(), rewrites) < EXACT


@pytest.mark.parametrize("form", FORMS)
def test_each_block_form_alone_changes_nothing(form: BlockForm) -> None:
    config = CONFIGS["instance"]
    rewrites = dataclasses.replace(Rewrites.none(config), blocks=uniform(config, form))
    assert difference(lively_generator(config).double(), rewrites) < EXACT


def test_forms_can_be_mixed_in_any_order() -> None:
    config = CONFIGS["class and instance"]
    assert difference(lively_generator(config).double(), Rewrites(("phases", "products", "plain"))) < EXACT


def test_the_generator_itself_is_left_alone() -> None:
    config = CONFIGS["instance"]
    generator = lively_generator(config)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    rewrite(generator, Rewrites.best(config))
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())


def multiply_adds(generator: Generator, rewrites: Rewrites) -> int:
    """Of one picture of an instance-conditioned generator, counted while it runs."""
    model = rewrite(generator, rewrites)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, generator.config.dim_z), torch.zeros(1, generator.config.embedding_dim or 1))
    return int(counter.get_total_flops()) // 2


def test_every_rewrite_does_less_arithmetic() -> None:
    config = ModelConfig(32, 16, (8, 32), embedding_dim=24, shared_dim_feat=16)
    generator = lively_generator(config)
    none = Rewrites.none(config)
    before = multiply_adds(generator, none)
    pairs = [4 * 4 * 64 * 64, 8 * 8 * 64 * 64, 16 * 16 * 64 * 64]  # input pixels x pairs of channels
    shortcut = dataclasses.replace(none, early_shortcut=True)
    assert before - multiply_adds(generator, shortcut) == 3 * sum(pairs)
    for form in FORMS[1:]:
        rewrites = dataclasses.replace(shortcut, blocks=uniform(config, form))
        saved = before - multiply_adds(generator, rewrites)
        if form == "matrices":  # its sums are products, too, and counted; those of "products" are not
            assert sum(pairs) < saved < 50 * sum(pairs)
            continue
        if form == "shifts":  # as are its sums along the rows of small pictures
            assert 30 * sum(pairs) < saved < 50 * sum(pairs)
            continue
        kept = {"transposed": 16 + 36 + 1, "phases": 16 + 36 + 1, "products": 9 + 16 + 1}[form]
        promised = (36 + 36 + 4 - kept) * sum(pairs)
        # phases and differences reach one row past a picture
        assert (1 if form == "transposed" else 0.8) * promised <= saved <= promised


def linear_and_convolutions(model: nn.Module) -> tuple[int, int]:
    kinds = [type(module) for module in model.modules()]
    return kinds.count(Linear), kinds.count(nn.Conv2d)


def test_products_of_conditions_and_attention_are_one_where_there_were_many() -> None:
    config = CONFIGS["class and instance"]
    generator, none = lively_generator(config), Rewrites.none(config)
    linear, convolutions = linear_and_convolutions(rewrite(generator, none))
    one = rewrite(generator, dataclasses.replace(none, condition_product=True))
    # two for each of the six norms; the instance's projection and the input map stay
    assert (linear, linear_and_convolutions(one)[0]) == (12 + 2, 1 + 2)
    joined = rewrite(generator, dataclasses.replace(none, attention_product=True))
    # theta stays alone, phi and g are one, at two resolutions
    assert convolutions - linear_and_convolutions(joined)[1] == 2


def test_the_last_norm_disappears_into_the_last_block_unless_attention_follows() -> None:
    folded = dataclasses.replace(Rewrites.none(CONFIGS["instance"]), output_norm=True)
    assert not rewrite(lively_generator(CONFIGS["instance"]), folded).output_norm
    attended = ModelConfig(32, 4, (32,), embedding_dim=24)
    kept = dataclasses.replace(Rewrites.none(attended), output_norm=True)
    assert rewrite(lively_generator(attended), kept).output_norm
    assert difference(lively_generator(attended).double(), kept) < EXACT


def test_the_rewritten_generator_keeps_the_dtype_and_learns_nothing() -> None:
    config = CONFIGS["instance"]
    for dtype in (torch.float32, torch.float64):
        model = rewrite(lively_generator(config).to(dtype), Rewrites.best(config))
        tensors = [*model.parameters(), *model.buffers()]
        assert {tensor.dtype for tensor in tensors} == {dtype}
        assert not any(tensor.requires_grad for tensor in tensors)
        assert not model.training


def test_a_form_too_few_is_refused() -> None:
    config = CONFIGS["instance"]
    with pytest.raises(ValueError, match=r"^rewrites\.blocks has 2 forms for 4 blocks$"):
        rewrite(lively_generator(config), Rewrites(("plain", "plain")))
