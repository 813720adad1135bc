"""Every preset by name: the published configurations, CIFAR-10 with its baselines, a demo and a tiny model.

The published rows take the settings of IC-GAN's BigGAN experiments.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any

from icgan_training.errors import ConfigError
from icgan_training.networks.config import DIFFAUGMENT_POLICIES, ModelConfig, TrainConfig
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.train import StyleGAN2TrainConfig


@dataclass(frozen=True)
class Preset:
    """A named model with the settings it is trained with."""

    name: str
    summary: str  # data, resolution and conditioning, for `icgan-train fit --list`
    model: Any  # ModelConfig or StyleGAN2Config: whoever names a preset knows which
    train: TrainConfig
    neighbours: int = 0  # k of the neighbourhoods; 0 for models without an instance
    encoder: str | None = None  # whose embeddings condition the published model
    squeeze: bool = False  # its pictures were squeezed to the square, not cropped
    score: str = ""  # the paper's FID, where it is known; our own runs: docs/reports/results.md


@dataclass(frozen=True)
class _Published:
    """What the published configurations of one data set share."""

    title: str
    pictures: int  # in the training set
    classes: int  # 1 where there are no labels
    neighbours: int
    diffaugment: tuple[str, ...] = ()
    classifier: str = "classification"  # whose embeddings a model with classes takes
    squeeze: bool = False


_IMAGENET = _Published("ImageNet", 1_281_167, 1000, 50)
_IMAGENET_LT = _Published("ImageNet-LT", 115_846, 1000, 5, ("translation",), "classifier-balancing")
_COCO = _Published("COCO-Stuff", 75_777, 1, 5, ("translation",), squeeze=True)
_EPOCHS = 3_000  # the published cap


def _published(
    name: str,
    data: _Published,
    resolution: int,
    ch: int,
    batch_size: int,
    lr: tuple[float, float],  # generator, discriminator
    *,
    accumulation: int = 1,
    d_steps: int = 1,
    picture_flip: bool = True,
    instance_flip: bool = False,
    score: str = "",
) -> Preset:
    """One row of the published table; the name opens with the family: icgan, cc-icgan or biggan."""
    takes_instance, takes_label = not name.startswith("biggan"), not name.startswith("icgan")
    model = ModelConfig(
        resolution=resolution,
        ch=ch,
        attention=(32,) if resolution == 64 else (64,),
        embedding_dim=2048 if takes_instance else None,
        class_count=data.classes if takes_label else None,
    )
    train = TrainConfig(
        batch_size=batch_size,
        generator_lr=lr[0],
        discriminator_lr=lr[1],
        total_images=_EPOCHS * data.pictures,
        discriminator_steps=d_steps,
        accumulation=accumulation,
        diffaugment=data.diffaugment,
        picture_flip=picture_flip,
        instance_flip=instance_flip,
    )
    encoder = None
    if takes_instance:
        encoder = data.classifier if takes_label else "SwAV"
    summary = f"{data.title}, {resolution} px, {model.conditioning}"
    neighbours = data.neighbours if takes_instance else 0
    return Preset(name, summary, model, train, neighbours, encoder, data.squeeze, score)


def _cifar10(name: str, *, instance: bool, class_count: int | None, clusters: bool = False) -> Preset:
    """CIFAR-10 at 32 px: the BigGAN tables at 32 px with the augmentation a small set needs."""
    model = ModelConfig(
        32, ch=64, attention=(16,), embedding_dim=2048 if instance else None, class_count=class_count
    )
    train = TrainConfig(
        batch_size=64,
        generator_lr=2e-4,
        discriminator_lr=2e-4,
        total_images=20_000_000,
        discriminator_steps=2,
        ema_decay=0.999,
        ema_start=1_000,
        diffaugment=DIFFAUGMENT_POLICIES,
        instance_flip=instance,
        label_source="clusters" if clusters else "dataset",
    )
    conditioning = "cluster" if clusters else model.conditioning
    return Preset(name, f"CIFAR-10, 32 px, {conditioning}", model, train, 50 if instance else 0)


_DEMO64 = Preset(
    "demo64",
    "any small picture set, 64 px, instance; the shipped demo, trained on one CPU core",
    ModelConfig(
        64,
        ch=16,
        attention=(16,),
        embedding_dim=1280,
        shared_dim_feat=128,
        discriminator="projected",
        instance_gain=10.0,
    ),
    TrainConfig(
        batch_size=16,
        generator_lr=2e-4,
        discriminator_lr=2e-4,
        total_images=110_000,
        beta2=0.99,
        ema_decay=0.999,
        ema_start=500,
        # no colour jitter: colour is the first thing a sample should take from its instance
        diffaugment=("translation", "cutout"),
        instance_flip=True,
        tick_images=1_000,
        snapshot_ticks=2,
    ),
    neighbours=10,
)


_SMALL_SET = Preset(
    "small-set",
    "50 to 1,000 pictures, 64 px, instance; with --from the model is that of the weights",
    _DEMO64.model,
    replace(
        _DEMO64.train,
        # five times demo64's, at which a hundred steps hardly move the demo's weights from their fruit
        generator_lr=1e-3,
        discriminator_lr=4e-4,
        total_images=16_000,
        ema_decay=0.995,
        ema_start=0,
        ema_rampup=0.15,
        tick_images=480,
        checkpoint_ticks=2,  # weights to try from the first sheet of samples on
    ),
    neighbours=5,
)


def _stylegan2(name: str, resolution: int, *, instance: bool, lr: float, gamma: float, batch: int) -> Preset:
    """One of the published COCO-Stuff configurations on StyleGAN2."""
    train = StyleGAN2TrainConfig(
        batch_size=batch,
        generator_lr=lr,
        discriminator_lr=lr,
        total_images=100_000_000,
        r1_gamma=gamma,
        ema_images=20_000 if resolution == 128 else 10_000,
        instance_flip=instance,
    )
    model = StyleGAN2Config(resolution, embedding_dim=2048 if instance else None)
    summary = f"COCO-Stuff, {resolution} px, {model.conditioning}, StyleGAN2"
    encoder = "SwAV" if instance else None
    return Preset(name, summary, model, train, 5 if instance else 0, encoder, _COCO.squeeze)


_CIFAR10_STYLEGAN2 = Preset(
    "cifar10-stylegan2",
    "CIFAR-10, 32 px, instance, StyleGAN2",
    StyleGAN2Config(32, channel_base=4096, channel_max=128, dim_z=128, dim_w=128),
    StyleGAN2TrainConfig(
        batch_size=32,
        generator_lr=0.0025,
        discriminator_lr=0.0025,
        total_images=20_000_000,
        r1_gamma=0.01,
        path_weight=0.0,  # as StyleGAN2-ADA trains on CIFAR-10: neither this nor mixing
        style_mixing=0.0,
        ada_target=0.6,
        instance_flip=True,
    ),
    neighbours=50,
)

_DEMO64_STYLEGAN2 = Preset(
    "demo64-stylegan2",
    "any small picture set, 64 px, instance, StyleGAN2",
    StyleGAN2Config(64, embedding_dim=1280, channel_base=4096, channel_max=128, dim_z=128, dim_w=128),
    StyleGAN2TrainConfig(
        batch_size=16,
        generator_lr=0.002,
        discriminator_lr=0.002,
        total_images=110_000,
        r1_gamma=0.1,
        path_weight=0.0,
        ema_images=2_000,
        diffaugment=("translation", "cutout"),
        instance_flip=True,
        tick_images=1_000,
        snapshot_ticks=2,
    ),
    neighbours=10,
)

_SMALL_SET_STYLEGAN2 = Preset(
    "small-set-stylegan2",
    "50 to 1,000 pictures, 64 px, instance, StyleGAN2; with --from the model is that of the weights",
    _DEMO64_STYLEGAN2.model,
    StyleGAN2TrainConfig(
        batch_size=16,
        generator_lr=0.002,
        discriminator_lr=0.002,
        total_images=16_000,
        r1_gamma=0.1,
        path_weight=0.0,
        ema_images=500,
        diffaugment=("translation", "cutout"),
        instance_flip=True,
        ada_target=0.6,
        ada_images=10_000,
        tick_images=480,
        snapshot_ticks=2,
        checkpoint_ticks=2,
    ),
    neighbours=5,
)

_TINY_STYLEGAN2 = Preset(
    "tiny-stylegan2",
    "for tests: StyleGAN2 that trains in seconds and learns nothing worth seeing",
    StyleGAN2Config(32, embedding_dim=16, channel_base=128, channel_max=8, dim_z=16, dim_w=16),
    StyleGAN2TrainConfig(
        batch_size=4,
        generator_lr=2e-3,
        discriminator_lr=2e-3,
        total_images=64,
        r1_interval=2,
        path_interval=2,
        ada_target=0.6,
        ada_images=64,
        tick_images=16,
        snapshot_ticks=2,
        checkpoint_ticks=1,
    ),
    neighbours=3,
)

_TINY = Preset(
    "tiny",
    "for tests: trains in seconds and learns nothing worth seeing",
    ModelConfig(
        32,
        ch=4,
        attention=(16,),
        dim_z=16,
        shared_dim=8,
        shared_dim_feat=8,
        embedding_dim=16,
        generator_multipliers=(2, 2, 2, 2),
        discriminator_multipliers=(2, 2, 2),
    ),
    TrainConfig(
        batch_size=4,
        generator_lr=2e-4,
        discriminator_lr=2e-4,
        total_images=64,
        ema_start=2,
        tick_images=16,
        snapshot_ticks=2,
        checkpoint_ticks=1,
    ),
    neighbours=3,
)

PRESETS: dict[str, Preset] = {
    row.name: row
    for row in (
        # IC-GAN (Casanova et al. 2021): instance-conditioned
        _published(
            "icgan-imagenet-64", _IMAGENET, 64, 64, 256, (1e-4, 1e-4), instance_flip=True,
            score="paper: FID 9.2",
        ),
        _published(
            "icgan-imagenet-128", _IMAGENET, 128, 96, 2048, (4e-5, 1e-4), instance_flip=True,
            score="paper: FID 11.7",
        ),
        _published(
            "icgan-imagenet-256", _IMAGENET, 256, 96, 2048, (4e-5, 1e-4), accumulation=4,
            score="paper: FID 15.6",
        ),
        _published(
            "icgan-imagenet-256-half", _IMAGENET, 256, 64, 2048, (1e-4, 1e-4),
            accumulation=4, d_steps=2, instance_flip=True,
        ),
        _published("icgan-coco-128", _COCO, 128, 48, 256, (1e-4, 4e-4), instance_flip=True),
        _published("icgan-coco-256", _COCO, 256, 48, 256, (1e-4, 1e-4), instance_flip=True),
        # class- and instance-conditioned
        _published(
            "cc-icgan-imagenet-64", _IMAGENET, 64, 64, 256, (1e-4, 1e-4), instance_flip=True,
            score="paper: FID 6.7",
        ),
        _published(
            "cc-icgan-imagenet-128", _IMAGENET, 128, 96, 2048, (4e-5, 1e-4), instance_flip=True,
            score="paper: FID 9.5",
        ),
        _published("cc-icgan-imagenet-256", _IMAGENET, 256, 96, 2048, (4e-5, 1e-4), accumulation=4),
        _published(
            "cc-icgan-imagenet-256-half", _IMAGENET, 256, 64, 2048, (1e-4, 1e-4),
            accumulation=4, d_steps=2, instance_flip=True,
        ),
        _published("cc-icgan-imagenetlt-64", _IMAGENET_LT, 64, 64, 128, (1e-5, 1e-3)),
        _published("cc-icgan-imagenetlt-128", _IMAGENET_LT, 128, 64, 128, (1e-4, 1e-4), d_steps=2),
        _published("cc-icgan-imagenetlt-256", _IMAGENET_LT, 256, 64, 128, (1e-4, 1e-4), d_steps=2),
        # BigGAN baselines: class-conditional, and unconditional where there are no labels
        _published("biggan-imagenet-64", _IMAGENET, 64, 64, 256, (1e-4, 1e-4)),
        _published("biggan-imagenet-128", _IMAGENET, 128, 96, 2048, (1e-4, 4e-4)),
        _published(
            "biggan-imagenet-256-half", _IMAGENET, 256, 64, 2048, (1e-4, 4e-4),
            accumulation=4, picture_flip=False,
        ),
        _published("biggan-imagenetlt-64", _IMAGENET_LT, 64, 64, 128, (1e-5, 1e-3)),
        _published("biggan-imagenetlt-128", _IMAGENET_LT, 128, 64, 128, (1e-4, 1e-4), d_steps=2),
        _published("biggan-imagenetlt-256", _IMAGENET_LT, 256, 64, 128, (1e-4, 1e-4), d_steps=2),
        _published("biggan-coco-128", _COCO, 128, 48, 256, (1e-4, 4e-4), d_steps=2),
        _published("biggan-coco-256", _COCO, 256, 48, 256, (1e-4, 1e-4), d_steps=2),
        # CIFAR-10 with its baselines
        _cifar10("cifar10", instance=True, class_count=None),
        _cifar10("cifar10-cc", instance=True, class_count=10),
        _cifar10("cifar10-class", instance=False, class_count=10),
        _cifar10("cifar10-cluster", instance=False, class_count=100, clusters=True),
        _cifar10("cifar10-unconditional", instance=False, class_count=1),
        _DEMO64,
        _SMALL_SET,
        _TINY,
        # the second backbone
        _stylegan2("icgan-stylegan2-coco-128", 128, instance=True, lr=0.0025, gamma=0.05, batch=64),
        _stylegan2("icgan-stylegan2-coco-256", 256, instance=True, lr=0.003, gamma=0.5, batch=32),
        _stylegan2("stylegan2-coco-128", 128, instance=False, lr=0.0025, gamma=0.05, batch=64),
        _stylegan2("stylegan2-coco-256", 256, instance=False, lr=0.002, gamma=0.2, batch=32),
        _CIFAR10_STYLEGAN2,
        _DEMO64_STYLEGAN2,
        _SMALL_SET_STYLEGAN2,
        _TINY_STYLEGAN2,
    )
}  # fmt: skip


def preset(name: str) -> Preset:
    """The preset of that name. Raises `ConfigError` with the nearest names when there is none."""
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(PRESETS)}"
    raise ConfigError(f"preset {name!r} does not exist; {hint}")
