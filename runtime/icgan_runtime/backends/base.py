"""What every backend offers: a session that runs one graph."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bundle.manifest import TensorSpec
from icgan_runtime.errors import BackendError, NumericsError

Array = NDArray[Any]


class Session(Protocol):
    """Runs one graph. Used with `with`; after `close` it must not run again.

    The arrays that `run` returns belong to the caller: no later run writes into them.
    """

    @property
    def name(self) -> str:
        """Backend and graph, for messages: "ort-cpu generator.onnx"."""

    @property
    def backend(self) -> str:
        """The one of select.BACKENDS that really runs the graph."""

    @property
    def provider(self) -> str:
        """What the backend computes with: "CPUExecutionProvider", "TensorRT 10.14.1 on sm90"."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the graph takes; a named dimension is dynamic."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the graph gives."""

    @property
    def max_batch(self) -> int | None:
        """Rows that one run takes at most; None: any number."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Raises BackendError for feeds that do not fit `inputs`."""

    def close(self) -> None:
        """Release the graph and its memory."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ClosesOnExit:
    """What sessions share: they close once, and take any number of rows unless they say otherwise."""

    _closed = False

    def __new__(cls, *_: Any, **__: Any) -> Self:
        session = super().__new__(cls)
        _OPEN.add(session)
        return session

    @property
    def max_batch(self) -> int | None:
        """Rows that one run takes at most; None: any number."""
        return None

    def close(self) -> None:
        """Release what the session holds; a second close does nothing."""
        if not self._closed:  # what is freed a second time may be another's by then
            self._closed = True
            self._release()

    def _release(self) -> None:
        """Let go of the graph and its memory; called once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_OPEN: WeakSet[ClosesOnExit] = WeakSet()


def _keep_for_ever() -> None:
    """In a forked process, keep the sessions of its parent from ever being freed.

    To free one is to wait for its threads, and a fork takes no threads along: the process would never end.
    """
    for session in list(_OPEN):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_for_ever)


def run_in_batches(session: Session, feeds: Mapping[str, Array], batch: int) -> dict[str, Array]:
    """Outputs by name for all rows of `feeds`, run `batch` rows at a time. Raises what `session.run` does."""
    count = len(next(iter(feeds.values())))
    parts = [
        session.run({name: array[start : start + batch] for name, array in feeds.items()})
        for start in range(0, count, batch)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check_feeds(session: str, specs: tuple[TensorSpec, ...], feeds: Mapping[str, Array]) -> None:
    """Raise BackendError unless `feeds` has the names, dtypes and shapes of `specs`, with one batch size.

    No rows are refused, and NaN and infinity: runtimes differ in what they make of either. ONNX Runtime draws
    NaN black, OpenVINO an ordinary grey picture.
    """
    if set(feeds) != {spec.name for spec in specs}:
        expected = sorted(spec.name for spec in specs)
        raise BackendError(f"{session}: fed {sorted(feeds)}, expected {expected}")
    sizes: dict[str, int] = {}
    for spec in specs:
        array = feeds[spec.name]
        fits = array.dtype == np.dtype(spec.dtype) and array.ndim == len(spec.shape)
        for want, got in zip(spec.shape, array.shape, strict=False):
            fits = fits and (sizes.setdefault(want, got) if isinstance(want, str) else want) == got
        if not fits:
            shape = ", ".join(
                str(sizes.get(side, side) if isinstance(side, str) else side) for side in spec.shape
            )
            raise BackendError(
                f"{session}: {spec.name} is {array.dtype}{list(array.shape)}, expected {spec.dtype}[{shape}]"
            )
        if not len(array):
            raise BackendError(f"{session}: {spec.name} has no rows, one at least is expected")
        if array.dtype.kind == "f":
            # infinity is a truncation: none
            sound = ~np.isnan(array) if spec.name == "truncation" else np.isfinite(array)
            if not sound.all():
                row = int((~sound.reshape(len(array), -1).all(axis=1)).argmax())
                raise BackendError(f"{session}: row {row} of {spec.name} holds NaN or infinity")


def check_finite(session: str, outputs: Mapping[str, Array]) -> None:
    """Raise NumericsError if a float output holds NaN or infinity, naming the first row that does."""
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
            raise NumericsError(
                f"{session}: {name} holds NaN or infinity in {bad.sum()} of {len(array)} rows, first row "
                f"{int(bad.argmax())}; check the bundle with `icgan info --verify`"
            )
