"""torch as a competitor in `icgan bench --against torch`: the published networks, eager, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from icgan_export.errors import ExportError
from icgan_export.lower.graphs import GraphGenerator
from icgan_export.source.runs import Run, read_run
from icgan_runtime.backends.base import Array
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import RequestError
from icgan_training.errors import TrainingError


@dataclass(frozen=True, eq=False)
class TorchRunner:
    """The networks of a run directory behind the inputs and outputs of the graphs."""

    run: Run
    generator: GraphGenerator

    @property
    def bytes_on_disk(self) -> int:
        """Of the weights in float32."""
        networks = (self.run.encoder, self.run.generator)
        return sum(weight.nbytes for network in networks for weight in network.parameters())

    @property
    def runs_on(self) -> str:
        """What computes."""
        return f"torch {torch.__version__} on the CPU, eager, fp32"

    @torch.inference_mode()
    def embed(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, S, S, 3] -> float32 [N, D]."""
        found: NDArray[np.float32] = self.run.encoder(torch.from_numpy(image)).numpy()
        return found

    @torch.inference_mode()
    def generate(self, feeds: Mapping[str, Array]) -> NDArray[np.uint8]:
        """noise, embedding and, where the model takes them, label and truncation -> uint8 [N, R, R, 3]."""
        names = ("noise", "embedding", "label", "truncation")
        image = self.generator(*(torch.from_numpy(feeds[name]) for name in names if name in feeds))
        return np.ascontiguousarray(image.numpy())


def open_torch(bundle: Path, threads: int, run: str) -> TorchRunner:
    """The weights that `bundle` was made from: `run`, or where the manifest says they were.

    Raises RequestError where they are not there.
    """
    place = Path(run or Bundle.open(bundle).manifest.provenance.get("run", ""))
    try:
        weights = read_run(place)
    except (ExportError, TrainingError) as error:
        raise RequestError("against", f"torch needs the weights of the bundle, torch:RUN ({error})") from None
    if threads:
        torch.set_num_threads(threads)
    truncated = weights.model.truncation == "mean-w"
    generator = GraphGenerator(weights.generator, weights.generator.config, True, truncated).eval()
    return TorchRunner(weights, generator)
