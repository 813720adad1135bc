"""What is said to a server and how its answers are read, whoever carries the bytes.

Each operation is a conversation: a generator that yields a `Call`, is sent the answer, and returns what the
caller wanted. A blocking and an asyncio client drive the same conversations (exchange.py, triton.py), so both
ask alike and return alike.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import images
from icgan_runtime.bundle.manifest import Model
from icgan_runtime.bundle.strict_json import from_json
from icgan_runtime.chain import refuse_black_images
from icgan_runtime.drawn import Drawn, no_prior
from icgan_runtime.errors import (
    DeadlineError,
    IcganError,
    RequestError,
    ServiceError,
    UnavailableError,
)
from icgan_runtime.marks.claim import Source
from icgan_runtime.refusals import from_wire
from icgan_runtime.request import Neighbours, Request, Result
from icgan_runtime.rows import FOLLOWED, OWN_LABEL, PRIOR, REPEATS, Latents, Rows

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]
T = TypeVar("T")

ENSEMBLE = "icgan"
GENERATOR = "icgan_generator"  # the stage behind all ensembles, asked where no seed gives the noise
# Every input is mandatory on the wire; this is what a call says that generates nothing.
_PLAIN = Request(n=1, seed=0, truncation=1.0, condition="query", label=0)
NEIGHBOURS = ("NEIGHBOUR_IDS", "NEIGHBOUR_SCORES", "NEIGHBOUR_LABELS")
# which servers of before have not
MORE = ("NEIGHBOUR_NAMES", "NEIGHBOUR_CLASSES", "OUTSIDE_BELOW", "BANK_STATE")


@dataclass(frozen=True)
class Call:
    """One request: the model, its inputs, and which outputs are wanted. BYTES inputs have dtype object."""

    model: str
    inputs: Arrays
    outputs: tuple[str, ...]
    version: str = ""  # of the model; "": the newest that is served


# Of one picture in several rows: so much is sent again sooner than a file is made of it and read there.
REPEATED_BYTES = 128 << 10

Conversation = Generator[Call, Arrays, T]


@dataclass(frozen=True)
class ServedModel:
    """What a server says of itself."""

    url: str
    model: Model
    neighbours: int
    labelled: bool
    max_batch: int
    repeats: bool = False  # whether an empty IMAGE shows what the row before it does
    prepare: str = "client"  # who decodes, crops and reduces picture files
    says: tuple[str, ...] = ()  # those of MORE that it answers
    generator: str = ""  # the version of that stage with which the ensembles draw
    draws: bool = False  # whether a row whose embedding is all zeros follows an instance of the prior

    @classmethod
    def of_config(cls, url: str, config: Mapping[str, Any], prepare: str = "client") -> ServedModel:
        """Read the ensemble's configuration as Triton reports it in JSON."""
        try:
            outputs = {tensor["name"]: [int(side) for side in tensor["dims"]] for tensor in config["output"]}
            about = json.loads(config["parameters"]["model"]["string_value"])
            model, neighbours = from_json(Model, about, "model"), outputs["NEIGHBOUR_IDS"][0]
        except (LookupError, ValueError) as error:  # another program's, or of another version
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            found = f"an {ENSEMBLE!r} that this version's `icgan-export triton` did not write"
            raise ServiceError(f"{url} serves {found} ({reason})") from None
        return cls(
            url,
            model,
            neighbours,
            "NEIGHBOUR_LABELS" in outputs,
            int(config["max_batch_size"]),
            REPEATS in config["parameters"],
            prepare,
            tuple(name for name in MORE if name in outputs),
            _version(config, GENERATOR),
            PRIOR in config["parameters"],
        )

    def embed(self, pictures: Sequence[images.Picture]) -> Conversation[F32]:
        """Embeddings [N, D]."""
        found = []
        for rows in self._batches(len(pictures)):
            source = self._different(pictures[rows.start : rows.stop])
            answer = yield Call(_ensemble(source), {**source, **self._scalars(_PLAIN, rows)}, ("EMBEDDING",))
            found.append(answer["EMBEDDING"])
        return np.concatenate(found)

    def search(self, embedding: F32, k: int) -> Conversation[tuple[I64, F32]]:
        """ids and scores [N, k]; k is at most what the server was made to find."""
        self._check_k(k)
        ids, scores = [], []
        for rows in self._batches(len(embedding)):
            inputs = {"EMBEDDING": embedding[rows.start : rows.stop], **self._scalars(_PLAIN, rows)}
            answer = yield Call("icgan_from_embedding", inputs, NEIGHBOURS[:2])
            ids.append(answer["NEIGHBOUR_IDS"][:, :k])
            scores.append(answer["NEIGHBOUR_SCORES"][:, :k])
        return np.concatenate(ids), np.concatenate(scores)

    def nearest(self, embedding: F32, k: int) -> Conversation[list[Neighbours]]:
        """As `Chain.nearest`."""
        self._check_k(k)
        found: list[Neighbours] = []
        for rows in self._batches(len(embedding)):
            inputs = {"EMBEDDING": embedding[rows.start : rows.stop], **self._scalars(_PLAIN, rows)}
            answer = yield Call("icgan_from_embedding", inputs, self._told)
            found += [self._neighbours(answer, row, k) for row in range(len(rows))]
        return found

    @property
    def _told(self) -> tuple[str, ...]:
        """The outputs that say what is near."""
        return (*NEIGHBOURS[: 2 + self.labelled], *self.says)

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= self.neighbours:
            raise RequestError("k", f"{k}, expected 1..{self.neighbours} of this server")

    def generate(self, picture: images.Picture, request: Request) -> Conversation[Result]:
        """The first batch carries the picture, the others the embedding that came back with it."""
        first, *others = self._batches(request.n)
        source = self._source(picture, len(first))
        answer = yield self._generation(_ensemble(source), source, request, first, first=True)
        embedding = answer["EMBEDDING"][:1]
        answers = [answer]
        for rows in others:
            source = {"EMBEDDING": embedding.repeat(len(rows), axis=0)}
            answers.append((yield self._generation("icgan_from_embedding", source, request, rows)))
        return self._result(answers, embedding[0], request)

    def generate_from(self, embedding: F32, request: Request) -> Conversation[Result]:
        """As `generate`, from an embedding [1, D]."""
        answers: list[Arrays] = []
        for rows in self._batches(request.n):
            source = {"EMBEDDING": embedding.repeat(len(rows), axis=0)}
            call = self._generation("icgan_from_embedding", source, request, rows, first=not answers)
            answers.append((yield call))
        return self._result(answers, embedding[0], request)

    def generate_drawn(self, request: Request) -> Conversation[Drawn]:
        """As `Chain.generate_drawn`: the server draws the instances, and says which."""
        if not self.draws:
            raise no_prior("what this server serves")
        answers: list[Arrays] = []
        for rows in self._batches(request.n):
            zeros = np.zeros((len(rows), self.model.embedding_dim), np.float32)
            inputs = {"EMBEDDING": zeros, **self._scalars(request, rows)}
            answers.append((yield Call("icgan_from_embedding", inputs, ("GENERATED", FOLLOWED))))
        generated, followed = (
            np.concatenate([each[name] for each in answers]) for name in ("GENERATED", FOLLOWED)
        )
        refuse_black_images(self.url, generated)
        return Drawn(generated, followed, None, request, self.source)

    def generate_rows(self, embedding: F32, rows: Rows) -> Conversation[tuple[U8, I64 | None]]:
        """As `Chain.generate_rows`."""
        generated, labels = [], []
        own = rows.label is not None and bool((rows.label == OWN_LABEL).any())
        for page in self._batches(len(embedding)):
            some = slice(page.start, page.stop)
            part = rows.part(some)
            inputs = {"EMBEDDING": embedding[some], **_scalars(part)}
            outputs = ("GENERATED", "NEIGHBOUR_LABELS") if own and self.labelled else ("GENERATED",)
            answer = yield Call("icgan_from_embedding", inputs, outputs)
            generated.append(answer["GENERATED"])
            if part.label is not None and "NEIGHBOUR_LABELS" in answer:
                near = answer["NEIGHBOUR_LABELS"]
                instances = near[np.arange(len(near)), part.ranks(near.shape[1])]
                labels.append(np.where(part.label == OWN_LABEL, instances, part.label))
            elif part.label is not None:
                labels.append(part.label)
        whole = np.concatenate(generated)
        refuse_black_images(self.url, whole)
        return whole, np.concatenate(labels) if labels else None

    def draw_latents(self, latents: Latents) -> Conversation[U8]:
        """As `Chain.draw_latents`, by the stage itself: the ensembles take seeds, and check what they take.

        So this side has checked what it sends.
        """
        drawn = []
        for page in self._batches(len(latents.noise)):
            feeds = latents.part(slice(page.start, page.stop)).feeds(self.model)
            # one number per row is a row of one number on the wire
            inputs = {name: each if each.ndim > 1 else each[:, None] for name, each in feeds.items()}
            answer = yield Call(GENERATOR, inputs, ("image",), self.generator)
            drawn.append(answer["image"])
        whole = np.concatenate(drawn)
        refuse_black_images(self.url, whole)
        return whole

    def _generation(
        self, name: str, source: Arrays, request: Request, rows: range, first: bool = False
    ) -> Call:
        """A call that draws some rows; the first of a result asks for its neighbours too."""
        outputs = ["GENERATED", *(self._told if first else ())]
        if name != "icgan_from_embedding":
            outputs.append("EMBEDDING")
        return Call(name, {**source, **self._scalars(request, rows)}, tuple(outputs))

    def _result(self, answers: list[Arrays], embedding: F32, request: Request) -> Result:
        generated = np.concatenate([answer["GENERATED"] for answer in answers])
        refuse_black_images(self.url, generated)
        near = self._neighbours(answers[0], 0, self.neighbours)
        changed = near.bank_state if near.bank_state and not near.bank_state.startswith("0-") else None
        return Result(generated, near, embedding, request, replace(self.source, state=changed))

    @property
    def source(self) -> Source:
        """What draws, as far as a server says it."""
        return Source(self.model.name, self.model.version, self.model.identity)

    def _neighbours(self, answer: Arrays, row: int, k: int) -> Neighbours:
        """What an answer says of the k nearest to one of its rows."""

        def texts(name: str) -> tuple[str, ...] | None:
            if name not in self.says:
                return None
            found = tuple(bytes(each).decode(errors="replace") for each in answer[name][row, :k])
            return found if any(found) else None  # all empty: the bank knows none

        ids, scores = answer["NEIGHBOUR_IDS"][row, :k], answer["NEIGHBOUR_SCORES"][row, :k]
        labels = answer["NEIGHBOUR_LABELS"][row, :k] if self.labelled else None
        limit = float(answer["OUTSIDE_BELOW"][row, 0]) if "OUTSIDE_BELOW" in self.says else None
        (state,) = texts("BANK_STATE") or (None,)
        return Neighbours(ids, scores, labels, texts(MORE[0]), texts(MORE[1]), limit, state)

    def _source(self, picture: images.Picture, count: int) -> Arrays:
        """`count` rows of one picture: its file, or what the encoder sees of it, whichever is smaller.

        It travels once where the server understands that.
        """
        size = self.model.preprocessing.size
        file: bytes | None = None
        if isinstance(picture, (str, Path, bytes)):
            file = picture = picture if isinstance(picture, bytes) else images.read(picture)
            if self.prepare == "client" and len(file) > size * size * 3:
                file = None
        if file is None:
            pixels = images.for_encoder(picture, self.model.preprocessing)
            if count == 1 or not self.repeats or count * pixels.nbytes <= REPEATED_BYTES:
                return {"PIXELS": np.repeat(pixels[None], count, axis=0)}
            file = images.encode(pixels, "BMP")  # as they are, for nothing is to be decoded
        rows = [file, *([b"" if self.repeats else file] * (count - 1))]
        return {"IMAGE": np.array(rows, dtype=object)[:, None]}

    def _different(self, pictures: Sequence[images.Picture]) -> Arrays:
        """A row of each picture: the files where the server prepares them and all are files, else pixels."""
        if self.prepare == "server" and all(isinstance(each, (str, Path, bytes)) for each in pictures):
            files = [each if isinstance(each, bytes) else images.read(each) for each in pictures]  # type: ignore[arg-type]
            return {"IMAGE": np.array(files, dtype=object)[:, None]}
        how = self.model.preprocessing
        return {"PIXELS": np.stack([images.for_encoder(picture, how) for picture in pictures])}

    def _scalars(self, request: Request, samples: range) -> Arrays:
        return _scalars(request.rows(samples, self.model.classes))

    def _batches(self, count: int) -> list[range]:
        return [range(start, min(start + self.max_batch, count)) for start in range(0, count, self.max_batch)]


def _version(config: Mapping[str, Any], stage: str) -> str:
    """The version of a stage that an ensemble's configuration names; "" where it names none."""
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    found = [int(step.get("model_version", -1)) for step in steps if step.get("model_name") == stage]
    return str(found[0]) if found and found[0] > 0 else ""


def _ensemble(source: Arrays) -> str:
    """Which one starts from a picture's file, or from its pixels."""
    return ENSEMBLE if "IMAGE" in source else "icgan_from_pixels"


def _scalars(rows: Rows) -> Arrays:
    """The inputs that each row has one number of."""
    arrays: Arrays = {
        "SEED": rows.seed,
        "SAMPLE": rows.sample,
        "TRUNCATION": rows.truncation,
        "CONDITION": rows.condition,
    }
    if rows.label is not None:
        arrays["LABEL"] = rows.label
    return {name: array[:, None] for name, array in arrays.items()}


def error_of(status: str, words: str) -> IcganError:
    """The exception for a refusal; `status` is an HTTP status or the name of a gRPC status."""
    # being loaded; or started anew, without the regions that its predecessor knew
    if "has no available versions" in words or "Unable to find shared memory region" in words:
        return UnavailableError(words)
    if status in ("400", "INVALID_ARGUMENT"):
        return from_wire(words)
    if "protocol is restricted" in words:  # gRPC says that it is unavailable, but it will stay so
        return ServiceError(words)
    if status in ("502", "503", "429", "UNAVAILABLE"):
        return UnavailableError(words)
    if status in ("504", "DEADLINE_EXCEEDED"):
        return DeadlineError(words)
    return ServiceError(words)


def back_off(retries: int) -> Iterator[float]:
    """Seconds to wait before each retry: doubling, so that a server with too many requests is left alone."""
    return (0.1 * 2**attempt for attempt in range(retries))
