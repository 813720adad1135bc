"""Exact rewrites of the generator, applied before tracing: the same function with less arithmetic.

`rewrite(generator, rewrites)` rebuilds a trained generator from its weights. Every rewrite can be switched
off alone (`Rewrites`), is tested in float64 against the original to 1e-10, and is folded in float64 here, so
that float32 loses nothing. What each gains is measured in `docs/performance.md`.

    spectral norm       W / sigma once, instead of a power step in every call                       (always)
    statistics          batch norm's mean and variance and conv1's bias go into scale and shift     (always)
    condition_product   every layer's scale and shift from one matrix product
    early_shortcut      the 1x1 shortcut before the upsampling: a quarter of its pixels
    output_norm         the last batch norm goes into the last block's weights
    attention_product   theta, phi and g as one 1x1 convolution, gamma inside o
    block forms         how a block computes conv2(relu(norm(conv1(upsample(x))))):

        plain           as written: 36 multiply-adds for each input pixel and channel pair in conv1
        transposed      upsample + 3x3 as one 4x4 transposed convolution of stride 2: 16
        phases          upsample + 3x3 as one 2x2 convolution to 4C channels and an interleave: 16
        products        upsample + 3x3 as nine matrix products on the picture and its differences: 9,
                        conv2 as sixteen on quarter pictures (Winograd F(2x2, 3x3)): 16 instead of 36

The nine products: along one axis, the upsampled row under the taps (w0, w1, w2) is, for s = w0 + w1 + w2,

    y[2i]     = w0 x[i-1] + (w1 + w2) x[i]   =  s x[i] - w0 (x[i] - x[i-1])
    y[2i + 1] = (w0 + w1) x[i] + w2 x[i+1]   =  s x[i] + w2 (x[i+1] - x[i])

so three products give two outputs, where the phases take four; on two axes nine instead of sixteen, with no
more weights than the 3x3 kernel has, and coefficients of +-1 that cost no precision.
"""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icgan_export.errors import ExportError
from icgan_training.config import ModelConfig
from icgan_training.generator import Generator
from icgan_training.layers import BATCH_NORM_EPS, SpectralNorm

BlockForm = Literal["plain", "transposed", "phases", "products"]
Target = Literal["onnxruntime", "openvino", "tensorrt"]
Weights = Mapping[str, Tensor]
Affine = tuple[Tensor, Tensor]  # scale and shift of one norm, each [N, C]
# A picture [N, 2r, 2r, C] in quarters: [row parity][column parity] -> [N, r, r, C].
Phases = list[list[Tensor]]

# Block input widths from which the matrix products beat a convolution, measured on a 2-core AVX-512 machine
# (docs/performance.md): below, adding up the products costs more than the multiplications saved.
PRODUCTS_FROM_WIDTH = 256


@dataclass(frozen=True)
class Rewrites:
    """Which rewrites to apply; `blocks` has one form per block, from 4x4 upwards."""

    blocks: tuple[BlockForm, ...]
    condition_product: bool = True
    early_shortcut: bool = True
    output_norm: bool = True
    attention_product: bool = True

    @classmethod
    def none(cls, config: ModelConfig) -> Rewrites:
        """Only what is always done."""
        return cls(_uniform("plain", config), False, False, False, False)

    @classmethod
    def best(cls, config: ModelConfig, target: Target = "onnxruntime") -> Rewrites:
        """The forms measured as fastest for `target`."""
        if target == "tensorrt":  # a plan fuses poorly around many small products
            return cls(_uniform("transposed", config))
        widths = config.generator_widths[:-1]
        forms = ("products" if width >= PRODUCTS_FROM_WIDTH else "transposed" for width in widths)
        return cls(tuple(typing.cast(BlockForm, form) for form in forms))

    def without(self, names: Sequence[str]) -> Rewrites:
        """The same with some rewrites switched off by name; "blocks" leaves every block as published."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in names:
            if name not in known:
                raise ExportError(f"--without {name}: choose from {', '.join(known)}")
        plain: tuple[BlockForm, ...] = tuple("plain" for _ in self.blocks)
        off: dict[str, Any] = {name: plain if name == "blocks" else False for name in names}
        return dataclasses.replace(self, **off)


def _uniform(form: BlockForm, config: ModelConfig) -> tuple[BlockForm, ...]:
    return (form,) * len(config.block_resolutions)


def rewrite(generator: Generator, rewrites: Rewrites) -> RewrittenGenerator:
    """The same function as `generator` in eval mode, in its dtype; the generator is left as it is."""
    dtype = next(generator.parameters()).dtype
    weights = fold_spectral_norm(copy.deepcopy(generator).double().eval())
    return RewrittenGenerator(generator.config, weights, rewrites).to(dtype).eval()


def fold_spectral_norm(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor of `module`, with each spectrally normalised weight divided by its norm."""
    weights = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    for name, layer in module.named_modules():
        if isinstance(layer, SpectralNorm):
            weights[f"{name}.weight"] = layer.normalised_weight().detach()
    return weights


def fold_statistics(weights: Weights, norm: str, bias_before: Tensor | None) -> tuple[Tensor, Tensor, Affine]:
    """Conditional batch norm of (x + bias_before) as x * (Ws y + s0) + (Wb y + b0).

    Returns Ws and Wb [C, Y] and the constants (s0, b0): with gain 1 + Wg y, bias Wh y and
    r = 1 / sqrt(var + eps), the scale is r + r Wg y, the shift Wh y + (bias_before - mean) (r + r Wg y).
    """
    mean, var = weights[f"{norm}.stored_mean"], weights[f"{norm}.stored_var"]
    inverse = torch.rsqrt(var + BATCH_NORM_EPS)
    offset = -mean if bias_before is None else bias_before - mean
    scale = inverse[:, None] * weights[f"{norm}.gain.weight"]
    shift = weights[f"{norm}.bias.weight"] + offset[:, None] * scale
    return scale, shift, (inverse, offset * inverse)


def transposed_kernel(kernel: Tensor) -> Tensor:
    """[O, I, 3, 3] after nearest x2 -> [I, O, 4, 4] of a transposed convolution, stride 2, padding 1.

    Tap k of the transposed kernel adds x[i] to output 2i - 1 + k.
    """
    taps = kernel.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
    return torch.einsum("oiyx,ay,bx->ioab", kernel, taps, taps).contiguous()


def phase_kernel(kernel: Tensor) -> Tensor:
    """[O, I, 3, 3] after nearest x2 -> [4 O, I, 2, 2]: one 2x2 kernel for each output phase."""
    taps = kernel.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # [phase, tap, source tap]
    phases = torch.einsum("oiyx,pay,qbx->pqoiab", kernel, taps, taps)
    return phases.flatten(0, 2).contiguous()


def difference_kernels(kernel: Tensor) -> dict[str, Tensor]:
    """[O, I, 3, 3] after nearest x2 -> the nine [I, O] matrices, those of one source side by side.

    `sum` acts on x, `columns` [I, 2 O] on its differences along a row, `rows` [I, 2 O] on those along a
    column, `both` [I, 4 O] on the differences of the differences.
    """
    total, first, last = kernel.new_tensor([[1, 1, 1], [-1, 0, 0], [0, 0, 1]])

    def matrix(*pairs: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat([torch.einsum("oiyx,y,x->io", kernel, row, column) for row, column in pairs], dim=1)

    ends = (first, last)
    return {
        "sum": matrix((total, total)),
        "columns": matrix(*((total, end) for end in ends)),
        "rows": matrix(*((end, total) for end in ends)),
        "both": matrix(*((row, column) for row in ends for column in ends)),
    }


def winograd_kernels(kernel: Tensor) -> Tensor:
    """[O, I, 3, 3] -> [16, I, O], the kernel in the domain of Winograd's F(2x2, 3x3) (Lavin & Gray 2016)."""
    basis = kernel.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.einsum("oiyx,ay,bx->abio", kernel, basis, basis).flatten(0, 1).contiguous()


def scale_outputs(weight: Tensor, scale: Tensor) -> Tensor:
    """A convolution's kernel [O, I, h, w] with output channel o multiplied by scale[o]."""
    return weight * scale[:, None, None, None]


class SeparateConditions(nn.Module):
    """Scale and shift of every norm by two matrix products each, as BigGAN writes it."""

    def __init__(self, config: ModelConfig, weights: Weights, norms: list[FoldedNorm]) -> None:
        super().__init__()
        self.source = ConditionSource(config, weights)
        self.blocks = [norm.block for norm in norms]
        self.scales = nn.ModuleList(_linear(norm.scale, norm.scale_bias) for norm in norms)
        self.shifts = nn.ModuleList(_linear(norm.shift, norm.shift_bias) for norm in norms)

    def forward(self, noise: Tensor, embedding: Tensor | None, label: Tensor | None) -> list[Affine]:
        shared, chunks = self.source(noise, embedding, label)
        conditions = [torch.cat([*shared, chunk], 1) for chunk in chunks] if chunks else None
        whole = torch.cat(shared, 1) if shared and conditions is None else None
        result = []
        for block, scale, shift in zip(self.blocks, self.scales, self.shifts, strict=True):
            y = conditions[block] if conditions else whole
            result.append((scale(y), shift(y)))
        return result


class ConditionProduct(nn.Module):
    """Scale and shift of every norm from one matrix product of [label, embedding, all noise pieces].

    The rows of a noise piece are zero for every block but its own; they are a seventh of the matrix at most.
    """

    def __init__(self, config: ModelConfig, weights: Weights, norms: list[FoldedNorm]) -> None:
        super().__init__()
        self.source = ConditionSource(config, weights)
        self.widths = [len(norm.scale) for norm in norms for _ in range(2)]
        chunk = config.noise_chunk if config.hierarchical else 0
        blocks = len(config.block_resolutions)
        rows = []
        for norm in norms:
            for part in (norm.scale, norm.shift):
                shared = part.shape[1] - chunk
                row = part.new_zeros(len(part), shared + blocks * chunk)
                row[:, :shared] = part[:, :shared]
                row[:, shared + norm.block * chunk : shared + (norm.block + 1) * chunk] = part[:, shared:]
                rows.append(row)
        constants = [part for norm in norms for part in (norm.scale_bias, norm.shift_bias)]
        self.product = _linear(torch.cat(rows), torch.cat(constants))

    def forward(self, noise: Tensor, embedding: Tensor | None, label: Tensor | None) -> list[Affine]:
        shared, chunks = self.source(noise, embedding, label)
        parts = torch.split(self.product(torch.cat([*shared, *chunks], 1)), self.widths, dim=1)
        return list(zip(parts[::2], parts[1::2], strict=True))


class ConditionSource(nn.Module):
    """What the conditions are made of: class embedding, projected instance embedding, noise pieces."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        super().__init__()
        self.config = config
        if config.class_count is not None:
            self.label = _constant(weights["shared.weight"])  # [classes, shared_dim]
        if config.takes_embedding:
            self.embedding = _linear(weights["shared_feat.weight"], weights["shared_feat.bias"])

    def forward(
        self, noise: Tensor, embedding: Tensor | None, label: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        shared = []
        if self.config.class_count is not None:
            # the unconditional baseline's label is the constant 0
            index = label if label is not None else torch.zeros_like(noise[:, 0], dtype=torch.int64)
            # not F.embedding: the tracer would call its result "embedding", the name of an input
            shared.append(torch.index_select(self.label, 0, index))
        if self.config.takes_embedding:
            shared.append(self.embedding(embedding))
        if not self.config.hierarchical:
            return shared, []
        size = self.config.noise_chunk
        blocks = len(self.config.block_resolutions)
        return shared, [noise[:, (block + 1) * size : (block + 2) * size] for block in range(blocks)]


@dataclass(frozen=True)
class FoldedNorm:
    """A conditional batch norm as scale and shift, both affine in the condition y of its block."""

    block: int
    scale: Tensor  # [C, Y]
    scale_bias: Tensor  # [C]
    shift: Tensor
    shift_bias: Tensor


class RewrittenGenerator(nn.Module):
    """noise [N, dim_z], embedding [N, D] or None, label [N] or None -> image [N, 3, R, R] in [-1, 1]."""

    output_scale: Tensor  # [C, 1, 1]
    output_shift: Tensor

    def __init__(self, config: ModelConfig, weights: Weights, rewrites: Rewrites) -> None:
        super().__init__()
        count = len(config.block_resolutions)
        if len(rewrites.blocks) != count:
            raise ValueError(f"rewrites.blocks has {len(rewrites.blocks)} forms for {count} blocks")
        self.config = config
        norms = []
        for block in range(count):
            for norm, before in (("bn1", None), ("bn2", weights[f"blocks.{block}.0.conv1.bias"])):
                scale, shift, (s0, b0) = fold_statistics(weights, f"blocks.{block}.0.{norm}", before)
                norms.append(FoldedNorm(block, scale, s0, shift, b0))
        conditions = ConditionProduct if rewrites.condition_product else SeparateConditions
        self.conditions = conditions(config, weights, norms)
        self.input = InputMap(weights, channels_last=rewrites.blocks[0] == "products")
        attended = {config.block_resolutions.index(side) for side in config.attention}
        output_in_block = rewrites.output_norm and count - 1 not in attended
        norm = "output_layer.0"
        output_scale = weights[f"{norm}.gain"] * torch.rsqrt(weights[f"{norm}.stored_var"] + BATCH_NORM_EPS)
        output_shift = weights[f"{norm}.bias"] - weights[f"{norm}.stored_mean"] * output_scale
        self.blocks = nn.ModuleList()
        for block, form in enumerate(rewrites.blocks):
            tensors = BlockTensors.read(weights, f"blocks.{block}.0")
            if block == count - 1 and output_in_block:
                tensors = tensors.scaled(output_scale, output_shift)
            if form == "products":
                self.blocks.append(ProductBlock(tensors))
            else:
                self.blocks.append(ConvBlock(tensors, form, rewrites.early_shortcut))
        attention = ProductAttention if rewrites.attention_product else Attention
        self.attention = nn.ModuleDict(
            {str(block): attention(weights, f"blocks.{block}.1") for block in sorted(attended)}
        )
        self.output_norm = not output_in_block
        if self.output_norm:
            self.register_buffer("output_scale", output_scale[:, None, None])
            self.register_buffer("output_shift", output_shift[:, None, None])
        self.output = _conv(weights["output_layer.2.weight"], weights["output_layer.2.bias"], padding=1)

    def forward(self, noise: Tensor, embedding: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        affines = self.conditions(noise, embedding, label)
        x = self.input(noise[:, : self.config.noise_chunk])
        channels_last = self.input.channels_last
        for index, block in enumerate(self.blocks):
            wanted = isinstance(block, ProductBlock)
            x = block(_lay_out(x, channels_last, wanted), affines[2 * index], affines[2 * index + 1])
            channels_last = wanted
            if str(index) in self.attention:
                x, channels_last = self.attention[str(index)](_lay_out(x, channels_last, False)), False
        x = _lay_out(x, channels_last, False)
        if self.output_norm:
            x = x * self.output_scale + self.output_shift
        return torch.tanh(self.output(F.relu(x)))


class InputMap(nn.Module):
    """The first noise piece [N, chunk] -> [N, C, 4, 4], or [N, 4, 4, C] when the next block wants that."""

    def __init__(self, weights: Weights, channels_last: bool) -> None:
        super().__init__()
        self.channels_last = channels_last
        weight, bias = weights["linear.weight"], weights["linear.bias"]
        self.channels = len(bias) // 16
        if channels_last:  # the rows of the matrix take the order of the output
            weight = weight.reshape(self.channels, 16, -1).transpose(0, 1).flatten(0, 1)
            bias = bias.reshape(self.channels, 16).t().flatten()
        self.product = _linear(weight, bias)

    def forward(self, noise: Tensor) -> Tensor:
        shape = (4, 4, self.channels) if self.channels_last else (self.channels, 4, 4)
        x: Tensor = self.product(noise)
        return x.reshape(-1, *shape)


@dataclass(frozen=True)
class BlockTensors:
    """A block's kernels. conv1's bias is in the second norm's shift; conv2's and the shortcut's are one."""

    conv1: Tensor  # [O, I, 3, 3]
    conv2: Tensor  # [O, O, 3, 3]
    shortcut: Tensor  # [O, I, 1, 1]
    bias: Tensor  # [O]

    @classmethod
    def read(cls, weights: Weights, block: str) -> BlockTensors:
        """Of the block whose tensors' names begin with `block`."""
        conv1, conv2, shortcut = (weights[f"{block}.{name}.weight"] for name in ("conv1", "conv2", "conv_sc"))
        return cls(conv1, conv2, shortcut, weights[f"{block}.conv2.bias"] + weights[f"{block}.conv_sc.bias"])

    def scaled(self, scale: Tensor, shift: Tensor) -> BlockTensors:
        """The block followed by x * scale + shift."""
        conv2, shortcut = scale_outputs(self.conv2, scale), scale_outputs(self.shortcut, scale)
        return BlockTensors(self.conv1, conv2, shortcut, self.bias * scale + shift)


class ConvBlock(nn.Module):
    """A block as convolutions on [N, C, h, w]."""

    def __init__(self, tensors: BlockTensors, form: BlockForm, early_shortcut: bool) -> None:
        super().__init__()
        self.early_shortcut = early_shortcut
        self.conv1: nn.Module
        if form == "transposed":
            self.conv1 = _transposed(transposed_kernel(tensors.conv1))
        elif form == "phases":
            self.conv1 = PhaseConv(tensors.conv1)
        else:
            self.conv1 = nn.Sequential(nn.Upsample(scale_factor=2.0), _conv(tensors.conv1, None, padding=1))
        self.conv2 = _conv(tensors.conv2, None, padding=1)
        self.shortcut = _conv(tensors.shortcut, tensors.bias)

    def forward(self, x: Tensor, norm1: Affine, norm2: Affine) -> Tensor:
        h: Tensor = self.conv1(_modulate(x, norm1))
        h = self.conv2(_modulate(h, norm2))
        shortcut = _upsample(self.shortcut(x)) if self.early_shortcut else self.shortcut(_upsample(x))
        return h + shortcut


class PhaseConv(nn.Module):
    """Nearest x2 and a 3x3 convolution as one 2x2 convolution on the small picture and an interleave."""

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.conv = _conv(phase_kernel(kernel), None, padding=1)  # one row and column more than needed

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2]
        phases = self.conv(x).chunk(4, dim=1)
        cut = [phases[2 * p + q][:, :, p : p + size, q : q + size] for p in (0, 1) for q in (0, 1)]
        return F.pixel_shuffle(torch.stack(cut, dim=2).flatten(1, 2), 2)


class ProductBlock(nn.Module):
    """A block as matrix products and sums on [N, h, w, C]; in between the picture stays in four quarters."""

    conv1_sum: Tensor  # [I, O]
    conv1_columns: Tensor  # [I, 2 O]
    conv1_rows: Tensor  # [I, 2 O]
    conv1_both: Tensor  # [I, 4 O]
    shortcut: Tensor  # [I, O]
    bias: Tensor  # [O]

    def __init__(self, tensors: BlockTensors) -> None:
        super().__init__()
        for name, matrix in difference_kernels(tensors.conv1).items():
            self.register_buffer(f"conv1_{name}", matrix)
        for index, matrix in enumerate(winograd_kernels(tensors.conv2)):
            self.register_buffer(f"conv2_{index}", matrix.contiguous())
        self.register_buffer("shortcut", tensors.shortcut[:, :, 0, 0].t().contiguous())
        self.register_buffer("bias", tensors.bias)

    def forward(self, x: Tensor, norm1: Affine, norm2: Affine) -> Tensor:
        h = self.conv1(_modulate(x, norm1, channels_last=True))
        h = [[_modulate(phase, norm2, channels_last=True) for phase in row] for row in h]
        h = self.conv2(h)
        shortcut = x @ self.shortcut + self.bias  # the same for the four pixels it is upsampled to
        return _interleave([[phase + shortcut for phase in row] for row in h])

    def conv1(self, x: Tensor) -> Phases:
        """Nearest x2 and conv1: [N, r, r, I] -> quarters [N, r, r, O]."""
        size = x.shape[1]
        columns = _differences(x, 2)
        rows = _differences(x, 1)
        both = _differences(columns, 1)
        total = x @ self.conv1_sum
        by_column = (columns @ self.conv1_columns).chunk(2, dim=3)
        by_row = (rows @ self.conv1_rows).chunk(2, dim=3)
        by_both = (both @ self.conv1_both).chunk(4, dim=3)
        in_row = [total + by_column[q][:, :, q : q + size] for q in (0, 1)]
        return [
            [
                in_row[q] + by_row[p][:, p : p + size] + by_both[2 * p + q][:, p : p + size, q : q + size]
                for q in (0, 1)
            ]
            for p in (0, 1)
        ]

    def conv2(self, phases: Phases) -> Phases:
        """conv2 on quarters [N, r, r, O], to quarters."""
        by_row = [_winograd_input(phases[0][q], phases[1][q], 1) for q in (0, 1)]
        products = []
        for i in range(4):
            for j, tile in enumerate(_winograd_input(by_row[0][i], by_row[1][i], 2)):
                products.append(tile @ self.get_buffer(f"conv2_{4 * i + j}"))
        columns = [_winograd_output(products[4 * i : 4 * i + 4]) for i in range(4)]
        outputs = [_winograd_output([column[q] for column in columns]) for q in (0, 1)]
        return [[outputs[q][p] for q in (0, 1)] for p in (0, 1)]


class Attention(nn.Module):
    """Self-attention (Zhang et al. 2019) on [N, C, h, w] as BigGAN writes it: four 1x1 convolutions."""

    def __init__(self, weights: Weights, layer: str) -> None:
        super().__init__()
        self.theta, self.phi, self.g, self.o = (
            _conv(weights[f"{layer}.{name}.weight"], None) for name in ("theta", "phi", "g", "o")
        )
        self.gamma = _constant(weights[f"{layer}.gamma"])

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.theta(x), F.max_pool2d(self.phi(x), 2), F.max_pool2d(self.g(x), 2)
        attended: Tensor = self.o(_attend(query, key, value))
        return self.gamma * attended + x


class ProductAttention(nn.Module):
    """Self-attention with theta, phi and g as one convolution, pooled together, and gamma inside o."""

    def __init__(self, weights: Weights, layer: str) -> None:
        super().__init__()
        theta, phi, g, o = (weights[f"{layer}.{name}.weight"] for name in ("theta", "phi", "g", "o"))
        self.query = _conv(theta, None)
        self.memory = _conv(torch.cat([phi, g]), None)
        self.split = [len(phi), len(g)]
        self.o = _conv(o * weights[f"{layer}.gamma"], None)

    def forward(self, x: Tensor) -> Tensor:
        key, value = torch.split(F.max_pool2d(self.memory(x), 2), self.split, dim=1)
        attended: Tensor = self.o(_attend(self.query(x), key, value))
        return attended + x


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """query [N, K, h, w], key [N, K, h/2, w/2], value [N, V, h/2, w/2] -> [N, V, h, w]."""
    scores = query.flatten(2).transpose(1, 2) @ key.flatten(2)  # [N, h w, h w / 4]
    attended = torch.softmax(scores, dim=2) @ value.flatten(2).transpose(1, 2)  # [N, h w, V]
    return attended.transpose(1, 2).reshape(-1, value.shape[1], *query.shape[2:])


def _modulate(x: Tensor, affine: Affine, channels_last: bool = False) -> Tensor:
    """relu(x * scale + shift), scale and shift [N, C] broadcast over the picture."""
    scale, shift = (part[:, None, None] if channels_last else part[:, :, None, None] for part in affine)
    return F.relu(x * scale + shift)


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _differences(x: Tensor, dim: int) -> Tensor:
    """x[i] - x[i-1] along `dim` for i = 0 .. size, with zeros around x: one entry more than x has."""
    return _pad(x, dim, 0, 1) - _pad(x, dim, 1, 0)


def _winograd_input(even: Tensor, odd: Tensor, dim: int) -> list[Tensor]:
    """The four input tiles of F(2, 3) along `dim` from even and odd entries of a zero-padded signal."""
    size = even.shape[dim]
    before = _pad(odd.narrow(dim, 0, size - 1), dim, 1, 0)
    after = _pad(even.narrow(dim, 1, size - 1), dim, 0, 1)
    return [before - odd, even + odd, odd - even, even - after]


def _pad(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Zeros around `dim` (1 or 2) of [N, h, w, C]."""
    return F.pad(x, (0, 0, before, after) if dim == 2 else (0, 0, 0, 0, before, after))


def _winograd_output(products: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The even and the odd outputs of F(2, 3)."""
    middle = products[1] + products[2], products[1] - products[2]
    return products[0] + middle[0], middle[1] - products[3]


def _interleave(phases: Phases) -> Tensor:
    """Quarters [N, r, r, C] -> [N, 2 r, 2 r, C]."""
    rows = [torch.stack(row, dim=3) for row in phases]  # [N, r, r, 2, C]
    return torch.stack(rows, dim=2).flatten(3, 4).flatten(1, 2)


def _lay_out(x: Tensor, channels_last: bool, wanted: bool) -> Tensor:
    if channels_last == wanted:
        return x
    return x.permute(0, 3, 1, 2) if channels_last else x.permute(0, 2, 3, 1)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = _constant(weight), _constant(bias)
    return layer


def _conv(weight: Tensor, bias: Tensor | None, padding: int = 0) -> nn.Conv2d:
    out_channels, in_channels, size, _ = weight.shape
    layer = nn.Conv2d(in_channels, out_channels, size, padding=padding, bias=bias is not None, device="meta")
    layer.weight = _constant(weight)
    if bias is not None:
        layer.bias = _constant(bias)
    return layer


def _transposed(weight: Tensor) -> nn.ConvTranspose2d:
    in_channels, out_channels, size, _ = weight.shape
    layer = nn.ConvTranspose2d(in_channels, out_channels, size, 2, 1, bias=False, device="meta")
    layer.weight = _constant(weight)
    return layer


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
