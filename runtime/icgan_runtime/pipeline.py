"""Picture -> embedding -> neighbours -> images: the class that applications use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import Model
from icgan_runtime.chain import MAX_BATCH, Chain, LocalChain
from icgan_runtime.client.connection import ConnectionOptions
from icgan_runtime.errors import BackendError, MissingExtraError, RequestError
from icgan_runtime.images import Picture
from icgan_runtime.request import Neighbours, Result, embedding_rows, make_request, pages
from icgan_runtime.route import LOG, Route

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
    ) -> Result:
        """n images that follow `picture`. Raises RequestError (DecodeError for the picture).

        `truncation` in (0, 1] trades variety for quality, None means untruncated. `condition`: "query" the
        picture itself, "nearest" its nearest stored instance, "sample" one of the k nearest, drawn by the
        seed. `label` only for models with classes; None takes the label of the instance. `first` skips that
        many images of the seed: n=4, first=4 are the second half of n=8.
        """
        request = make_request(n, seed, truncation, condition, label, self.model.classes, first)
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


def refuse_forked(process: int) -> None:
    """BackendError in another process than the one that opened a pipeline."""
    if os.getpid() != process:
        raise BackendError(
            f"this pipeline was opened in process {process} and is used in {os.getpid()}, forked from it: "
            "open one in each worker process (docs/serving.md)"
        )


def check_picture(picture: object) -> Picture:
    """`picture` if it is of an accepted type, else RequestError."""
    if isinstance(picture, (str, Path, bytes, Image.Image, np.ndarray)):
        return picture
    what = type(picture).__name__
    raise RequestError(
        "picture",
        f"{'an' if what[0] in 'aeiou' else 'a'} {what}, expected a path, bytes, PIL image or uint8 array",
    )


def is_pictures(query: object) -> TypeGuard[Picture | Sequence[Picture]]:
    """Whether a query is a picture or several rather than embeddings."""
    first = query[0] if isinstance(query, (list, tuple)) and query else query
    if isinstance(first, np.ndarray):
        return bool(first.dtype == np.uint8)
    return isinstance(first, (str, Path, bytes, Image.Image))


def picture_list(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """One picture or several as a list, each of an accepted type."""
    several = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
    if not several:
        raise RequestError("pictures", "none given")
    return [check_picture(picture) for picture in several]


def one_row(embedding: F32, width: int) -> F32:
    """One embedding as [1, D]."""
    rows = embedding_rows(embedding, width)
    if len(rows) != 1:
        raise RequestError("embedding", f"{len(rows)} rows, expected one")
    return rows
