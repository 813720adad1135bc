"""The published networks written down once more, plainly: what the modules are tested against.

Nothing here is shared with `icgan_training`: functions over a dict of tensors in the published key layout,
each layer in the order the paper and its checkpoints have it, without any of the modules' shortcuts. The
shared test vectors check this file; it then checks every resolution and conditioning anywhere.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

GENERATOR = {
    32: [4, 4, 4, 4],
    64: [16, 16, 8, 4, 2],
    128: [16, 16, 8, 4, 2, 1],
    256: [16, 16, 8, 8, 4, 2, 1],
    512: [16, 16, 8, 8, 4, 2, 1, 1],
}
DISCRIMINATOR = {
    32: [4, 4, 4, 4],
    64: [1, 2, 4, 8, 16],
    128: [1, 2, 4, 8, 16, 16],
    256: [1, 2, 4, 8, 8, 16, 16],
    512: [1, 1, 2, 4, 8, 8, 16, 16],  # ours: of this side the generator's table alone is published
}


@dataclass(frozen=True)
class Shape:
    """A published model; classes None = no class condition, embedding None = no instance condition."""

    resolution: int
    ch: int
    attention: int
    classes: int | None = None
    embedding: int | None = 2048
    shared_feat: int = 512
    dim_z: int = 120

    @property
    def blocks(self):
        return len(GENERATOR[self.resolution]) - 1

    @property
    def chunk(self):
        return self.dim_z // (self.blocks + 1)

    @property
    def condition(self):
        return self.chunk + 128 * (self.classes is not None) + self.shared_feat * (self.embedding is not None)


def random_generator(shape, seed=0):
    """A generator's state dict with the published keys, every entry far from its initial value."""
    state = _Random(seed)
    widths = [shape.ch * m for m in GENERATOR[shape.resolution]]
    state.tensor("shared.weight", shape.classes or 1000, 128)
    if shape.embedding is not None:
        state.spectral("shared_feat", shape.shared_feat, shape.embedding)
    state.spectral("linear", 16 * widths[0], shape.chunk)
    for i in range(shape.blocks):
        name = f"blocks.{i}.0"
        state.spectral(f"{name}.conv1", widths[i + 1], widths[i], 3, 3)
        state.spectral(f"{name}.conv2", widths[i + 1], widths[i + 1], 3, 3)
        state.spectral(f"{name}.conv_sc", widths[i + 1], widths[i], 1, 1)
        for norm, width in (("bn1", widths[i]), ("bn2", widths[i + 1])):
            state.statistics(f"{name}.{norm}", width)
            state.spectral(f"{name}.{norm}.gain", width, shape.condition, bias=False)
            state.spectral(f"{name}.{norm}.bias", width, shape.condition, bias=False)
        if 8 << i == shape.attention:
            state.attention(f"blocks.{i}.1", widths[i + 1])
    state.statistics("output_layer.0", widths[-1])
    state.tensor("output_layer.0.gain", widths[-1], centre=1)
    state.tensor("output_layer.0.bias", widths[-1])
    state.spectral("output_layer.2", 3, widths[-1], 3, 3)
    return state.tensors


def random_discriminator(shape, seed=1):
    """A discriminator's state dict with the published keys."""
    state = _Random(seed)
    widths = [3] + [shape.ch * m for m in DISCRIMINATOR[shape.resolution]]
    for i in range(len(widths) - 1):
        name = f"blocks.{i}.0"
        state.spectral(f"{name}.conv1", widths[i + 1], widths[i], 3, 3)
        state.spectral(f"{name}.conv2", widths[i + 1], widths[i + 1], 3, 3)
        if widths[i] != widths[i + 1] or _halves(shape, i):
            state.spectral(f"{name}.conv_sc", widths[i + 1], widths[i], 1, 1)
        if _halves(shape, i) and shape.resolution >> (i + 1) == shape.attention:
            state.attention(f"blocks.{i}.1", widths[i + 1])
    state.spectral("linear", 1, widths[-1])
    projected = widths[-1] // 2 if shape.classes is not None and shape.embedding is not None else widths[-1]
    if shape.embedding is not None:
        state.spectral("linear_feat", projected, shape.embedding)
    if shape.classes is not None:
        state.spectral("embed", shape.classes, projected, bias=False)
    return state.tensors


def generate(state, shape, z, feats=None, labels=None):
    """z [N, dim_z], feats [N, D], labels [N] -> pictures [N, 3, R, R], all statistics as stored."""
    pieces = z.split(shape.chunk, dim=1)
    condition = []
    if shape.classes is not None:
        condition.append(state["shared.weight"][labels])
    if shape.embedding is not None:
        condition.append(_linear(state, "shared_feat", feats))
    h = _linear(state, "linear", pieces[0]).reshape(len(z), -1, 4, 4)
    for i in range(shape.blocks):
        name, y = f"blocks.{i}.0", torch.cat([*condition, pieces[i + 1]], dim=1)
        x = _twice(F.relu(_conditional_norm(state, f"{name}.bn1", h, y)))
        x = F.relu(_conditional_norm(state, f"{name}.bn2", _conv(state, f"{name}.conv1", x), y))
        h = _conv(state, f"{name}.conv2", x) + _conv(state, f"{name}.conv_sc", _twice(h))
        if f"blocks.{i}.1.gamma" in state:
            h = _attention(state, f"blocks.{i}.1", h)
    h = _norm(state, "output_layer.0", h)
    h = h * state["output_layer.0.gain"][:, None, None] + state["output_layer.0.bias"][:, None, None]
    return torch.tanh(_conv(state, "output_layer.2", F.relu(h)))


def judge(state, shape, images, feats=None, labels=None):
    """Pictures [N, 3, R, R] -> logits [N, 1]."""
    h = images
    for i in range(len(DISCRIMINATOR[shape.resolution])):
        name, halve = f"blocks.{i}.0", F.avg_pool2d if _halves(shape, i) else lambda x, _: x
        x = _conv(state, f"{name}.conv1", F.relu(h) if i else h)
        x = halve(_conv(state, f"{name}.conv2", F.relu(x)), 2)
        if i == 0:
            shortcut = _conv(state, f"{name}.conv_sc", halve(h, 2))
        elif f"{name}.conv_sc.weight" in state:
            shortcut = halve(_conv(state, f"{name}.conv_sc", h), 2)
        else:
            shortcut = h
        h = x + shortcut
        if f"blocks.{i}.1.gamma" in state:
            h = _attention(state, f"blocks.{i}.1", h)
    h = F.relu(h).sum(dim=(2, 3))
    projection = []
    if shape.classes is not None:
        projection.append(_normalised(state, "embed")[labels])
    if shape.embedding is not None:
        projection.append(_linear(state, "linear_feat", feats))
    return _linear(state, "linear", h) + (torch.cat(projection, dim=1) * h).sum(dim=1, keepdim=True)


def _halves(shape, block):
    return block < (2 if shape.resolution == 32 else len(GENERATOR[shape.resolution]) - 1)


def _normalised(state, name):
    """One power step from u0, then division by the norm of W v."""
    weight = state[f"{name}.weight"]
    matrix = weight.reshape(len(weight), -1)
    v = state[f"{name}.u0"] @ matrix
    v = v / v.norm()
    return weight / (matrix @ v.T).norm()


def _conv(state, name, x):
    weight = _normalised(state, name)
    return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def _linear(state, name, x):
    return F.linear(x, _normalised(state, name), state.get(f"{name}.bias"))


def _norm(state, name, x):
    mean, var = (state[f"{name}.stored_{what}"][:, None, None] for what in ("mean", "var"))
    return (x - mean) / torch.sqrt(var + 1e-5)


def _conditional_norm(state, name, x, y):
    gain, bias = _linear(state, f"{name}.gain", y), _linear(state, f"{name}.bias", y)
    return _norm(state, name, x) * (1 + gain)[:, :, None, None] + bias[:, :, None, None]


def _attention(state, name, x):
    theta = _conv(state, f"{name}.theta", x).flatten(2)
    phi = F.max_pool2d(_conv(state, f"{name}.phi", x), 2).flatten(2)
    g = F.max_pool2d(_conv(state, f"{name}.g", x), 2).flatten(2)
    beta = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
    o = (g @ beta.transpose(1, 2)).reshape(len(x), -1, *x.shape[2:])
    return state[f"{name}.gamma"] * _conv(state, f"{name}.o", o) + x


def _twice(x):
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


class _Random:
    """Collects named random tensors."""

    def __init__(self, seed):
        self.tensors = {}
        self.source = torch.Generator().manual_seed(seed)

    def tensor(self, name, *shape, centre=0.0, spread=0.2):
        self.tensors[name] = centre + spread * torch.randn(*shape, generator=self.source)

    def spectral(self, name, *shape, bias=True):
        self.tensor(f"{name}.weight", *shape)
        if bias:
            self.tensor(f"{name}.bias", shape[0])
        self.tensor(f"{name}.u0", 1, shape[0], spread=1)
        self.tensors[f"{name}.sv0"] = torch.full((1,), 7.0)  # a wrong value: evaluation must not read it

    def statistics(self, name, width):
        self.tensor(f"{name}.stored_mean", width)
        self.tensors[f"{name}.stored_var"] = 0.5 + torch.rand(width, generator=self.source)

    def attention(self, name, width):
        self.tensors[f"{name}.gamma"] = torch.tensor(0.7)
        for layer, out, into in (
            ("theta", max(width // 8, 1), width),
            ("phi", max(width // 8, 1), width),
            ("g", width // 2, width),
            ("o", width, width // 2),
        ):
            self.spectral(f"{name}.{layer}", out, into, 1, 1, bias=False)
