"""Every rewrite of the StyleGAN2 generator leaves the function as it is: in float64, to rounding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from icgan_export.errors import ExportError
from icgan_export.lower.graphs import generator_graph
from icgan_export.rewrite.backbones import AnyRewrites, best_rewrites, no_rewrites
from icgan_export.rewrite.stylegan2.choice import StyleForm, StyleRewrites
from icgan_export.rewrite.stylegan2.whole import rewrite_stylegan2
from icgan_runtime.backends.ort import OrtSession
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator

SHARED = Path(__file__).parents[5] / "shared" / "reference" / "vectors" / "stylegan2_res64"
# A clamp that pictures of this size reach, and sides of every kind.
CONFIG = StyleGAN2Config(
    32, 24, 5, dim_z=16, dim_w=16, channel_base=256, channel_max=12, conv_clamp=2.0
)  # fmt: skip
Given = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def generator() -> StyleGAN2Generator:
    torch.manual_seed(0)
    made = StyleGAN2Generator(CONFIG).eval().requires_grad_(False)
    for parameter in made.parameters():
        if parameter.dim() < 2:
            torch.nn.init.normal_(parameter, std=0.5)
    made.mapping.w_avg.normal_()
    return made


@pytest.fixture(scope="module")
def given() -> Given:
    source = torch.Generator().manual_seed(1)
    noise, embedding = (torch.randn(3, width, generator=source).double() for width in (16, 24))
    return noise, embedding, torch.tensor([0, 4, 2])


@pytest.mark.parametrize("form", ["separate", "phases", "products"])
@pytest.mark.parametrize("all_others", [True, False])
def test_a_rewritten_generator_draws_the_same(
    generator: StyleGAN2Generator, given: Given, form: StyleForm, all_others: bool
) -> None:
    exact = StyleGAN2Generator(CONFIG).double().eval()
    exact.load_state_dict(generator.state_dict())
    psi = torch.tensor([1.0, 0.5, 0.25]).double()
    rewrites = StyleRewrites((form, form, form), all_others, all_others, all_others)
    with torch.no_grad():
        wanted = exact(*given, psi)
        found = rewrite_stylegan2(exact, rewrites)(*given, psi)
    assert (found - wanted).abs().max() < 1e-12


def test_the_pictures_of_the_test_reach_the_clamp(generator: StyleGAN2Generator, given: Given) -> None:
    """So that a rewrite which lost it would be found."""
    noise, embedding, label = given
    ws = generator.latents(noise.float(), embedding.float(), label)
    x = generator.synthesis.blocks()[0].const.expand(3, -1, -1, -1)
    assert generator.synthesis.blocks()[0].conv1(x, ws).abs().max() == CONFIG.conv_clamp


@pytest.mark.parametrize("truncated", [False, True])
def test_the_graph_has_the_contracts_inputs(generator: StyleGAN2Generator, truncated: bool) -> None:
    graph = generator_graph(generator, best_rewrites(CONFIG), {}, truncated=truncated)
    names = [value.name for value in graph.graph.input]
    assert names == ["noise", "embedding", "label", *["truncation"] * truncated]


def test_truncation_beyond_one_is_none_and_the_batch_is_any(
    generator: StyleGAN2Generator, given: Given
) -> None:
    graph = generator_graph(generator, best_rewrites(CONFIG), {}, "float32", truncated=True)
    feeds = {name: value.numpy() for name, value in zip(("noise", "embedding", "label"), given, strict=True)}
    feeds = {name: value.astype(np.float32) if name != "label" else value for name, value in feeds.items()}
    psi = np.array([np.inf, 0.5, 1.0], np.float32)
    with OrtSession(graph.SerializeToString(), "g") as session:
        found = session.run(feeds | {"truncation": psi})["image"]
        alone = session.run({k: v[1:2] for k, v in feeds.items()} | {"truncation": psi[1:2]})["image"]
    noise, embedding, label = given
    wanted = generator(noise.float(), embedding.float(), label, torch.tensor([1.0, 0.5, 1.0])).numpy()
    assert np.abs(found - wanted).max() < 1e-4
    assert np.abs(found[1:2] - alone).max() < 1e-5


def test_noise_of_zeros_draws_a_picture_in_the_graph_too(generator: StyleGAN2Generator) -> None:
    """The web page shows stored instances without noise."""
    graph = generator_graph(generator, no_rewrites(CONFIG), {}, "float32").SerializeToString()
    noise, embedding, label = torch.zeros(2, 16), torch.eye(24)[:2], torch.tensor([1, 3])
    with OrtSession(graph, "g") as session:
        feeds = {"noise": noise.numpy(), "embedding": embedding.numpy(), "label": label.numpy()}
        found = session.run(feeds)["image"]
    assert np.abs(found - generator(noise, embedding, label).numpy()).max() < 1e-4


def test_best_and_no_rewrites_draw_what_the_published_vector_says() -> None:
    if not SHARED.is_dir():
        pytest.skip("the published networks' vectors are not at hand")
    said = json.loads((SHARED / "config.json").read_text())["synthesis_kwargs"]
    config = StyleGAN2Config(64, channel_base=said["channel_base"], channel_max=said["channel_max"])
    made = StyleGAN2Generator(config).eval()
    weights = torch.load(SHARED / "G_ema_state_dict.pth", weights_only=True)
    made.load_state_dict({name: value for name, value in weights.items() if "resample" not in name})
    inputs, wanted = np.load(SHARED / "inputs.npz"), np.load(SHARED / "reference.npz")["image"]
    choices: list[AnyRewrites] = [
        best_rewrites(config),
        no_rewrites(config),
        StyleRewrites(("products",) * 4),
    ]
    for rewrites in choices:
        graph = generator_graph(made, rewrites, {}, "float32").SerializeToString()
        with OrtSession(graph, "g") as session:
            found = session.run({"noise": inputs["z"], "embedding": inputs["feats"]})["image"]
        assert np.abs(found - wanted).max() < 1e-4


def test_an_unknown_rewrite_is_named() -> None:
    with pytest.raises(ExportError, match="colours"):
        StyleRewrites.best(CONFIG).without(["colors"])
