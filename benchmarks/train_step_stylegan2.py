"""The training step of StyleGAN2 against a straightforward one, interleaved, in processor time.

    python -m benchmarks.train_step_stylegan2 --preset cifar10-stylegan2 --batch 8 --out report/

The straightforward step trains the same networks as the paper writes them down: real and generated pictures
pass the discriminator one after the other, the filter runs on padded pictures, with zeros put between pixels
where the side doubles, and every row has a kernel (`--kernels rows`: grouped convolutions), or one kernel
serves all rows between style and demodulation (`--kernels shared`). Both take R1 at every sixteenth step by
double backward and the path length penalty at every fourth, mix styles and average. A round runs each kind of
step of each once: both penalties, path length alone, none; 1, 3 and 12 of sixteen are such. In float32,
contiguous tensors, without augmentation, one thread. Writes train_step_stylegan2-KERNELS.md under --out.
"""

from __future__ import annotations

import argparse
import math
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.report import machine, table
from icgan_training.distributed import ALONE
from icgan_training.fit.augment import UNIFORMS
from icgan_training.fit.inputs import Inputs, StepInputs
from icgan_training.fit.sampler import Batch
from icgan_training.fit.stylegan2_step import StyleGAN2Trainer
from icgan_training.networks.presets import preset
from icgan_training.networks.stylegan2.layers import EqualConv, ModulatedConv, ToRGB, filter_kernel

KINDS = {"R1 and path length": (16, 1), "path length": (4, 3), "neither": (1, 12)}  # step, and how many of 16


def resampled(x: Tensor, pads: tuple[int, int], gain: float = 1.0) -> Tensor:
    """The filter on a padded picture."""
    kernel = filter_kernel(gain).to(x).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, pads * 2), kernel, groups=x.shape[1])


def spread_out(x: Tensor) -> Tensor:
    """A zero after every pixel, in both directions."""
    count, channels, height, width = x.shape
    x = F.pad(x.reshape(count, channels, height, 1, width, 1), [0, 1, 0, 0, 0, 1])
    return x.reshape(count, channels, 2 * height, 2 * width)


def plain_layer(self: ModulatedConv, x: Tensor, w: Tensor, noise: Any = True) -> Tensor:
    """`ModulatedConv.forward`."""
    style = self.affine(w)
    kernels = self.weight[None] * style[:, None, :, None, None]
    scale = (kernels.square().sum((2, 3, 4)) + 1e-8).rsqrt()
    x = x * style[:, :, None, None]
    if self.up:
        x = resampled(F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2), (1, 1), 4.0)
    else:
        x = F.conv2d(x, self.weight, padding=1)
    x = x * scale[:, :, None, None] + noise * self.noise_strength
    return finished(x + self.bias[:, None, None], True, math.sqrt(2), self.clamp)


def rows_layer(self: ModulatedConv, x: Tensor, w: Tensor, noise: Any = True) -> Tensor:
    """`ModulatedConv.forward` with a kernel for each row."""
    kernels = self.weight[None] * self.affine(w)[:, None, :, None, None]  # [N, O, I, 3, 3]
    kernels = kernels * (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    count, out, channels, _, _ = kernels.shape
    x = x.reshape(1, count * channels, *x.shape[2:])
    if self.up:
        x = F.conv_transpose2d(x, kernels.transpose(1, 2).flatten(0, 1), stride=2, groups=count)
        x = resampled(x, (1, 1), 4.0)
    else:
        x = F.conv2d(x, kernels.flatten(0, 1), padding=1, groups=count)
    x = x.reshape(count, out, *x.shape[2:]) + noise * self.noise_strength
    return finished(x + self.bias[:, None, None], True, math.sqrt(2), self.clamp)


def plain_colours(self: ToRGB, x: Tensor, w: Tensor) -> Tensor:
    """`ToRGB.forward`."""
    style = self.affine(w) / math.sqrt(x.shape[1])
    x = F.conv2d(x * style[:, :, None, None], self.weight) + self.bias[:, None, None]
    return finished(x, False, 1.0, self.clamp)


def plain_conv(self: EqualConv, x: Tensor) -> Tensor:
    """`EqualConv.forward`: the filter, then the convolution."""
    size = self.weight.shape[-1]
    weight = self.weight / math.sqrt(self.weight[0].numel())
    if self.down:
        pad = size // 2 + 1
        x = F.conv2d(resampled(x, (pad, pad)), weight, stride=2)
    else:
        x = F.conv2d(x, weight, padding=size // 2)
    if self.bias is not None:
        x = x + self.bias[:, None, None]
    return finished(x, self.activate, self.gain, self.clamp)


def finished(x: Tensor, activate: bool, gain: float, clamp: float | None) -> Tensor:
    """Activation, gain and clamp, one after the other."""
    x = (F.leaky_relu(x, 0.2) if activate else x) * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


class PlainTrainer(StyleGAN2Trainer):
    """The step one thing after another."""

    def __init__(self, *arguments: Any, kernels: str) -> None:
        super().__init__(*arguments)
        layer = rows_layer if kernels == "rows" else plain_layer
        forms = {ModulatedConv: layer, ToRGB: plain_colours, EqualConv: plain_conv}
        for network in (self.generator, self.discriminator):
            for module in network.modules():
                if type(module) in forms:
                    form = types.MethodType(forms[type(module)], module)  # type: ignore[index]
                    module.forward = form  # type: ignore[method-assign]
        synthesis = self.generator.synthesis

        def forward(ws: Tensor, noise: list[Tensor]) -> Tensor:
            given, x, image = iter(noise), None, None
            for index, block in enumerate(synthesis.blocks()):
                if x is None:
                    x = block.const.expand(len(ws), -1, -1, -1)
                else:
                    x = block.conv0(x, ws[:, 2 * index - 1], next(given))
                x = block.conv1(x, ws[:, 2 * index], next(given))
                colours = block.torgb(x, ws[:, 2 * index + 1])
                image = colours if image is None else resampled(spread_out(image), (2, 1), 4.0) + colours
            assert image is not None
            return image

        synthesis.forward = forward  # type: ignore[assignment,method-assign]

    def _discriminator_step(
        self, turn: list[tuple[Inputs, Inputs]], step: int, random: torch.Generator
    ) -> Tensor:
        self._let_discriminator_learn(True)
        sums = torch.zeros(3)
        for real, fake in turn:
            with torch.no_grad():
                generated, _ = self._generate(fake, random)
            assert real.image is not None
            on_fake = self._judge(generated, (fake,))
            F.softplus(on_fake).mean().backward()
            on_real = self._judge(real.image, (real,))
            F.softplus(-on_real).mean().backward()
            if step % self.train.r1_interval == 0:
                self._gradient_penalty(real.image, real).backward()
        norm = self._update(self.discriminator, self.discriminator_optimizer)
        return torch.cat([sums, norm[None]])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="cifar10-stylegan2", help="one of StyleGAN2, with an instance")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--kernels", choices=["rows", "shared"], default="rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = preset(options.preset)
    model = chosen.model
    train = replace(
        chosen.train,
        batch_size=options.batch,
        diffaugment=(),
        ada_target=0.0,
        path_weight=2.0,
        style_mixing=0.9,
        channels_last=False,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (options.batch, model.resolution, model.resolution, 3), dtype=np.uint8)
    embedding = F.normalize(torch.randn(options.batch, model.embedding_dim), dim=1).numpy()
    noise = rng.normal(size=(options.batch, model.dim_z)).astype(np.float32)
    real = Batch(image, embedding, None, noise, rng.random((options.batch, UNIFORMS), dtype=np.float32))
    parts = [Inputs.of(batch, model, pin=False) for batch in (real, replace(real, image=None))]
    inputs = StepInputs([[(parts[0], parts[1])]], [parts[1]]).to(torch.device("cpu"))
    device = torch.device("cpu")
    trainers = {
        "straightforward": PlainTrainer(model, train, device, ALONE, kernels=options.kernels),
        "ours": StyleGAN2Trainer(model, train, device, ALONE),
    }
    first = {name: trainer.step(inputs, 1) for name, trainer in trainers.items()}
    apart = float((first["ours"] - first["straightforward"])[1])
    seconds: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in KINDS} for name in trainers}
    for number in range(-1, options.rounds):
        for kind, (step, _) in KINDS.items():
            for name in list(trainers)[:: 1 if number % 2 else -1]:
                start = time.process_time()
                trainers[name].step(inputs, step)
                if number >= 0:
                    seconds[name][kind].append(time.process_time() - start)
    costs = {
        name: {kind: float(np.median(found)) for kind, found in each.items()}
        for name, each in seconds.items()
    }
    rows = [(kind, costs["straightforward"][kind], costs["ours"][kind]) for kind in KINDS]
    whole = [sum(costs[name][kind] * many for kind, (_, many) in KINDS.items()) / 16 for name in trainers]
    rows.append(("of sixteen steps, the mean", whole[0], whole[1]))
    lines = [
        f"`python -m benchmarks.train_step_stylegan2 --preset {options.preset} --batch {options.batch}"
        f" --kernels {options.kernels} --rounds {options.rounds}`: processor seconds of a step, medians, one"
        f" thread, float32, {machine()}, torch {torch.__version__}."
        f" The generator's first"
        f" losses are {abs(apart):.1g} apart.",
        "",
        table(
            ["step", "straightforward", "ours", "times"],
            [[kind, f"{plain:.3f}", f"{ours:.3f}", f"{plain / ours:.2f}"] for kind, plain, ours in rows],
        ),
    ]
    text = "\n".join(lines)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"train_step_stylegan2-{options.kernels}.md").write_text(text)


if __name__ == "__main__":
    main()
