"""A StyleGAN2 generator from its run to pictures, at every precision and truncation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from icgan_export.cli import main
from icgan_runtime import Pipeline, latents
from icgan_runtime.bundle.manifest import Manifest
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.cli import main as icgan
from icgan_runtime.errors import BundleError, RequestError
from icgan_runtime.verify import to_bytes
from icgan_training.networks.checkpoint import load_generator, save_weights
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator
from tests.tiny_model import tiny_config, write_run

CONFIG = StyleGAN2Config(32, 1280, dim_z=16, dim_w=16, channel_base=512, channel_max=16)


@pytest.fixture(scope="module")
def stylegan2_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("stylegan2") / "run", tiny_config())
    torch.manual_seed(0)
    generator = StyleGAN2Generator(CONFIG).eval()
    for name, parameter in generator.named_parameters():
        if "affine" not in name and parameter.dim() < 2:
            parameter.data.normal_(std=0.2)
    generator.mapping.w_avg.normal_(std=0.3)
    save_weights(generator, run / "generator.safetensors")
    described = json.loads((run / "config.json").read_text()) | {"model": CONFIG.to_dict()}
    (run / "config.json").write_text(json.dumps(described))
    return run


@pytest.fixture(scope="module")
def stylegan2_bundle(stylegan2_run: Path) -> Path:
    out = stylegan2_run.parent / "bundle"
    assert main(["bundle", str(stylegan2_run), "--out", str(out), "--precision", "fp32,fp16,int8"]) == 0
    return out


def test_the_bundle_says_what_truncation_means_and_verifies(stylegan2_bundle: Path) -> None:
    written = json.loads((stylegan2_bundle / "manifest.json").read_text())
    assert written["schema_version"] == 2
    assert written["model"]["truncation"] == "mean-w"
    assert written["provenance"]["backbone"] == "stylegan2"
    assert "Truncation pulls towards the mean w" in (stylegan2_bundle / "README.md").read_text()
    assert main(["verify", str(stylegan2_bundle)]) == 0
    assert icgan(["info", "--verify", str(stylegan2_bundle)]) == 0


def test_truncation_is_psi_and_the_noise_is_not_bounded(stylegan2_run: Path, stylegan2_bundle: Path) -> None:
    generator = load_generator(stylegan2_run)
    assert isinstance(generator, StyleGAN2Generator)
    with Pipeline.load(stylegan2_bundle, precision="fp32") as pipe:
        bank = pipe.bank
        assert bank is not None
        for truncation, psi in ((None, 1.0), (1.0, 1.0), (0.4, 0.4)):
            result = pipe.generate_from(embedding=bank.embeddings[:1], n=3, seed=5, truncation=truncation)
            noise = torch.from_numpy(latents.noise(5, np.arange(3), np.inf, CONFIG.dim_z))
            embedding = torch.from_numpy(bank.embeddings[:1].copy()).expand(3, -1)
            with torch.no_grad():
                wanted = to_bytes(generator(noise, embedding, None, psi).numpy())
            assert np.abs(result.images.astype(int) - wanted).max() <= 1
        with pytest.raises(RequestError, match="truncation"):
            pipe.generate_from(embedding=bank.embeddings[:1], truncation=1.5)


def test_a_manifest_of_the_first_schema_cannot_mean_another_truncation(stylegan2_bundle: Path) -> None:
    written = json.loads((stylegan2_bundle / "manifest.json").read_text())
    assert Manifest.from_bytes(json.dumps(written).encode()).model.truncation == "mean-w"
    with pytest.raises(BundleError, match="schema_version 1"):
        Manifest.from_bytes(json.dumps(written | {"schema_version": 1}).encode())
    written["model"]["truncation"] = "sometimes"
    with pytest.raises(BundleError, match=r"model\.truncation"):
        Manifest.from_bytes(json.dumps(written).encode())


def test_a_bundle_of_the_other_backbone_keeps_its_schema_and_identity(tiny_bundle: Path) -> None:
    written = json.loads((tiny_bundle / "manifest.json").read_text())
    assert written["schema_version"] == 1
    assert "truncation" not in written["model"]
    manifest = Bundle.open(tiny_bundle).manifest
    assert json.loads(manifest.to_bytes()) == written


def test_a_server_takes_the_truncation_from_the_request(stylegan2_bundle: Path, tmp_path: Path) -> None:
    assert main(["triton", str(stylegan2_bundle), "--out", str(tmp_path / "repository")]) == 0
    generator = (tmp_path / "repository" / "icgan_generator" / "config.pbtxt").read_text()
    assert 'name: "truncation"' in generator
    ensemble = (tmp_path / "repository" / "icgan" / "config.pbtxt").read_text()
    assert 'input_map { key: "truncation" value: "TRUNCATION" }' in ensemble


@pytest.mark.parametrize("more", [[], ["--no-rewrite"], ["--without", "blocks,colours_product"]])
def test_the_generator_alone_has_noise_and_embedding(
    stylegan2_run: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "generator.onnx"
    assert main(["onnx", str(stylegan2_run), "--image-dtype", "float32", "--out", str(out), *more]) == 0
    graph = onnx.load(out).graph
    assert [value.name for value in graph.input] == ["noise", "embedding"]
    assert "max error" in capsys.readouterr().err
