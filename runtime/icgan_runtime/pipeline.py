"""Picture -> embedding -> neighbours -> images: the class that applications use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import Model
from icgan_runtime.chain import MAX_BATCH, Chain, LocalChain
from icgan_runtime.client.connection import ConnectionOptions
from icgan_runtime.drawn import Drawn
from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.given import check_picture, is_pictures, one_row, picture_list, refuse_forked
from icgan_runtime.images import Picture
from icgan_runtime.request import Neighbours, Result, embedding_rows, make_request, pages, whole
from icgan_runtime.route import LOG, Route
from icgan_runtime.steer.guide import Effort, Progress, guide, invert, quiet
from icgan_runtime.steer.interpolate import interpolate
from icgan_runtime.steer.rank import rank
from icgan_runtime.steer.scorers import Features, Scorer, as_features, as_scorer
from icgan_runtime.steer.steered import Steered

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class Pipeline:
    """Instance-conditioned generation: `load` opens a bundle in this process, `connect` talks to a server.

    A picture is a path, the bytes of a file, a PIL image, or an RGB uint8 array [H, W, 3].
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._process = os.getpid()

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        *,
        backend: str = "auto",
        precision: str | None = None,
        search: str = "auto",
        threads: int = 0,
        max_batch: int = MAX_BATCH,
        state: str | None = None,
    ) -> Pipeline:
        """Open a bundle in this process.

        Raises BundleError when any part of it cannot be trusted, BackendError (MissingExtraError) for what
        cannot run here, RequestError for an argument that means nothing.

        `backend` is a name in backends.select.BACKENDS, `precision` one in manifest.PRECISIONS (default: the
        highest the bundle has), `search` one of search.SEARCHES, `threads` per graph (0: one per core),
        `max_batch` the rows of one graph run. `state` is an earlier state of the bank, as a Result names it
        (default: the newest).
        """
        chain = LocalChain.load(
            bundle,
            backend=backend,
            precision=precision,
            search=search,
            threads=threads,
            max_batch=max_batch,
            state=state,
        )
        LOG.info("%s: %s", bundle, chain.route)
        return cls(chain)

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        timeout_s: float = 30,
        retries: int = 3,
        shared_memory: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        balancing: str = "pick_first",
        prepare: str = "client",
    ) -> Pipeline:
        """Talk to a server: `grpc://host:8001` or `http://host:8000` (also grpcs and https).

        Results are those of `load`. A request takes `timeout_s` at most, DeadlineError after that; while the
        server is unreachable or overloaded it is tried again up to `retries` times, UnavailableError then.
        `shared_memory="system"` passes pictures through memory that a server on this machine maps too,
        `"cuda"` through its GPU's; ServiceError when the server cannot or may not.

        For gateways: `headers` go with every request, `ca` (PEM) names the authorities that are trusted
        instead of the system's, `certificate` and `key` (PEM) are our own. `balancing="round_robin"` spreads
        calls over all addresses of a gRPC name.

        `prepare="client"` decodes, crops and reduces picture files here, so that a few kB travel and the
        server decodes nothing; with `"server"` files travel as they are. The results are the same.
        """
        options = ConnectionOptions(
            timeout_s, retries, shared_memory, headers, ca, certificate, key, balancing, prepare
        )
        try:
            from icgan_runtime.client.triton import TritonChain
        except ImportError:
            raise MissingExtraError("tritonclient", "triton") from None
        chain = TritonChain(url, options)
        LOG.info("%s", chain.route)
        return cls(chain)

    @property
    def chain(self) -> Chain:
        """The stages. BackendError in a process that was forked after they were opened: it has no threads."""
        refuse_forked(self._process)
        return self._chain

    @property
    def model(self) -> Model:
        """What is being run: name, resolution, classes, encoder, licence."""
        return self.chain.model

    @property
    def route(self) -> Route:
        """What runs, and why: backend, provider, precision, search and threads, as they were opened."""
        return self.chain.route

    def __repr__(self) -> str:
        side, route = self.model.resolution, self.route
        where = route.url or f"{route.backend} {route.precision}, search {route.search}"
        return f"Pipeline({self.model.name}, {side} × {side}, {where})"

    @property
    def bank(self) -> Bank:
        """The stored instances. A server keeps its own to itself: RequestError."""
        if self.chain.bank is None:
            raise RequestError("bank", "it stays on the server; load the bundle itself to read it")
        return self.chain.bank

    @overload
    def generate(
        self,
        picture: Picture,
        *,
        n: int = 1,
        seed: int = 0,
        truncation: float | None = 1.0,
        condition: str = "query",
        label: int | None = None,
        first: int = 0,
    ) -> Result: ...

    @overload
    def generate(
        self,
        picture: None = None,
        *,
        n: int = 1,
        seed: int = 0,
        truncation: float | None = 1.0,
        condition: str = "query",
        label: int | None = None,
        first: int = 0,
    ) -> Drawn: ...

    def generate(
        self,
        picture: Picture | None = None,
        *,
        n: int = 1,
        seed: int = 0,
        truncation: float | None = 1.0,
        condition: str = "query",
        label: int | None = None,
        first: int = 0,
    ) -> Result | Drawn:
        """n images that follow `picture`. Raises RequestError (DecodeError for the picture).

        Without a picture each image follows an instance of its own, drawn by seed and sample from the
        bundle's prior (`icgan-export bundle --prior`); RequestError for a bundle without one.

        `truncation` in (0, 1] trades variety for quality, None means untruncated. `condition`: "query" the
        picture itself, "nearest" its nearest stored instance, "sample" one of the k nearest, drawn by the
        seed. `label` only for models with classes; None takes the label of the instance. `first` skips that
        many images of the seed: n=4, first=4 are the second half of n=8.
        """
        request = make_request(n, seed, truncation, condition, label, self.model.classes, first)
        if picture is None:
            return self.chain.generate_drawn(request)
        return self.chain.generate(check_picture(picture), request)

    def generate_from(
        self,
        embedding: F32,
        *,
        n: int = 1,
        seed: int = 0,
        truncation: float | None = 1.0,
        condition: str = "query",
        label: int | None = None,
        first: int = 0,
    ) -> Result:
        """As `generate`, from an embedding [D] or [1, D] instead of a picture."""
        request = make_request(n, seed, truncation, condition, label, self.model.classes, first)
        return self.chain.generate_from(one_row(embedding, self.model.embedding_dim), request)

    def stream(
        self,
        picture: Picture,
        *,
        n: int,
        seed: int = 0,
        truncation: float | None = 1.0,
        condition: str = "query",
        label: int | None = None,
        batch: int = MAX_BATCH,
    ) -> Iterator[Result]:
        """As `generate`, in results of `batch` images each: any n, and the memory of one batch.

        The picture is embedded once.
        """
        embedding = None
        for page in pages(n, batch):
            request = make_request(
                len(page), seed, truncation, condition, label, self.model.classes, page.start
            )
            if embedding is None:
                result = self.chain.generate(check_picture(picture), request)
                embedding = result.embedding[None]
            else:
                result = self.chain.generate_from(embedding, request)
            yield result

    def embed(self, pictures: Picture | Sequence[Picture]) -> F32:
        """Embeddings [N, D], unit rows, of one picture or several."""
        return self.chain.embed(picture_list(pictures))

    def search(self, query: F32 | Picture | Sequence[Picture], *, k: int | None = None) -> tuple[I64, F32]:
        """ids and scores [N, k] of the stored instances nearest to each row, best first, ties by id.

        `query`: embeddings [D] or [N, D], or a picture or several, which are embedded first.
        """
        rows = self.embed(query) if is_pictures(query) else embedding_rows(query, self.model.embedding_dim)
        return self.chain.search(rows, self.chain.neighbours if k is None else k)

    def nearest(self, query: F32 | Picture | Sequence[Picture], *, k: int | None = None) -> list[Neighbours]:
        """As `search`, a `Neighbours` for each row: also files, classes, and whether the query is outside."""
        rows = self.embed(query) if is_pictures(query) else embedding_rows(query, self.model.embedding_dim)
        return self.chain.nearest(rows, self.chain.neighbours if k is None else k)

    def with_bank(self, bank: Bank | str | Path) -> Pipeline:
        """This pipeline over other instances of the same embedding space: a Bank or a bank folder.

        The new pipeline borrows this one's sessions, so close it first.
        """
        return Pipeline(self.chain.with_bank(bank if isinstance(bank, Bank) else Bank.read(bank)))

    def rank(
        self,
        picture: Picture | F32,
        scorer: Scorer | str | Path,
        *,
        n: int = 4,
        of: int = 64,
        seed: int = 0,
        truncation: float | None = 1.0,
        condition: str = "query",
        label: int | None = None,
    ) -> Steered:
        """The n best of `of` images of a seed by their scores, best first; the rest is as in `generate`.

        `scorer` is a function of images uint8 [N, R, R, 3] that gives N numbers, higher for better, the path
        of an ONNX file, or what `onnx_scorer` and `text_scorer` give (docs/steering.md).
        """
        request = make_request(n, seed, truncation, condition, label, self.model.classes)
        row = one_row(self._followed(picture), self.model.embedding_dim)
        return rank(self.chain, row, as_scorer(scorer), request, whole("of", of))

    def interpolate(
        self,
        start: Picture | F32,
        end: Picture | F32 | None = None,
        *,
        frames: int = 24,
        seed: int = 0,
        end_seed: int | None = None,
        truncation: float | None = 1.0,
        label: int | None = None,
    ) -> Steered:
        """Images on the way from one picture and seed to another picture, another seed, or both.

        `start` and `end` are pictures or embeddings [D]; without `end` it is `start` again, without
        `end_seed` it is `seed`. The first and the last image are those that `generate` draws of them.
        """
        request = make_request(frames, seed, truncation, "query", label, self.model.classes)
        last = make_request(1, seed if end_seed is None else end_seed, 1, "query", None, 0).seed
        if end is None and last == request.seed:
            raise RequestError("end", "missing; give another picture, or another end_seed")
        rows = self._followed([start] if end is None else [start, end])
        return interpolate(self.chain, rows, (request.seed, last), request)

    def guide(
        self,
        pictures: Picture | Sequence[Picture | F32] | F32,
        scorer: Scorer | str | Path,
        *,
        n: int = 1,
        seed: int = 0,
        iterations: int = 100,
        population: int = 16,
        truncation: float | None = 1.0,
        label: int | None = None,
        progress: Progress = quiet,
    ) -> Steered:
        """n images that `scorer` likes: each the best of a search of `iterations` × `population` images.

        What is searched is the noise and, of several pictures or embeddings [M, D], their mixture, within
        what seeds draw. The same seed finds the same on the same machine. `progress` is called with the
        iterations done and the best score so far. Needs `pip install 'icgan[steer]'`.
        """
        request = make_request(n, seed, truncation, "query", label, self.model.classes)
        effort = Effort(whole("iterations", iterations), whole("population", population))
        return guide(self.chain, self._followed(pictures), as_scorer(scorer), request, effort, progress)

    def invert(
        self,
        picture: Picture,
        *,
        among: Picture | Sequence[Picture | F32] | F32 | None = None,
        features: Features | str | Path | None = None,
        n: int = 1,
        seed: int = 0,
        iterations: int = 200,
        population: int = 16,
        truncation: float | None = 1.0,
        label: int | None = None,
        progress: Progress = quiet,
    ) -> Steered:
        """Noise and mixture of instances that draw what is most like `picture`, searched for as by `guide`.

        The instances are the picture itself and those `among` other pictures or embeddings [M, D]. Scores are
        at most 0, that of the picture itself. `features`, a function of images or an ONNX file of one, is
        what sees the likeness (a squared distance), such as LPIPS by `icgan-export lpips`.
        """
        request = make_request(n, seed, truncation, "query", label, self.model.classes)
        effort = Effort(whole("iterations", iterations), whole("population", population))
        rows = self.embed(check_picture(picture))
        if among is not None:
            rows = np.concatenate([rows, self._followed(among)])
        seen = None if features is None else as_features(features)
        return invert(self.chain, picture, rows, request, effort, progress, seen)

    def _followed(self, given: Picture | Sequence[Picture | F32] | F32) -> F32:
        """Pictures and embeddings as embeddings [M, D]."""
        if isinstance(given, (list, tuple)):
            if not given:
                raise RequestError("pictures", "none given")
            return np.concatenate([self._followed(each) for each in given])
        if isinstance(given, np.ndarray) and given.dtype != np.uint8:
            return embedding_rows(given, self.model.embedding_dim)
        return self.embed(check_picture(given))

    def close(self) -> None:
        """Release graphs or connections; nothing in a forked process, whose parent may still use them."""
        if os.getpid() == self._process:
            self._chain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
