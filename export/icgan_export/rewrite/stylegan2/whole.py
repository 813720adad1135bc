"""The StyleGAN2 generator put together again from its folded weights, in the chosen forms."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icgan_export.rewrite.constant_layers import constant, conv, linear
from icgan_export.rewrite.stylegan2.blocks import ConvLayer, ProductBlock
from icgan_export.rewrite.stylegan2.choice import StyleForm, StyleRewrites
from icgan_export.rewrite.stylegan2.fold import LayerTensors, activated, colour_style, filter_phases
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator
from icgan_training.networks.stylegan2.layers import EPS, LEAK, ToRGB, filter_kernel
from icgan_training.networks.stylegan2.mapping import LatentMapping


def rewrite_stylegan2(generator: StyleGAN2Generator, rewrites: StyleRewrites) -> RewrittenStyleGAN2:
    """The same function as `generator` in eval mode, in its dtype; the generator is left as it is."""
    dtype = next(generator.parameters()).dtype
    exact = copy.deepcopy(generator).double().eval().requires_grad_(False)
    return RewrittenStyleGAN2(exact, rewrites).to(dtype).eval()


class RewrittenStyleGAN2(nn.Module):
    """noise [N, dim_z], and embedding, label, psi [N] or None, -> image [N, 3, R, R], not held within ±1."""

    const: Tensor  # [C, 4, 4]
    w_avg: Tensor

    def __init__(self, generator: StyleGAN2Generator, rewrites: StyleRewrites) -> None:
        super().__init__()
        blocks = generator.synthesis.blocks()
        if len(rewrites.blocks) != len(blocks) - 1:
            raise ValueError(f"rewrites.blocks has {len(rewrites.blocks)} forms for {len(blocks) - 1} blocks")
        self.mapping = FoldedMapping(generator.mapping, generator.config.dim_z)
        self.register_buffer("w_avg", generator.mapping.w_avg)
        self.register_buffer("const", blocks[0].const.detach().clone())
        styles: list[tuple[Tensor, Tensor]] = []
        self.stages, self.colours = nn.ModuleList(), nn.ModuleList()
        for block, form in zip(blocks, ("separate", *rewrites.blocks), strict=True):
            layers = [LayerTensors.read(block.conv1)]
            if hasattr(block, "conv0"):
                layers.insert(0, LayerTensors.read(block.conv0))
            self.stages.append(_stage(layers, form))
            self.colours.append(Colours(block.torgb, rewrites, last_first=form == "products"))
            styles += [*(layer.style for layer in layers), colour_style(block.torgb)]
        self.styles = (StylesProduct if rewrites.styles_product else SeparateStyles)(styles)
        self.enlarge = _enlarger(rewrites.enlarged_colours)

    def forward(
        self,
        noise: Tensor,
        embedding: Tensor | None = None,
        label: Tensor | None = None,
        psi: Tensor | None = None,
    ) -> Tensor:
        w = self.mapping(noise, embedding, label)
        if psi is not None:
            w = self.w_avg + psi[:, None] * (w - self.w_avg)
        given = iter(self.styles(w))
        x = self.const[None]
        image, channels_last = None, False
        for stage, colours in zip(self.stages, self.colours, strict=True):
            if isinstance(stage, ProductBlock):
                x = x if channels_last else x.permute(0, 2, 3, 1)
                x, channels_last = stage(x, next(given), next(given)), True
            else:
                x, channels_last = x.permute(0, 3, 1, 2) if channels_last else x, False
                for layer in stage.children():
                    x = layer(x, next(given))
            found = colours(x, next(given))
            image = found if image is None else self.enlarge(image) + found
        assert image is not None
        picture: Tensor = image
        return picture


def _stage(layers: list[LayerTensors], form: StyleForm) -> nn.Module:
    if form == "products":
        return ProductBlock(*layers)
    return nn.ModuleList(ConvLayer(layer, form) for layer in layers)


def _enlarger(as_phases: bool) -> nn.Module:
    """Three colours to twice the side through the filter."""
    if as_phases:
        return nn.Sequential(conv(filter_phases(3), None, padding=1), nn.PixelShuffle(2))
    layer = nn.ConvTranspose2d(3, 3, 4, 2, 1, groups=3, bias=False, device="meta")
    layer.weight = constant(filter_kernel(4.0).repeat(3, 1, 1, 1))
    return layer


class Colours(nn.Module):
    """The colours of a picture [N, C, h, w], or [N, h, w, C] with `last_first`: [N, 3, h, w]."""

    weight: Tensor  # [3, C]
    bias: Tensor

    def __init__(self, layer: ToRGB, rewrites: StyleRewrites, last_first: bool) -> None:
        super().__init__()
        self.clamp, self.last_first = layer.clamp, last_first
        self.as_product = rewrites.colours_product or last_first
        self.register_buffer("weight", layer.weight.detach()[:, :, 0, 0].clone())
        self.register_buffer("bias", layer.bias.detach()[:, None, None].clone())

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        if not self.as_product:
            image = F.conv2d(x * style[:, :, None, None], self.weight[:, :, None, None])
        elif self.last_first:
            rows = x.flatten(1, 2) @ (self.weight * style[:, None]).transpose(1, 2)  # [N, h w, 3]
            image = rows.reshape(-1, *x.shape[1:3], 3).permute(0, 3, 1, 2)
        else:
            image = ((self.weight * style[:, None]) @ x.flatten(2)).reshape(-1, 3, *x.shape[2:])
        image = image + self.bias
        return image if self.clamp is None else image.clamp(-self.clamp, self.clamp)


class StylesProduct(nn.Module):
    """Every layer's style [N, C] in order, by one product of w."""

    def __init__(self, styles: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.widths = [len(bias) for _, bias in styles]
        self.product = linear(torch.cat([w for w, _ in styles]), torch.cat([b for _, b in styles]))

    def forward(self, w: Tensor) -> tuple[Tensor, ...]:
        styles: Tensor = self.product(w)
        return torch.split(styles, self.widths, dim=1)


class SeparateStyles(nn.Module):
    """The same by a product each."""

    def __init__(self, styles: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.products = nn.ModuleList(linear(weight, bias) for weight, bias in styles)

    def forward(self, w: Tensor) -> tuple[Tensor, ...]:
        return tuple(product(w) for product in self.products)


def of_length_one(x: Tensor) -> Tensor:
    """What the mapping normalises, over sqrt(C), which is in the weights: rows [N, C], all but those near 0.

    By their sum, for the exporter drops what is added to the mean, 1e-8, as if it were 0
    (findings/exporter_drops_1e-8.sh), and noise of zeros would give NaN.
    """
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + EPS * x.shape[1])


class FoldedMapping(nn.Module):
    """noise and conditions -> w, scales and gains inside the weights."""

    def __init__(self, mapping: LatentMapping, dim_z: int) -> None:
        super().__init__()
        self.dim_z = dim_z
        self.instance = linear(*mapping.embed_feats.scaled()) if hasattr(mapping, "embed_feats") else None
        self.table: nn.Embedding | None = None
        if mapping.class_count is not None:  # a row of the product with a one-hot vector is a row of a table
            weight, bias = mapping.embed.scaled()
            self.table = nn.Embedding(weight.shape[1], weight.shape[0], device="meta")
            self.table.weight = constant((weight + bias[:, None]).t().contiguous())
        layers = [activated(mapping.get_submodule(f"fc{n}")) for n in range(mapping.layers)]  # type: ignore[arg-type]
        weight, bias = layers[0]
        rest = weight.shape[1] - dim_z
        layers[0] = weight * torch.tensor([dim_z] * dim_z + [rest] * rest).to(weight).sqrt(), bias
        self.layers = nn.ModuleList(linear(*layer) for layer in layers)

    def forward(self, noise: Tensor, embedding: Tensor | None, label: Tensor | None) -> Tensor:
        parts: list[Tensor] = []
        if self.table is not None:
            label = torch.zeros_like(noise[:, 0], dtype=torch.int64) if label is None else label
            parts.append(self.table(label))
        if self.instance is not None:
            assert embedding is not None
            parts.append(self.instance(embedding))
        x = of_length_one(noise[:, : self.dim_z])
        if parts:
            x = torch.cat([x, of_length_one(torch.cat(parts, 1) if len(parts) > 1 else parts[0])], dim=1)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), LEAK)
        return x
