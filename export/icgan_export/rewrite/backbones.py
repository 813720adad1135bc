"""The rewrites of either backbone behind one face."""

from __future__ import annotations

from torch import nn

from icgan_export.rewrite.choice import Rewrites, Target
from icgan_export.rewrite.stylegan2.choice import StyleRewrites
from icgan_export.rewrite.stylegan2.whole import rewrite_stylegan2
from icgan_export.rewrite.whole import rewrite
from icgan_training.networks.backbones import AnyConfig, AnyGenerator
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator

AnyRewrites = Rewrites | StyleRewrites


def no_rewrites(config: AnyConfig) -> AnyRewrites:
    """Only what is always done."""
    return StyleRewrites.none(config) if isinstance(config, StyleGAN2Config) else Rewrites.none(config)


def best_rewrites(config: AnyConfig, target: Target = "onnxruntime") -> AnyRewrites:
    """The forms measured as fastest for `target`."""
    if isinstance(config, StyleGAN2Config):
        return StyleRewrites.best(config, target)
    return Rewrites.best(config, target)


def rewritten(generator: AnyGenerator, rewrites: AnyRewrites) -> nn.Module:
    """The same function as `generator`. Raises TypeError for rewrites of another backbone."""
    if isinstance(generator, StyleGAN2Generator) and isinstance(rewrites, StyleRewrites):
        return rewrite_stylegan2(generator, rewrites)
    if not isinstance(generator, StyleGAN2Generator) and isinstance(rewrites, Rewrites):
        return rewrite(generator, rewrites)
    raise TypeError(f"{type(rewrites).__name__} are not for a {type(generator).__name__}")
