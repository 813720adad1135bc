"""A bundle whose encoder is a model of timm: traced, verified and run like the others."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from icgan_export.cli import main
from icgan_runtime import Pipeline
from icgan_training.networks.checkpoint import save_weights
from icgan_training.networks.encoder import encoder_from_timm, save_encoder
from icgan_training.networks.timm_encoder import timm_backbone
from tests.tiny_model import lively_generator, tiny_config, write_pictures

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="pip install --no-deps timm")


@pytest.mark.parametrize(("name", "width"), [("test_vit", 64), ("test_convnext", 64)])
def test_a_bundle_embeds_as_torch_does(name: str, width: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(timm_backbone(name, 160).state_dict(), tmp_path / "weights.safetensors")
    encoder = encoder_from_timm(f"timm:{name}", tmp_path / "weights.safetensors", 32)
    run, config = tmp_path / "run", tiny_config(embedding_dim=width)
    run.mkdir()
    save_weights(lively_generator(config), run / "generator.safetensors")
    save_encoder(encoder, run / "encoder.safetensors")
    described = {"name": "tiny", "model": config.to_dict(), "licence": {"weights": "CC0-1.0"}}
    (run / "config.json").write_text(json.dumps(described))
    write_pictures(run / "instances", 12)
    command = ["bundle", str(run), "--out", str(tmp_path / "bundle"), "--precision", "fp32"]
    assert main([*command, "--neighbours", "3"]) == 0
    with Image.open(next((run / "instances").rglob("*.png"))) as file:
        picture = file.convert("RGB")
    with Pipeline.load(tmp_path / "bundle", backend="ort-cpu") as pipe:
        assert pipe.model.encoder.name == f"timm:{name}"
        found = pipe.embed([picture])
    side = picture.height
    left = (picture.width - side) // 2
    square = picture.crop((left, 0, left + side, side)).resize((32, 32), Image.Resampling.BILINEAR)
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(np.array(square))[None]).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
