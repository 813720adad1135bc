"""Writes published_stylegan2.safetensors: a small class-and-instance StyleGAN2 with frozen answers.

Run from the repository root: `python -m tests.golden.make_published_stylegan2`. The numbers come from
`tests/models/published_stylegan2.py`, which the full-size vector of the published network checks.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from tests.models.published_stylegan2 import judged, mapped, random_weights, synthesised

RESOLUTION, CHANNELS, WIDTH, EMBEDDING, CLASSES, CLAMP = 16, 8, 16, 24, 5, 4.0

if __name__ == "__main__":
    weights = random_weights(RESOLUTION, CHANNELS, WIDTH, EMBEDDING, CLASSES)
    exact = {name: value.double() for name, value in weights.items()}
    source = torch.Generator().manual_seed(6)
    z = torch.randn(8, WIDTH, generator=source)
    feats = F.normalize(torch.randn(8, EMBEDDING, generator=source), dim=1)
    label = torch.arange(8) * 3 % CLASSES
    w = mapped(exact, "g.mapping", z.double(), feats.double(), label, 2)
    mean = exact["g.mapping.w_avg"]
    ws = w[:, None].repeat(1, 6, 1)
    pulled = mean + 0.5 * (ws - mean)
    pulled[:, 4:] = ws[:, 4:]
    image = synthesised(exact, ws, CLAMP)
    answers = {
        "w": w,
        "image": image,
        "image_psi0.7": synthesised(exact, mean + 0.7 * (ws - mean), CLAMP),
        "image_psi0.5_cut4": synthesised(exact, pulled, CLAMP),
        "image_nonoise": synthesised(exact, ws, CLAMP, noise=False),
        "logits": judged(exact, image, feats.double(), label, CLAMP),
    }
    tensors = {"z": z, "feats": feats, "label": label} | weights
    tensors |= {name: value.float().contiguous() for name, value in answers.items()}
    save_file(tensors, Path(__file__).with_name("published_stylegan2.safetensors"))
