"""The StyleGAN2 networks against answers of the published architecture: frozen small ones, and the shared
vector where it is at hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from icgan_training.networks.stylegan2 import layers
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.discriminator import StyleGAN2Discriminator
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator
from icgan_training.networks.stylegan2.mapping import truncated
from tests.models import published_stylegan2

GOLDEN = Path(__file__).parents[3] / "golden" / "published_stylegan2.safetensors"
SHARED = Path(__file__).parents[5] / "shared" / "reference" / "vectors" / "stylegan2_res64"
SMALL = StyleGAN2Config(
    16, 24, 5, dim_z=16, dim_w=16, channel_base=128, channel_max=8, conv_clamp=4.0
)  # fmt: skip


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def generator(golden: dict[str, Tensor]) -> StyleGAN2Generator:
    made = StyleGAN2Generator(SMALL).eval().requires_grad_(False)
    made.load_state_dict(part(golden, "g."))
    return made


def far(found: Tensor, wanted: Tensor) -> float:
    return float((found.detach() - wanted).abs().max())


def test_latents_of_class_and_instance(golden: dict[str, Tensor], generator: StyleGAN2Generator) -> None:
    assert far(generator.latents(golden["z"], golden["feats"], golden["label"]), golden["w"]) < 2e-6


@pytest.mark.parametrize("in_parts", [True, False])
def test_pictures_with_every_truncation(
    golden: dict[str, Tensor], generator: StyleGAN2Generator, in_parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way the processor has sums added up."""
    monkeypatch.setattr(layers, "IN_PARTS", in_parts)
    given = golden["z"], golden["feats"], golden["label"]
    assert far(generator(*given), golden["image"]) < 1e-5
    assert far(generator(*given, psi=0.7), golden["image_psi0.7"]) < 1e-5
    rows = torch.full((len(golden["z"]),), 0.7)
    assert far(generator(*given, psi=rows), golden["image_psi0.7"]) < 1e-5
    ws = generator.latents(*given)[:, None].expand(-1, SMALL.latents, -1)
    pulled = truncated(ws, generator.mapping.w_avg, 0.5, cutoff=4)
    assert far(generator.synthesis(pulled), golden["image_psi0.5_cut4"]) < 1e-5
    assert far(generator.synthesis(ws, noise=False), golden["image_nonoise"]) < 1e-5


def test_few_rows_or_many_in_training_or_not_make_the_same_pictures(
    golden: dict[str, Tensor], generator: StyleGAN2Generator
) -> None:
    given = golden["z"], golden["feats"], golden["label"]
    copies = 1 + layers.FEW_ROWS // len(golden["z"])
    many = generator(*(value.repeat(copies, *[1] * (value.dim() - 1)) for value in given))
    assert far(many, golden["image"].repeat(copies, 1, 1, 1)) < 5e-5
    assert far(generator.train()(*given), golden["image"]) < 5e-5
    generator.eval()


def test_a_traced_graph_is_for_any_number_of_rows(
    golden: dict[str, Tensor], generator: StyleGAN2Generator
) -> None:
    given = golden["z"], golden["feats"], golden["label"]
    rows = {0: torch.export.Dim("rows", max=1024)}
    traced = torch.export.export(generator, given, dynamic_shapes=(rows, rows, rows), strict=False).module()
    copies = 1 + layers.FEW_ROWS // len(golden["z"])
    many = traced(*(value.repeat(copies, *[1] * (value.dim() - 1)) for value in given))
    assert far(many, golden["image"].repeat(copies, 1, 1, 1)) < 5e-5


def test_the_frozen_pictures_reach_the_clamp(
    golden: dict[str, Tensor], generator: StyleGAN2Generator
) -> None:
    given = golden["z"], golden["feats"], golden["label"]
    unheld = dataclasses.replace(SMALL, conv_clamp=None)
    free = StyleGAN2Generator(unheld).eval()
    free.load_state_dict(generator.state_dict())
    assert far(free(*given), golden["image"]) > 0.1


def test_judgements(golden: dict[str, Tensor]) -> None:
    discriminator = StyleGAN2Discriminator(SMALL).eval()
    discriminator.load_state_dict(part(golden, "d."))
    with torch.no_grad():
        logits = discriminator(golden["image"], golden["feats"], golden["label"])
    assert far(logits, golden["logits"]) < 1e-5


def test_the_published_vector(generator: StyleGAN2Generator) -> None:
    """Its pictures reach ±13 and lie up to 0.95e-5 from exact ones of the same w, so that few rounding errors
    of ours are left room for."""
    if not SHARED.is_dir():
        pytest.skip("the published networks' vectors are not at hand")
    said = json.loads((SHARED / "config.json").read_text())
    base, most = (said["synthesis_kwargs"][name] for name in ("channel_base", "channel_max"))
    made = StyleGAN2Generator(StyleGAN2Config(64, channel_base=base, channel_max=most)).eval()
    weights = torch.load(SHARED / "G_ema_state_dict.pth", weights_only=True)
    made.load_state_dict({name: value for name, value in weights.items() if "resample" not in name})
    inputs, wanted = ({name: torch.from_numpy(value) for name, value in np.load(SHARED / file).items()}
                      for file in ("inputs.npz", "reference.npz"))  # fmt: skip
    with torch.no_grad():
        ws = made.latents(inputs["z"], inputs["feats"])[:, None].expand(-1, 10, -1)
        mean = made.mapping.w_avg
        assert far(ws, wanted["w"]) < 2e-6
        assert far(truncated(ws, mean, 0.7), wanted["w_psi0.7"]) < 2e-6
        assert far(made.synthesis(ws), wanted["image"]) < 1e-5
        assert far(made.synthesis(truncated(ws, mean, 0.7)), wanted["image_psi0.7"]) < 1e-5
        assert far(made.synthesis(truncated(ws, mean, 0.5, 4)), wanted["image_psi0.5_cut4"]) < 1e-5
        assert far(made.synthesis(ws, noise=False), wanted["image_nonoise"]) < 1e-5
        halved = made.synthesis(ws, half=True)
        rounding = far(wanted["image_fp16path"], wanted["image"])
        assert rounding / 4 < far(halved, wanted["image"]) < 2 * rounding
    exact = {f"g.{name}": value.double() for name, value in weights.items()}
    clamp = said["synthesis_kwargs"]["conv_clamp"]
    assert far(published_stylegan2.synthesised(exact, wanted["w"].double(), clamp), wanted["image"]) < 1e-5
