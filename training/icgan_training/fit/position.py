"""How far a run is: what a checkpoint says beside its tensors, and the sums of the tick under way."""

import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icgan_training.distributed import Processes, average
from icgan_training.fit.step import STATISTICS


@dataclass
class Position:
    """Counted from the start of the run, over every time it was resumed."""

    step: int = 0
    images: int = 0  # real pictures D has seen
    seconds: float = 0.0  # of training, without what is done at ticks
    best_fid: float | None = None
    tick_steps: int = 0
    tick_images: int = 0
    tick_seconds: float = 0.0
    tick_sums: Tensor | None = None  # of STATISTICS; on the device, so that no step waits for it

    def advance(self, statistics: Tensor, images: int) -> None:
        """Take in one step's statistics."""
        self.step += 1
        self.images += images
        self.tick_steps += 1
        self.tick_images += images
        self.tick_sums = statistics if self.tick_sums is None else self.tick_sums + statistics

    def spend(self, seconds: float) -> None:
        """Take in time spent training."""
        self.seconds += seconds
        self.tick_seconds += seconds

    def record(self, processes: Processes, device: torch.device) -> dict[str, Any]:
        """The tick so far, averaged over its steps and the processes, as one line of the log."""
        assert self.tick_sums is not None
        means = average(self.tick_sums / self.tick_steps, processes).tolist()
        return {
            "step": self.step,
            "images": self.images,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.tick_images / max(self.tick_seconds, 1e-9), 2),
            **dict(zip(STATISTICS, means, strict=True)),
            "memory_mib": round(_peak_memory(device) / 2**20),
        }

    def next_tick(self) -> None:
        """Start a new tick."""
        self.tick_steps = self.tick_images = 0
        self.tick_seconds = 0.0
        self.tick_sums = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back to the same position."""
        sums = None if self.tick_sums is None else self.tick_sums.tolist()
        return {**vars(self), "tick_sums": sums}

    @classmethod
    def from_dict(cls, data: dict[str, Any], device: torch.device) -> "Position":
        """Read what `to_dict` wrote."""
        sums = data["tick_sums"]
        return cls(**{**data, "tick_sums": None if sums is None else torch.tensor(sums, device=device)})


def _peak_memory(device: torch.device) -> int:
    """Bytes: the most the GPU had allocated, or the most this process had resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
