"""A run directory of the published shape with random weights, to measure speed without its weights.

    python -m benchmarks.published_size examples/photos --resolution 128 --ch 64 --out runs/size128
    icgan-export bundle runs/size128 --out bundles/size128

A ResNet-50 at 224 px and the generator of the IC-GAN paper without classes. The pictures become the bank;
what it generates is noise.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from benchmarks.generator import random_generator
from icgan_training.networks.checkpoint import save_weights
from icgan_training.networks.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    EncoderConfig,
    random_encoder,
    save_encoder,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--ch", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    generator = random_generator(options.resolution, options.ch)
    options.out.mkdir(parents=True)
    save_weights(generator, options.out / "generator.safetensors")
    encoder = random_encoder(EncoderConfig("resnet50", 2048, 224, IMAGENET_MEAN, IMAGENET_STD))
    save_encoder(encoder, options.out / "encoder.safetensors")
    described = {"name": f"random weights, ch {options.ch}", "model": generator.config.to_dict()}
    (options.out / "config.json").write_text(json.dumps(described))
    shutil.copytree(options.pictures, options.out / "instances")


if __name__ == "__main__":
    main()
