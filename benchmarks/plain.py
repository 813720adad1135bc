"""The published training step in straightforward PyTorch: what the training benchmark compares with.

Same networks, losses and optimiser as `icgan_training`, written the usual way: torch's own spectral norm and
batch norm, upsampling and pooling as layers of their own, real and generated pictures through D one after the
other, float32, contiguous tensors, one loop over the parameters for the average.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from icgan_training.networks.config import ModelConfig, TrainConfig


def conv(into: int, out: int, size: int = 3, bias: bool = True) -> nn.Module:
    return spectral_norm(nn.Conv2d(into, out, size, padding=size // 2, bias=bias))


def linear(into: int, out: int, bias: bool = True) -> nn.Module:
    return spectral_norm(nn.Linear(into, out, bias=bias))


class ConditionalNorm(nn.Module):
    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.gain, self.bias = linear(condition, width, False), linear(condition, width, False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x) * (1 + self.gain(y))[:, :, None, None] + self.bias(y)[:, :, None, None]


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.theta, self.phi = conv(width, width // 8, 1, False), conv(width, width // 8, 1, False)
        self.g, self.o = conv(width, width // 2, 1, False), conv(width // 2, width, 1, False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.theta(x).flatten(2)
        phi = F.max_pool2d(self.phi(x), 2).flatten(2)
        g = F.max_pool2d(self.g(x), 2).flatten(2)
        beta = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
        return self.gamma * self.o((g @ beta.transpose(1, 2)).reshape(len(x), -1, *x.shape[2:])) + x


class GeneratorBlock(nn.Module):
    def __init__(self, into: int, out: int, condition: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ConditionalNorm(into, condition), ConditionalNorm(out, condition)
        self.conv1, self.conv2, self.shortcut = conv(into, out), conv(out, out), conv(into, out, 1)
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.conv1(self.up(F.relu(self.norm1(x, y))))
        return self.conv2(F.relu(self.norm2(h, y))) + self.shortcut(self.up(x))


class Generator(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.conditioning == "instance"
        assert config.embedding_dim is not None
        widths = config.generator_widths
        self.shared_feat = linear(config.embedding_dim, config.shared_dim_feat)
        self.chunk = config.noise_chunk
        self.linear = linear(self.chunk, 16 * widths[0])
        self.blocks, self.attention = nn.ModuleList(), nn.ModuleList()
        for i, side in enumerate(config.block_resolutions):
            self.blocks.append(GeneratorBlock(widths[i], widths[i + 1], config.condition_dim))
            self.attention.append(Attention(widths[i + 1]) if side in config.attention else nn.Identity())
        self.out = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU(), conv(widths[-1], 3))

    def forward(self, z: Tensor, feats: Tensor) -> Tensor:
        pieces, feature = z.split(self.chunk, dim=1), self.shared_feat(feats)
        x = self.linear(pieces[0]).reshape(len(z), -1, 4, 4)
        for block, attention, piece in zip(self.blocks, self.attention, pieces[1:], strict=False):
            x = attention(block(x, torch.cat([feature, piece], dim=1)))
        return torch.tanh(self.out(x))


class DiscriminatorBlock(nn.Module):
    def __init__(self, into: int, out: int, first: bool, down: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(into, out), conv(out, out)
        self.shortcut = conv(into, out, 1) if down or into != out else nn.Identity()
        self.pool = nn.AvgPool2d(2) if down else nn.Identity()
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.conv2(F.relu(self.conv1(x if self.first else F.relu(x)))))
        return h + (self.shortcut(self.pool(x)) if self.first else self.pool(self.shortcut(x)))


class Discriminator(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.embedding_dim is not None
        widths = (3, *config.discriminator_widths)
        layers: list[nn.Module] = []
        for i in range(len(widths) - 1):
            down = i < config.downsamplings
            layers.append(DiscriminatorBlock(widths[i], widths[i + 1], i == 0, down))
            if down and config.resolution >> (i + 1) in config.attention:
                layers.append(Attention(widths[i + 1]))
        self.blocks = nn.Sequential(*layers)
        self.linear, self.linear_feat = linear(widths[-1], 1), linear(config.embedding_dim, widths[-1])

    def forward(self, x: Tensor, feats: Tensor) -> Tensor:
        h = F.relu(self.blocks(x)).sum(dim=(2, 3))
        return self.linear(h) + (self.linear_feat(feats) * h).sum(dim=1, keepdim=True)


class PlainTrainer:
    """One generator and discriminator with their optimisers and the average."""

    def __init__(self, model: ModelConfig, train: TrainConfig, device: torch.device) -> None:
        self.generator, self.discriminator = Generator(model).to(device), Discriminator(model).to(device)
        self.average = copy.deepcopy(self.generator)
        betas, eps = (train.beta1, train.beta2), train.adam_eps
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), train.generator_lr, betas, eps
        )
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), train.discriminator_lr, betas, eps
        )
        self.decay = train.ema_decay

    def step(self, real: Tensor, feats: Tensor, z: Tensor) -> None:
        """One update of D and one of G; real uint8 [N, R, R, 3], feats [N, D], z [N, dim_z]."""
        images = real.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
        with torch.no_grad():
            fake = self.generator(z, feats)
        self.discriminator_optimizer.zero_grad()
        on_real, on_fake = self.discriminator(images, feats), self.discriminator(fake, feats)
        loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        loss.backward()
        self.discriminator_optimizer.step()
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(False)
        self.generator_optimizer.zero_grad()
        loss = -self.discriminator(self.generator(z, feats), feats).mean()
        loss.backward()
        self.generator_optimizer.step()
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(True)
        with torch.no_grad():
            current = self.generator.state_dict()
            for name, value in self.average.state_dict().items():
                if value.is_floating_point():
                    value.mul_(self.decay).add_(current[name], alpha=1 - self.decay)
