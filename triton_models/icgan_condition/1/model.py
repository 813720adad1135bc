"""Embeddings of the distinct pictures, and the wishes of each row -> neighbours, and the generator's input.

Waiting requests are searched, conditioned and given noise as one batch. Here U pictures become N rows: every
tensor that comes from a picture is repeated for the rows that show it. With `search` "graph" a stage before
this one has found the neighbours. All that waits comes in at once, so that what is too much, here or for the
generator, is sent away at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.prior_files import read_prior
from icgan_runtime.chain import with_instances
from icgan_runtime.errors import IcganError, RequestError
from icgan_runtime.rows import Rows, check_embedding
from icgan_runtime.search.living import Followed
from icgan_runtime.search.novelty import SCORE_BUCKETS, outside_below
from icgan_runtime.search.numpy import numpy_search
from icgan_runtime.server.changes import changes_of
from icgan_runtime.server.gate import Gate, marks_of, weight
from icgan_runtime.server.models import CANARY_ID
from icgan_runtime.server.stage import Requests, keep_to_the_end

Array = NDArray[Any]

DRAWN = "noise"  # who asks for this is drawn next


class Asked(NamedTuple):
    """One request, read and checked."""

    embedding: NDArray[np.float32]  # [U, D]
    rows: Rows  # [N]
    picture: NDArray[np.int64]  # [N], which embedding each row shows
    found: tuple[Array, Array] | None  # ids, scores [U, k]; None: to be searched for
    outputs: frozenset[str]
    counted: bool  # in the metrics; not the canaries of probes and watchdogs


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder = f"{args['model_repository']}/{args['model_version']}"
        bundle = Bundle.open(folder)
        config = json.loads(args["model_config"])
        self.model, self.k = bundle.manifest.model, bundle.manifest.bank.neighbours
        parameters = {name: each["string_value"] for name, each in config["parameters"].items()}
        self.max_rows, self.room = int(parameters["max_rows"]), float(parameters["max_queue"])
        wanted = parameters["search"]
        self.followed = None if wanted == "graph" else Followed(bundle, wanted, changes_of(folder))
        self.search = None if self.followed is None else self.followed.search()
        self.bank = Bank.of_bundle(bundle) if self.search is None else self.search.bank
        if self.search is not None:  # the first search is slower than those to come
            self.search(self.bank.embeddings[:1], self.k)
        self.prior = read_prior(bundle)
        self.requests = Requests(pb_utils)
        self.limit = stated if (stated := self.bank.stated_limit) is not None else outside_below(self.bank)
        self.metrics = Metrics(self.limit)
        self.probed = 0
        probe = self.requests.probe(args["model_repository"], "icgan_generator", "image", self._probe_row)
        processes = config["instance_group"][0]["count"]
        marks = marks_of("icgan_condition", args["model_version"], processes)
        self.generator = Gate(self.room, probe, marks)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        if self.followed is not None:
            try:
                self.search = self.followed.search()
            except IcganError as error:  # older answers would show what was removed
                return self.requests.failures(error, len(requests))
            self.bank = self.search.bank
        answers: list[Any] = []
        good: list[tuple[int, Asked]] = []  # with their places among the requests
        taken = 0.0
        for request in requests:
            outputs = frozenset(request.requested_output_names())
            answer = self._full(taken, outputs)  # before anything else is done for it
            if answer is None:
                try:
                    asked = self._read(request, outputs)
                except RequestError as error:  # of one request alone: those beside it are answered
                    answer = self.requests.refusal(error)
                else:
                    size = weight(len(asked.picture), self.max_rows)
                    taken += size
                    if DRAWN in outputs:
                        self.generator.enter(size)
                    good.append((len(answers), asked))
            answers.append(answer)
        self.requests.report()
        for batch in self._batches(good):
            made = self._answer([asked for _, asked in batch])
            for (place, _), answer in zip(batch, made, strict=True):
                answers[place] = answer
        return answers

    def _full(self, taken: float, outputs: frozenset[str]) -> Any:
        """The answer to a request for which there is no room, here or behind."""
        if taken >= self.room:
            return self.requests.shed("icgan_condition")
        if DRAWN in outputs and not self.generator.has_room:
            return self.requests.shed("icgan_generator")
        return None

    def finalize(self) -> None:
        if self.followed is not None:
            self.followed.close()
        self.generator.close()
        keep_to_the_end(self)

    def _batches(self, good: list[tuple[int, Asked]]) -> Iterator[list[tuple[int, Asked]]]:
        """What is computed together: no more rows than the generator takes."""
        batch: list[tuple[int, Asked]] = []
        rows = 0
        for each in good:
            if batch and rows + len(each[1].picture) > self.max_rows:
                yield batch
                batch, rows = [], 0
            batch.append(each)
            rows += len(each[1].picture)
        if batch:
            yield batch

    def _probe_row(self) -> dict[str, Array]:
        """Something for the generator to draw, another thing each time: the server may keep answers."""
        self.probed += 1
        row: dict[str, Array] = {
            "noise": np.full((1, self.model.dim_z), self.probed % (1 << 24) / (1 << 24), np.float32),
            "embedding": np.ascontiguousarray(self.bank.embeddings[:1]),
        }
        if self.model.classes:
            row["label"] = np.zeros((1, 1), np.int64)
        if self.model.truncation == "mean-w":
            row["truncation"] = np.ones((1, 1), np.float32)
        return row

    def _read(self, request: pb_utils.InferenceRequest, outputs: frozenset[str]) -> Asked:
        embedding = self.requests.given(request, "embedding")
        if embedding.ndim != 2:  # the server takes away the row axis of a request that says 0 rows
            raise RequestError("embedding", f"{list(embedding.shape)}, expected rows")
        packed = self.requests.tensor(request, "rows")
        if packed is None:
            rows = self.requests.rows(request, self.model.classes)
            embedding, rows, drawn = self._with_instances(embedding, rows)
            new = np.ones(len(embedding), np.bool_)
            if len(embedding) > 1:
                new[1:] = (embedding[1:] != embedding[:-1]).any(axis=1)
            embedding, picture = embedding[new], np.cumsum(new) - 1
        else:
            rows, picture = Rows.unpack(packed[:, 0].tolist(), bool(self.model.classes))
            rows.check(self.model.classes)
        check_embedding(embedding)
        if not 1 <= len(picture) <= self.max_rows:
            raise RequestError("seed", f"{len(picture)} rows, 1..{self.max_rows} are taken")
        rows.check_labels(self.bank)
        found = None if self.search else self._found(request)
        if found is not None and packed is None:
            found = found[0][new], found[1][new]
            if drawn.any():  # the stage before searched for zeros
                own = drawn[new]
                found[0][own], found[1][own] = numpy_search(self.bank, "").find(embedding[own], self.k)
        return Asked(embedding, rows, picture, found, outputs, request.request_id() != CANARY_ID)

    def _with_instances(
        self, embedding: NDArray[np.float32], rows: Rows
    ) -> tuple[NDArray[np.float32], Rows, NDArray[np.bool_]]:
        """The embeddings [N, D] with an instance of the prior for each row of zeros; and which [N] were."""
        drawn: NDArray[np.bool_] = np.logical_not(embedding.any(axis=1))
        if self.prior is None or not drawn.any():  # without one they are refused as no embeddings
            return embedding, rows, drawn
        instances, labelled = with_instances(self.prior, rows)
        embedding = np.where(drawn[:, None], instances, embedding)
        if rows.label is not None and labelled.label is not None:
            rows = replace(rows, label=np.where(drawn, labelled.label, rows.label))
        return embedding, rows, drawn

    def _found(self, request: pb_utils.InferenceRequest) -> tuple[Array, Array]:
        """ids and scores of the stage before; checked, for this one can also be called on its own."""
        ids, scores = (self.requests.given(request, name) for name in ("ids", "scores"))
        if not ids.ndim == scores.ndim == 2:
            raise RequestError("ids", f"{list(ids.shape)} and {list(scores.shape)}, expected rows")
        if not np.isin(ids, self.bank.ids).all():
            raise RequestError("ids", "an instance that is not in the bank")
        if not np.isfinite(scores).all():  # one would spoil the metric for good
            raise RequestError("scores", "a number that is not finite")
        return ids, scores

    def _answer(self, asked: list[Asked]) -> list[pb_utils.InferenceResponse]:
        embedding = _join([each.embedding for each in asked])
        if self.search is None:
            found = [each.found for each in asked if each.found is not None]
            ids, scores = (_join(list(arrays)) for arrays in zip(*found, strict=True))
        else:
            ids, scores = self.search.find(embedding, self.k)
        nearest = scores[:, 0]
        if not all(each.counted for each in asked):
            users = [each.counted for each in asked]
            nearest = nearest[np.repeat(users, [len(each.embedding) for each in asked])]
        self.metrics.observe(nearest)
        first = np.cumsum([0, *(len(each.embedding) for each in asked)])
        picture = _join([each.picture + start for each, start in zip(asked, first[:-1], strict=True)])
        shown = ids  # of each picture, not of each row that shows it
        if len(picture) != len(embedding) or (picture != np.arange(len(picture))).any():
            embedding, ids, scores = embedding[picture], ids[picture], scores[picture]
        rows = Rows.join([each.rows for each in asked])
        make: dict[str, Callable[[], Array]] = {
            "noise": lambda: rows.noise(self.model),
            "conditioning": lambda: rows.conditioning(embedding, ids, self.bank),
            "EMBEDDING": lambda: embedding,
            "NEIGHBOUR_IDS": lambda: ids,
            "NEIGHBOUR_SCORES": lambda: scores,
            "NEIGHBOUR_LABELS": lambda: self.bank.labels[self.bank.rows(ids)],  # type: ignore[index]
            "NEIGHBOUR_NAMES": lambda: self._names(shown)[picture],
            "NEIGHBOUR_CLASSES": lambda: self._classes(shown)[picture],
            **dict.fromkeys(("BANK_STATE", "state"), lambda: self._state(len(picture))),
            "OUTSIDE_BELOW": lambda: np.full((len(picture), 1), self.limit, np.float32),
            "label": lambda: rows.labels(ids, self.bank)[:, None],
        }
        made = {name: make[name]() for name in frozenset().union(*(each.outputs for each in asked))}
        ends = np.cumsum([len(each.picture) for each in asked])
        return [
            self.requests.answer({name: made[name][end - len(each.picture) : end] for name in each.outputs})
            for each, end in zip(asked, ends, strict=True)
        ]

    def _state(self, count: int) -> Array:
        """The state of the bank that was searched, for each row."""
        return np.full((count, 1), str(self.bank.state).encode(), np.object_)

    def _names(self, ids: Array) -> Array:
        """The file of each instance as UTF-8, "" where the bank does not say."""
        names = self.bank.names
        rows = self.bank.rows(ids).ravel()
        found = [b""] * len(rows) if names is None else [name.encode() for name in names.pick(rows)]
        return np.array(found, np.object_).reshape(ids.shape)

    def _classes(self, ids: Array) -> Array:
        """What the label of each instance is called, in the same way."""
        labels = self.bank.labels[self.bank.rows(ids).ravel()]  # type: ignore[index]
        found = self.bank.classes(labels) or ("",) * len(labels)
        return np.array([name.encode() for name in found], np.object_).reshape(ids.shape)


class Metrics:
    """How near the queries are to the bank, beside the server's own metrics."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        # kept: a metric dies with the family object it came from
        self.families = {
            "score": pb_utils.MetricFamily(
                name="icgan_nearest_score",
                description="Cosine similarity of each picture to its nearest stored instance",
                kind=pb_utils.MetricFamily.HISTOGRAM,
            ),
            "outside": pb_utils.MetricFamily(
                name="icgan_outside_bank_total",
                description="Pictures less similar to any stored instance than those are to each other",
                kind=pb_utils.MetricFamily.COUNTER,
            ),
        }
        self.score = self.families["score"].Metric(labels={}, buckets=list(SCORE_BUCKETS))
        self.outside = self.families["outside"].Metric(labels={})

    def observe(self, scores: Array) -> None:
        for score in scores:
            self.score.observe(float(score))
        outside = int((scores < self.limit).sum())
        if outside:  # a report waits for the server's answer under a lock that both share: no idle ones
            self.outside.increment(outside)


def _join(arrays: list[Array]) -> Array:
    """Batches in one; that of a lone request as it is."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
