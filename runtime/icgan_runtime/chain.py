"""The stages of a pipeline in one process: encoder, search, noise, generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import images
from icgan_runtime.backends.base import Session
from icgan_runtime.backends.select import Choice, choose_backend, choose_graph, open_session
from icgan_runtime.bundle.bank import Bank, embeddings_sha256
from icgan_runtime.bundle.manifest import GraphEntry, Manifest, Model
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.prior_files import read_prior
from icgan_runtime.cpus import default_threads
from icgan_runtime.drawn import Drawn, no_prior
from icgan_runtime.errors import NumericsError, RequestError
from icgan_runtime.marks.claim import Source
from icgan_runtime.prior import Prior
from icgan_runtime.request import Neighbours, Request, Result
from icgan_runtime.route import LOG, Route, agreed
from icgan_runtime.rows import OWN_LABEL, Latents, Rows
from icgan_runtime.search.base import Search
from icgan_runtime.search.choose import choose_search
from icgan_runtime.search.living import load_search
from icgan_runtime.search.novelty import known_limit

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

GRAPHS = ("encoder", "generator")
MAX_BATCH = 32  # rows per graph run: bounds memory whatever the request


class Chain(Protocol):
    """What a Pipeline runs on. The local one is below; client/triton.py has the remote one.

    Arguments arrive validated: pictures of an accepted type, unit rows, a Request.
    """

    @property
    def model(self) -> Model:
        """What the pipeline generates with."""

    @property
    def bank(self) -> Bank | None:
        """The stored instances, where they are in this process."""

    @property
    def neighbours(self) -> int:
        """k of a result's neighbours."""

    @property
    def route(self) -> Route:
        """What runs it, and why."""

    @property
    def source(self) -> Source:
        """What is known here of what draws the pictures."""

    def embed(self, pictures: Sequence[images.Picture]) -> F32:
        """Embeddings [N, D]."""

    def search(self, embedding: F32, k: int) -> tuple[I64, F32]:
        """ids and scores [N, k]."""

    def nearest(self, embedding: F32, k: int) -> list[Neighbours]:
        """The same with all that is known of the instances, one of each row."""

    def generate(self, picture: images.Picture, request: Request) -> Result:
        """Images that follow a picture."""

    def generate_from(self, embedding: F32, request: Request) -> Result:
        """Images that follow an embedding [1, D]."""

    def generate_drawn(self, request: Request) -> Drawn:
        """Images that each follow an instance drawn from the prior; RequestError where there is none."""

    def generate_rows(self, embedding: F32, rows: Rows) -> tuple[U8, I64 | None]:
        """Images [N, R, R, 3] that follow the rows of embeddings [N, D], each as its row says.

        With them the label [N] that each was drawn with, where the model has labels.
        """

    def draw_latents(self, latents: Latents) -> U8:
        """Images [N, R, R, 3] of noise and embeddings as they are given."""

    def with_bank(self, bank: Bank) -> Chain:
        """The same chain over other instances, borrowing this one's sessions."""

    def close(self) -> None:
        """Release everything held."""


@dataclass(frozen=True)
class LocalChain:
    """Graphs of a bundle in this process."""

    manifest: Manifest
    encoder: Session
    generator: Session
    find: Search
    route: Route
    max_batch: int = MAX_BATCH
    owns_sessions: bool = True
    drawn_by: GraphEntry | None = None  # the generator's; None: the one of the highest precision
    prior: Prior | None = None  # that instances are drawn from where none is given

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        backend: str = "auto",
        precision: str | None = None,
        search: str = "auto",
        threads: int = 0,
        max_batch: int = MAX_BATCH,
        state: str | None = None,
    ) -> LocalChain:
        """Open a bundle: every file that is used is hashed and matched first. Raises BundleError.

        `state`: that of the bank, where not the newest is wanted.
        """
        if max_batch < 1:
            raise RequestError("max_batch", f"{max_batch}, expected at least 1")
        if threads < 0:
            raise RequestError("threads", f"{threads}, expected at least 1, or 0 for one per core")
        bundle = Bundle.open(path)
        choice = choose_backend(backend, bundle.manifest.engines, precision)
        find = load_search(bundle, search, state)

        entries = {role: choose_graph(bundle.manifest, role, precision, choice.backend) for role in GRAPHS}
        fall_back = backend == "auto"
        with ExitStack() as opened:  # what is open is closed again should the rest fail
            sessions = {
                role: opened.enter_context(open_session(bundle, entry, choice.backend, threads, fall_back))
                for role, entry in entries.items()
            }
            limits = [session.max_batch for session in sessions.values() if session.max_batch is not None]
            precisions = {role: entry.precision for role, entry in entries.items()}
            route = local_route(choice, sessions, precisions, precision, find, threads)
            chain = cls(
                bundle.manifest,
                sessions["encoder"],
                sessions["generator"],
                find,
                route,
                min([max_batch, *limits]),
                drawn_by=entries["generator"],
                prior=read_prior(bundle),
            )
            opened.pop_all()
            return chain

    @property
    def model(self) -> Model:
        return self.manifest.model

    @property
    def bank(self) -> Bank:
        """The stored instances."""
        return self.find.bank

    @property
    def neighbours(self) -> int:
        return min(self.manifest.bank.neighbours, len(self.bank))

    def embed(self, pictures: Sequence[images.Picture]) -> F32:
        def run(rows: slice) -> F32:
            batch = np.stack([images.for_encoder(each, self.model.preprocessing) for each in pictures[rows]])
            embedding: F32 = self.encoder.run({"image": batch})["embedding"]
            return embedding

        embedding = np.concatenate([run(rows) for rows in self._batches(len(pictures))])
        norms = np.linalg.norm(embedding, axis=1)
        if np.abs(norms - 1).max() > 1e-2:
            raise NumericsError(f"{self.encoder.name}: embeddings of length {norms.min():.4g}, expected 1")
        return embedding

    def search(self, embedding: F32, k: int) -> tuple[I64, F32]:
        return self.find(embedding, k)

    def nearest(self, embedding: F32, k: int) -> list[Neighbours]:
        return [self._neighbours(*found) for found in zip(*self.search(embedding, k), strict=True)]

    @cached_property
    def outside_below(self) -> float | None:
        """The score below which a query is outside the bank; None where that is slow to learn."""
        return known_limit(self.bank)

    def _neighbours(self, ids: I64, scores: F32) -> Neighbours:
        bank, rows = self.bank, self.bank.rows(ids)
        labels = None if bank.labels is None else bank.labels[rows]
        names = None if bank.names is None else bank.names.pick(rows)
        classes = None if labels is None else bank.classes(labels)
        state = None if bank.state is None else str(bank.state)
        return Neighbours(ids, scores, labels, names, classes, self.outside_below, state)

    def generate(self, picture: images.Picture, request: Request) -> Result:
        return self.generate_from(self.embed([picture]), request)

    def generate_from(self, embedding: F32, request: Request) -> Result:
        ids, scores = self.search(embedding, self.neighbours)
        side = self.model.resolution
        generated = np.empty((request.n, side, side, 3), np.uint8)
        for rows in self._batches(request.n):
            asked = request.rows(range(rows.start, rows.stop), self.model.classes)
            count = rows.stop - rows.start
            generated[rows] = self.draw(embedding.repeat(count, axis=0), ids.repeat(count, axis=0), asked)
        refuse_black_images(self.generator.name, generated)
        return Result(generated, self._neighbours(ids[0], scores[0]), embedding[0], request, self.source)

    def draw_instances(self, rows: Rows) -> tuple[F32, Rows]:
        """An instance's embedding [N, D] for each row, and the rows with their instances' labels."""
        if self.prior is None:
            raise no_prior("this bundle")
        return with_instances(self.prior, rows)

    def generate_drawn(self, request: Request) -> Drawn:
        embedding, rows = self.draw_instances(request.rows(range(request.n), self.model.classes))
        generated, labels = self.generate_rows(embedding, rows)
        return Drawn(generated, embedding, labels, request, self.source)

    @cached_property
    def source(self) -> Source:
        """What draws the pictures: hashes of model, generator and bank, and what runs them."""
        graph = self.drawn_by or self.manifest.graph("generator")
        return Source(
            self.model.name,
            self.model.version,
            self.model.identity,
            self.manifest.files[graph.file].sha256,
            embeddings_sha256(self.bank),
            graph.precision,
            self.route.backend,
            str(self.bank.state) if self.bank.state and self.bank.state.number else None,
        )

    def generate_rows(self, embedding: F32, rows: Rows) -> tuple[U8, I64 | None]:
        ids = np.zeros((len(embedding), 1), np.int64)
        if rows.need_neighbours:  # else a search would be for nothing
            ids, _ = self.search(embedding, self.neighbours)
        if rows.label is not None:
            rows = replace(rows, label=rows.labels(ids, self.bank))
        generated = [
            self.draw(embedding[some], ids[some], rows.part(some)) for some in self._batches(len(embedding))
        ]
        whole = np.concatenate(generated)
        refuse_black_images(self.generator.name, whole)
        return whole, rows.label

    def with_bank(self, bank: Bank) -> LocalChain:
        bank.require_space(self.model)
        find = choose_search(bank, self.find.name)
        reasons = {**self.route.reasons, "search": find.reason}
        route = replace(self.route, search=find.name, reasons=reasons)
        return replace(self, find=find, route=route, owns_sessions=False)

    def close(self) -> None:
        if self.owns_sessions:
            self.encoder.close()
            self.generator.close()

    def draw(self, embedding: F32, ids: I64, rows: Rows) -> U8:
        """Images [N, R, R, 3], row by row: query embeddings [N, D] with their neighbours' ids [N, k]."""
        noise, followed = rows.noise(self.model), rows.conditioning(embedding, ids, self.bank)
        label = rows.labels(ids, self.bank) if self.model.classes else None
        return self._run(Latents(noise, followed, label, rows.truncation))

    def draw_latents(self, latents: Latents) -> U8:
        drawn = [self._run(latents.part(some)) for some in self._batches(len(latents.noise))]
        whole = np.concatenate(drawn)
        refuse_black_images(self.generator.name, whole)
        return whole

    def _run(self, latents: Latents) -> U8:
        generated: U8 = self.generator.run(latents.feeds(self.model))["image"]
        return generated

    def _batches(self, count: int) -> list[slice]:
        return [slice(start, min(start + self.max_batch, count)) for start in range(0, count, self.max_batch)]


def with_instances(prior: Prior, rows: Rows) -> tuple[F32, Rows]:
    """The embedding [N, D] that each row draws from a prior, and the rows with the labels drawn with them."""
    embedding, label = prior.instances(rows.seed, rows.sample)
    if rows.label is None or label is None:
        return embedding, rows
    return embedding, replace(rows, label=np.where(rows.label == OWN_LABEL, label, rows.label))


def local_route(
    choice: Choice,
    sessions: Mapping[str, Session],
    precisions: Mapping[str, str],
    wanted_precision: str | None,
    find: Search,
    threads: int,
) -> Route:
    """What the opened sessions run on, by role, and why. Warns where it is not what was chosen."""
    backend = agreed({role: session.backend for role, session in sessions.items()})
    provider = agreed({role: session.provider for role, session in sessions.items()})
    allowed = default_threads()  # fewer than the machine has cores, or 0
    reasons = {
        "backend": choice.reason,
        "provider": "opened by encoder and generator",
        "precision": "asked for" if wanted_precision else "the highest in the bundle",
        "search": find.reason,
        "threads": "asked for" if threads else "the CPUs of this process" if allowed else "one per core",
    }
    if backend != choice.backend:
        reasons["backend"] = f"{choice.backend} was chosen, for {choice.reason}, and could not be loaded"
        LOG.warning("%s could not be loaded: running on %s, %s", choice.backend, backend, provider)
    if backend == "tensorrt" and not wanted_precision:
        reasons["precision"] = "that of the plan"
    return Route(backend, provider, agreed(precisions), find.name, threads or allowed, reasons)


def refuse_black_images(session: str, generated: U8) -> None:
    """Raise NumericsError for an image that is black to the last byte.

    The graph ends in bytes, where NaN has become 0: an image computed from NaN looks like this, and tanh
    never gives exactly -1 everywhere otherwise.
    """
    black = ~generated.reshape(len(generated), -1).any(axis=1)
    if black.any():
        raise NumericsError(
            f"{session}: image {int(black.argmax())} of {len(generated)} is black throughout, the mark of "
            "NaN; check the bundle with `icgan info --verify`, or try a higher precision"
        )
