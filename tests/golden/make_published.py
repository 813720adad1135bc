"""Writes published.safetensors: a small class-and-instance model with frozen pictures and logits.

Run from the repository root: `python -m tests.golden.make_published`. The numbers come from
`tests/models/published.py`, which the full-size vectors of the published networks check.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from tests.models.published import Shape, generate, judge, random_discriminator, random_generator

SHAPE = Shape(64, ch=2, attention=32, classes=10, embedding=64, shared_feat=32)

if __name__ == "__main__":
    source = torch.Generator().manual_seed(2)
    z = torch.randn(3, 120, generator=source)
    feats = F.normalize(torch.randn(3, 64, generator=source), dim=1)
    labels = torch.tensor([0, 9, 4])
    generator, discriminator = random_generator(SHAPE), random_discriminator(SHAPE)
    image = generate(generator, SHAPE, z, feats, labels)
    logits = judge(discriminator, SHAPE, image, feats, labels)
    tensors = {"z": z, "feats": feats, "labels": labels, "image": image, "logits": logits}
    tensors |= {f"generator.{name}": value for name, value in generator.items()}
    tensors |= {f"discriminator.{name}": value for name, value in discriminator.items()}
    save_file(tensors, Path(__file__).with_name("published.safetensors"))
