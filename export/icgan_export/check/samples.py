"""Pinned inputs and torch's float32 answers: what every graph, engine and port is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from icgan_export.lower.index import nearest
from icgan_export.source.instances import Instances
from icgan_export.source.runs import Run
from icgan_runtime import latents
from icgan_runtime.bundle.manifest import SAMPLES_NAME, GraphEntry
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.verify import read_samples

IMAGES = 16  # generated images; noise of seed 0, samples 0 ..
TRUNCATION = 0.9
MAX_QUERIES = 128
MAX_QUERY_BYTES = 8 << 20  # 42 pictures of 256 px


@dataclass(frozen=True, eq=False)
class Samples:
    """`samples.npz`. Row i of `image` was drawn from row i of noise, embedding (of picture i) and label."""

    picture: NDArray[np.uint8]  # [Q, S, S, 3], encoder inputs; none of them is in the bank as it is
    embedding: NDArray[np.float32]  # [Q, D]
    ids: NDArray[np.int64]  # [Q, k], the nearest instances
    scores: NDArray[np.float32]  # [Q, k]
    noise: NDArray[np.float32]  # [P, dim_z], P <= Q
    label: NDArray[np.int64] | None  # [P]
    image: NDArray[np.float32]  # [P, 3, R, R] in [-1, 1]
    truncation: NDArray[np.float32] | None = None  # [P], of a model that is truncated towards its mean w

    @classmethod
    def read(cls, bundle: Bundle) -> Samples:
        """The samples of a bundle, as its manifest has them. Raises BundleError."""
        found = read_samples(bundle)
        return cls(
            picture=found["picture"],
            embedding=found["embedding"],
            ids=found["ids"],
            scores=found["scores"],
            noise=found["noise"],
            label=found["label"] if bundle.manifest.model.classes else None,
            truncation=found.get("truncation"),
            image=found["image"],
        )

    def write(self, bundle: Path) -> None:
        """Write `samples.npz` into a bundle."""
        arrays = {name: value for name, value in vars(self).items() if value is not None}
        np.savez(bundle / SAMPLES_NAME, **arrays)

    def feeds(self, entry: GraphEntry) -> dict[str, NDArray[Any]]:
        """What a graph takes; a generator gets the embeddings that its pictures were drawn from."""
        if entry.role == "encoder":
            return {"image": self.picture}
        feeds: dict[str, NDArray[Any]] = {
            "noise": self.noise,
            "embedding": self.embedding[: len(self.noise)],
        }
        more = {"label": self.label, "truncation": self.truncation}
        return feeds | {name: value for name, value in more.items() if value is not None}


def query_count(size: int) -> int:
    """How many pictures of one size are pinned."""
    return max(IMAGES, min(MAX_QUERIES, MAX_QUERY_BYTES // (3 * size * size)))


def make_samples(run: Run, instances: Instances, neighbours: int) -> Samples:
    """Run torch in float32 on pinned inputs."""
    embedding = run.embed(instances.queries)
    ids, scores = nearest(instances.embeddings, instances.ids, embedding, neighbours)
    count = min(IMAGES, len(embedding))
    towards_mean = run.model.truncation == "mean-w"
    bound = latents.UNTRUNCATED if towards_mean else TRUNCATION
    noise = latents.noise(0, np.arange(count), bound, run.model.dim_z)
    psi = np.full(count, TRUNCATION, np.float32) if towards_mean else None
    label = np.arange(count, dtype=np.int64) * 7 % run.model.classes if run.model.classes else None
    inputs: list[torch.Tensor | None] = [torch.from_numpy(noise), torch.from_numpy(embedding[:count])]
    inputs.append(None if label is None else torch.from_numpy(label))
    inputs += [] if psi is None else [torch.from_numpy(psi)]
    with torch.inference_mode():
        image = run.generator(*inputs).clamp(-1, 1).numpy()
    return Samples(instances.queries, embedding, ids, scores, noise, label, image, psi)
