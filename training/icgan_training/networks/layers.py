"""The layers both networks are made of, with the parameter and buffer names of the published checkpoints.

Spectrally normalised convolution, linear map and embedding (Miyato et al. 2018), batch norm with and without
a condition, self-attention (Zhang et al. 2019), and the residual blocks of BigGAN (Brock et al. 2019).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

SPECTRAL_EPS = 1e-6
BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1


def float32_region(tensor: Tensor) -> AbstractContextManager[Any]:
    """Autocast off where it is on; nothing at all elsewhere, so that a traced graph stays clean."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class SpectralNorm(nn.Module):
    """Mixin for a layer that divides its weight by the largest singular value, as one power step finds it.

    The step starts from the stored left vector `u0` [1, out]. A training forward stores the improved vector;
    evaluation repeats the step from the stored one and stores nothing, so its result depends on the weights
    file alone. The step stays in float32 under autocast.
    """

    weight: Tensor
    u0: Tensor
    length: float = 1.0  # the spectral norm that the weight is given

    def add_power_vector(self) -> None:
        """Register `u0`; called at the end of a constructor, when the weight exists."""
        self.register_buffer("u0", torch.randn(1, self.weight.shape[0]))

    def reset_parameters(self) -> None:
        """Orthogonal weight, zero bias (BigGAN, appendix C)."""
        nn.init.orthogonal_(self.weight)
        bias: Tensor | None = getattr(self, "bias", None)
        if bias is not None:
            nn.init.zeros_(bias)

    def normalised_weight(self) -> Tensor:
        """The weight over its spectral norm, times `length`, in the weight's own shape, float32."""
        with float32_region(self.weight):
            return self.weight / (self.spectral_norm() / self.length)

    def spectral_norm(self) -> Tensor:
        """The weight's largest singular value, a float32 scalar that carries the gradient u v^T.

        One power step from `u0`; in training mode it moves `u0`.
        """
        matrix = _as_matrix(self.weight)
        step = _opaque_power_step if torch.compiler.is_compiling() else _power_step
        with torch.no_grad():
            u, v = step(matrix, self.u0[0])
            if self.training:
                self.u0.copy_(u[None])
        return torch.dot(u, torch.mv(matrix, v))


def _power_step(matrix: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The singular vectors [out] and [rest] of a matrix [out, rest], one step better than `u`."""
    v = F.normalize(torch.mv(matrix.t(), u), dim=0, eps=SPECTRAL_EPS)
    return F.normalize(torch.mv(matrix, v), dim=0, eps=SPECTRAL_EPS), v


# torch.compile repeats cheap arithmetic in the backward pass. It would repeat this step there from a `u0`
# that the forward pass has moved since, and silently give another gradient; an opaque operator is kept.
@torch.library.custom_op("icgan::power_step", mutates_args=())
def _opaque_power_step(matrix: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    return _power_step(matrix, u)


@_opaque_power_step.register_fake
def _(matrix: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(u), matrix.new_empty(matrix.shape[1])


def _as_matrix(weight: Tensor) -> Tensor:
    """[out, ...] as [out, rest], a view in both memory formats: singular values ignore the column order."""
    if weight.dim() == 4 and not weight.is_contiguous():
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)


class SNConv2d(SpectralNorm, nn.Conv2d):
    """Spectrally normalised convolution that keeps the picture's size."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True) -> None:
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self.add_power_vector()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H, W]."""
        return F.conv2d(x, self.normalised_weight(), self.bias, padding=self.padding)


class SNUpConv2d(SNConv2d):
    """Nearest upsampling to twice the side, then a 3x3 convolution, as one transposed convolution.

    Exact: a 3x3 kernel sees each copied pixel once or twice, so its taps add up to a 4x4 kernel of stride 2
    with 16 multiply-adds for each pixel of `x` instead of 36, and the enlarged picture is never stored.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, 2H, 2W]."""
        kernel = 4 * _averaged_taps(self.normalised_weight()).flip(2, 3).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


class SNDownConv2d(SNConv2d):
    """A 3x3 convolution, then 2x2 averages, as one 4x4 convolution of stride 2: 16 taps instead of 36."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H/2, W/2]."""
        return F.conv2d(x, _averaged_taps(self.normalised_weight()), self.bias, stride=2, padding=1)


def _averaged_taps(weight: Tensor) -> Tensor:
    """[out, in, 3, 3] -> [out, in, 4, 4]: the average of the kernel at the four places of a 2x2 square."""
    return F.avg_pool2d(weight, 2, stride=1, padding=1)


class SNLinear(SpectralNorm, nn.Linear):
    """Spectrally normalised linear map."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias=bias)
        self.add_power_vector()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in] -> [N, out]."""
        return F.linear(x, self.normalised_weight(), self.bias)

    @torch.no_grad()
    def centre(self, x: Tensor) -> None:
        """Let the map be zero at x [in]."""
        self.bias.copy_(-(self.normalised_weight() @ x))


class SNEmbedding(SpectralNorm, nn.Embedding):
    """Spectrally normalised table of class vectors."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        nn.Embedding.__init__(self, num_embeddings, embedding_dim)
        self.add_power_vector()

    def forward(self, label: Tensor) -> Tensor:
        """int64 [N] -> [N, embedding_dim]."""
        return F.embedding(label, self.normalised_weight())


class BatchStatistics(nn.Module):
    """Base of both batch norms: standardises every channel, over the batch or by the stored statistics.

    With `synchronised` the batch is the one of all processes (`synchronise_statistics` sets it).
    """

    stored_mean: Tensor
    stored_var: Tensor
    synchronised: bool

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))
        self.synchronised = False

    def standardise(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same with zero mean and unit variance per channel."""
        if self.training and self.synchronised and dist.is_initialized():
            return self._standardise_over_processes(x)
        return F.batch_norm(
            x,
            self.stored_mean,
            self.stored_var,
            training=self.training,
            momentum=BATCH_NORM_MOMENTUM,
            eps=BATCH_NORM_EPS,
        )

    def _standardise_over_processes(self, x: Tensor) -> Tensor:
        with float32_region(x):
            x = x.float()
            count = x.numel() // x.shape[1]
            sums = _sum_over_processes(torch.cat([x.sum((0, 2, 3)), x.new_tensor([count])]))
            total = sums[-1].detach()
            mean = sums[:-1] / total
            # A second pass for the spread: the difference of two large sums would lose digits.
            centred = x - mean[:, None, None]
            variance = _sum_over_processes(centred.square().sum((0, 2, 3))) / total
            with torch.no_grad():
                self.stored_mean.lerp_(mean, BATCH_NORM_MOMENTUM)
                self.stored_var.lerp_(variance * (total / (total - 1)), BATCH_NORM_MOMENTUM)
            return centred * torch.rsqrt(variance + BATCH_NORM_EPS)[:, None, None]


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced in turn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(x: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(x)  # type: ignore[no-untyped-call]
    return total


def synchronise_statistics(module: nn.Module, enabled: bool) -> None:
    """Let every batch norm inside `module` use the batch of all processes, or only its own."""
    for child in module.modules():
        if isinstance(child, BatchStatistics):
            child.synchronised = enabled


class BatchNorm(BatchStatistics):
    """Batch norm with a learnt gain and bias per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        x = self.standardise(x)
        return torch.addcmul(self.bias[:, None, None].to(x), x, self.gain[:, None, None].to(x))


class ConditionalBatchNorm(BatchStatistics):
    """Batch norm whose gain and bias are linear in the condition: 1 + G y and B y (IC-GAN, section 3)."""

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__(channels)
        self.gain = SNLinear(condition_dim, channels, bias=False)
        self.bias = SNLinear(condition_dim, channels, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [N, C, H, W] and condition [N, condition_dim] -> the shape of x."""
        gain = 1 + self.gain(condition)[:, :, None, None]
        bias = self.bias(condition)[:, :, None, None]
        x = self.standardise(x)
        return torch.addcmul(bias.to(x), x, gain.to(x))


class SelfAttention(nn.Module):
    """Self-attention over positions; keys and values are max-pooled 2x2. Starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        keys, values = max(channels // 8, 1), max(channels // 2, 1)
        self.theta = SNConv2d(channels, keys, 1, bias=False)
        self.phi = SNConv2d(channels, keys, 1, bias=False)
        self.g = SNConv2d(channels, values, 1, bias=False)
        self.o = SNConv2d(values, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        query = self.theta(x).flatten(2)  # [N, C/8, HW]
        key = F.max_pool2d(self.phi(x), 2).flatten(2)  # [N, C/8, HW/4]
        value = F.max_pool2d(self.g(x), 2).flatten(2)  # [N, C/2, HW/4]
        weights = torch.softmax(torch.bmm(query.transpose(1, 2), key), dim=-1)  # [N, HW, HW/4]
        attended = torch.bmm(value, weights.transpose(1, 2))  # [N, C/2, HW]
        update: Tensor = self.o(attended.view(x.shape[0], -1, *x.shape[2:]))
        return self.gamma * update + x


class GeneratorBlock(nn.Module):
    """Residual block that doubles the picture's side, its two batch norms fed by the condition."""

    def __init__(self, in_channels: int, out_channels: int, condition_dim: int) -> None:
        super().__init__()
        self.bn1 = ConditionalBatchNorm(in_channels, condition_dim)
        self.conv1 = SNUpConv2d(in_channels, out_channels)
        self.bn2 = ConditionalBatchNorm(out_channels, condition_dim)
        self.conv2 = SNConv2d(out_channels, out_channels, 3)
        self.conv_sc = SNConv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [N, in, H, W] and condition [N, condition_dim] -> [N, out, 2H, 2W]."""
        h = F.relu(self.bn1(x, condition))
        h = self.conv1(h)
        h = F.relu(self.bn2(h, condition))
        # A 1x1 convolution commutes with copying pixels, so the shortcut runs it on a quarter of them.
        out: Tensor = self.conv2(h) + _upsample(self.conv_sc(x))
        return out


class DiscriminatorBlock(nn.Module):
    """Residual block that halves the picture's side where `downsample` is set."""

    def __init__(self, in_channels: int, out_channels: int, *, preactivation: bool, downsample: bool) -> None:
        super().__init__()
        self.preactivation = preactivation
        self.downsample = downsample
        self.conv1 = SNConv2d(in_channels, out_channels, 3)
        self.conv2 = (
            SNDownConv2d(out_channels, out_channels)
            if downsample
            else SNConv2d(out_channels, out_channels, 3)
        )
        learnt_shortcut = downsample or in_channels != out_channels
        self.conv_sc = SNConv2d(in_channels, out_channels, 1) if learnt_shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H/2, W/2], or at full size without `downsample`."""
        h = self.conv1(F.relu(x) if self.preactivation else x)
        h = self.conv2(F.relu(h))
        shortcut = F.avg_pool2d(x, 2) if self.downsample else x
        # A 1x1 convolution commutes with averaging pixels: pooling first spares three quarters of it.
        out: Tensor = h + (shortcut if self.conv_sc is None else self.conv_sc(shortcut))
        return out


def _upsample(x: Tensor) -> Tensor:
    """Every pixel copied 2x2."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
