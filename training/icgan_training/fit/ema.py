"""Exponential moving average of the generator: the weights that are kept and exported (BigGAN, §3)."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class MovingAverage(Generic[Module]):
    """The average of a module over training, in a twin that is always in eval mode.

    Every entry of the state dict is averaged: weights, batch-norm statistics, and the vectors and values
    of spectral normalisation. Integer entries are copied. Before `start` steps the average is a copy.
    """

    def __init__(self, module: Module, decay: float, start: int) -> None:
        self.module: Module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.start = start
        pairs = zip(self.module.state_dict().values(), module.state_dict().values(), strict=True)
        self._floats: list[tuple[Tensor, Tensor]] = []
        self._others: list[tuple[Tensor, Tensor]] = []
        for mine, theirs in pairs:
            (self._floats if theirs.is_floating_point() else self._others).append((mine, theirs))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the module as it stands after `step` steps (1 for the first)."""
        average, current = [mine for mine, _ in self._floats], [theirs for _, theirs in self._floats]
        if step < self.start:
            torch._foreach_copy_(average, current)
        else:
            torch._foreach_lerp_(average, current, 1 - self.decay)
        for mine, theirs in self._others:
            mine.copy_(theirs)
