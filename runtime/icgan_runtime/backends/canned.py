"""A session that computes nothing: prepared answers for tests of everything around a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from icgan_runtime.backends.base import Array, ClosesOnExit, check_feeds, check_finite
from icgan_runtime.bundle.manifest import TensorSpec


class CannedSession(ClosesOnExit):
    """Answers with `reply(feeds)` and keeps every feed in `calls`."""

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        reply: Callable[[Mapping[str, Array]], dict[str, Array]],
    ) -> None:
        self.name = self.backend = self.provider = "canned"
        self.inputs = inputs
        self.outputs = outputs
        self.calls: list[dict[str, Array]] = []
        self._reply = reply

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        check_feeds(self.name, self.inputs, feeds)
        self.calls.append(dict(feeds))
        outputs = self._reply(feeds)
        check_finite(self.name, outputs)
        return outputs
