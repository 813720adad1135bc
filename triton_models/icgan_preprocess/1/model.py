"""Pictures of a request -> the encoder's input, each distinct picture once, with the rows that show it.

All requests that wait are taken in together: threads decode their files, at a low priority, and a picture
that several of them show is decoded once. They are answered together: with responses sent later, from other
threads, the whole server goes down when any stage's process dies (docs/reports/log.md).
"""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray
from PIL import Image

from icgan_runtime import images
from icgan_runtime.errors import RequestError
from icgan_runtime.rows import Rows
from icgan_runtime.server.gate import Gate, Workers, shared_marks, weight
from icgan_runtime.server.photos import PROBE_ID, is_plain, load_of, load_of_files, photo_room
from icgan_runtime.server.stage import Requests, keep_to_the_end

# Pillow warns of every odd value in a stranger's EXIF: thousands of lines of the log for one picture, each of
# which Python would also keep for ever.
warnings.filterwarnings("ignore", module="PIL")

# Decoding yields the processor to everything else: a flood of large photos delays nobody else's rows.
NICENESS = 5

# Of 16 MB, which Pillow keeps for the next picture: new memory costs a large photo as much as its decoding.
KEPT_BLOCKS = 8

Picture = bytes | NDArray[np.uint8]
Prepared = NDArray[np.uint8]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        outputs = {tensor["name"]: tensor["dims"] for tensor in config["output"]}
        self.size = int(outputs["image"][0])
        texts = {name: each["string_value"] for name, each in config["parameters"].items()}
        crop = texts.pop("crop", images.CENTRE)
        parameters = {name: int(text) for name, text in texts.items()}
        self.classes, self.max_rows = parameters["classes"], parameters["max_rows"]
        decoders, room = parameters["decoders"], parameters["max_queue"]
        self.requests = Requests(pb_utils)
        # kept: a metric dies with the family object it came from
        self.family = pb_utils.MetricFamily(
            name="icgan_decode_failures_total",
            description="Requests refused because a picture could not be decoded",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self.failures = self.family.Metric(labels={})
        Image.core.set_blocks_max(KEPT_BLOCKS * decoders)  # type: ignore[attr-defined]
        # far fewer than elsewhere: each is alone with its decoder, however many wait
        workers = Workers(decoders, photo_room(decoders, room), NICENESS)
        self.decoders = Decoders(self.size, crop, workers, parameters["kept_pictures"])
        self.admitted = shared_marks("icgan_preprocess")
        self.probed = 0
        probe = self.requests.probe(
            args.get("model_repository", ""), "icgan_encoder", "embedding", self._probe_picture
        )
        self.encoder = Gate(room, probe, shared_marks("icgan_encoder"))  # which icgan_admit looks at, too

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        begun = [self._begin(request) for request in requests]
        self.requests.report()
        answers = []
        for request, each in zip(requests, begun, strict=True):
            answers.append(self._answer(each) if isinstance(each, Work) else each)
            files = self.requests.tensor(request, "IMAGE")
            if files is not None and (load := load_of_files(files.ravel().tolist())):
                self.admitted.done(load)
        return answers

    def finalize(self) -> None:
        self.decoders.workers.close()
        self.encoder.close()
        self.admitted.close()
        keep_to_the_end(self)

    def _begin(self, request: pb_utils.InferenceRequest) -> Any:
        """The answer, or the Work that has begun."""
        if request.request_id() == PROBE_ID:  # of icgan_admit
            return self.requests.answer({"image": np.zeros((1, self.size, self.size, 3), np.uint8)})
        files, pixels = (self.requests.tensor(request, name) for name in ("IMAGE", "PIXELS"))
        given = pixels if files is None else files
        if given is None or (files is not None and pixels is not None):
            return self.requests.refusal(RequestError("image", "give either IMAGE or PIXELS"))
        name = "PIXELS" if files is None else "IMAGE"
        if given.ndim != (4 if files is None else 2):
            # the server takes away the row axis of a request that says 0 rows
            return self.requests.refusal(RequestError(name, f"{list(given.shape)}, expected rows"))
        if not self.encoder.has_room:
            return self.requests.shed("icgan_encoder")
        try:
            rows = self.requests.rows(request, self.classes)  # before a picture costs anything
        except RequestError as error:
            return self.requests.refusal(error)
        try:
            distinct, picture = distinct_pictures(given if files is None else raw_files(given[:, 0]))
        except RequestError as error:
            return self._undecodable(error, name)
        if not (self.decoders.workers.has_room or all(map(self.decoders.is_prepared, distinct))):
            return self.requests.shed("icgan_preprocess")
        self.encoder.enter(weight(len(distinct), self.max_rows))
        futures = [self.decoders.prepare(each) for each in distinct]
        return Work(name, rows, picture, futures)

    def _answer(self, work: Work) -> Any:
        try:
            prepared = [future.result() for future in work.futures]
        except RequestError as error:
            return self._undecodable(error, work.tensor)
        packed = np.array(work.rows.pack(work.picture, len(prepared)), dtype=object)[:, None]
        image = prepared[0][None] if len(prepared) == 1 else np.stack(prepared)
        return self.requests.answer({"image": image, "rows": packed})

    def _undecodable(self, error: RequestError, tensor: str) -> Any:
        self.failures.increment(1)
        return self.requests.refusal(error, tensor)

    def _probe_picture(self) -> dict[str, NDArray[Any]]:
        """Another one each time: the server may keep answers, and would give them at once."""
        self.probed += 1
        picture = np.zeros((1, self.size, self.size, 3), np.uint8)
        picture.reshape(-1)[:8] = np.frombuffer(self.probed.to_bytes(8, "little"), np.uint8)
        return {"image": picture}


class Work(NamedTuple):
    """A request whose pictures are being prepared."""

    tensor: str  # that they came in
    rows: Rows
    picture: NDArray[np.int64]  # which picture each row shows
    futures: list[Future[Prepared]]


class Decoders:
    """Prepares pictures, each once at a time, and keeps the last `count` by the hash of their files."""

    def __init__(self, size: int, crop: str, workers: Workers, count: int) -> None:
        self.size, self.crop, self.workers, self.count = size, crop, workers, count
        self.under_way: dict[bytes, Future[Prepared]] = {}
        self.kept: OrderedDict[bytes, Future[Prepared]] = OrderedDict()
        self.lock = threading.Lock()

    def is_prepared(self, picture: Picture) -> bool:
        """Whether a picture is as our own client sends it, and costs next to nothing."""
        if isinstance(picture, bytes):
            return is_plain(picture)
        return picture.shape[:2] == (self.size, self.size)

    def prepare(self, picture: Picture) -> Future[Prepared]:
        """The picture as the encoder sees it, now or later; RequestError for one that cannot be decoded."""
        if self.is_prepared(picture):
            # pixels of this size are what `load` would give
            if not isinstance(picture, bytes):
                return _done(lambda: picture)
            return _done(lambda: images.load(picture, self.size, self.crop))
        if not isinstance(picture, bytes):
            # pixels are about sixteen times their file
            return self.workers.submit(
                load_of(picture.nbytes / 16), lambda: images.load(picture, self.size, self.crop)
            )
        key = hashlib.blake2b(picture, digest_size=32).digest() if self.count else picture
        with self.lock:
            if found := self.kept.pop(key, None):
                self.kept[key] = found
                return found
            if found := self.under_way.get(key):
                return found
            self.under_way[key] = self.workers.submit(load_of(len(picture)), lambda: self._load(key, picture))
            return self.under_way[key]

    def _load(self, key: bytes, picture: bytes) -> Prepared:
        prepared = None
        try:
            prepared = images.load(picture, self.size, self.crop)
        finally:  # before anybody has the answer: what comes next finds the picture kept
            with self.lock:
                future = self.under_way.pop(key)
                if self.count and prepared is not None:
                    self.kept[key] = future
                    if len(self.kept) > self.count:
                        self.kept.popitem(last=False)
        return prepared


def _done(work: Callable[[], Prepared]) -> Future[Prepared]:
    """What `work` gives, at once."""
    future: Future[Prepared] = Future()
    try:
        future.set_result(work())
    except RequestError as error:
        future.set_exception(error)
    return future


def distinct_pictures(rows: Sequence[Picture] | NDArray[np.uint8]) -> tuple[list[Picture], NDArray[np.int64]]:
    """The different ones in the order in which they come, and which one each row shows."""
    if len(rows) == 1:
        return [rows[0]], np.zeros(1, np.int64)
    first: dict[bytes, int] = {}  # picture -> its position among the distinct ones
    row = [first.setdefault(each if isinstance(each, bytes) else each.tobytes(), len(first)) for each in rows]
    return [rows[row.index(position)] for position in range(len(first))], np.array(row, np.int64)


def raw_files(column: NDArray[np.object_]) -> list[bytes]:
    """The file of each row; an empty one after the first shows what the row before it does."""
    found: list[bytes] = []
    for file in column:
        found.append(found[-1] if found and not file else _raw(file))
    return found


def _raw(file: bytes) -> bytes:
    """The bytes of a picture file, also when they came as text: JSON has no other way to carry them."""
    return file if images.sniff(file) else images.from_text(file) or file
