"""A canary through the whole chain, and the reloading of models that it finds dead.

When a Python process of the server dies, the server stays "ready" and answers every request for that model
with an error, for ever. Only a real request shows it (or a look at its processes, from the same machine), and
only unloading and loading the model cures it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from icgan_runtime.errors import ServiceError, UnavailableError
from icgan_runtime.refusals import OVERLOAD
from icgan_runtime.server.models import CANARY_MODEL
from icgan_runtime.server.process import Server

ENDING_S = 0.5  # how long the server may take to clear up after a process that it has ended

CANARY_NAME = "canary.json"  # written into the repository by `icgan-export triton`

# "Stub process 'icgan_lookup_0_0' is not healthy.": model, device and number of the instance
_DEAD = re.compile(r"'(\w+)_\d+_\d+'")


class Watchdog:
    """Checks a server every `period_s` in a thread of its own, while the `with` block runs."""

    def __init__(
        self,
        server: Server,
        report: Callable[[str], None] = print,
        period_s: float = 1,
        timeout_s: float = 30,
    ) -> None:
        self._server, self._report = server, report
        self._period_s, self._timeout_s = period_s, timeout_s
        self._canary = json.loads((server.repository / CANARY_NAME).read_text())
        self._alive: dict[int, str] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def check(self) -> list[str]:
        """Look for dead processes, then send one canary; returns the models that were loaded again.

        Raises ServiceError when the chain fails for a reason that loading a model does not cure.
        """
        dead = self._models_without_process()
        if not dead:
            path = f"v2/models/{CANARY_MODEL}/generate"
            try:
                self._server.call(path, self._canary, timeout_s=self._timeout_s)
            except UnavailableError:
                return []  # overloaded, or on its way out: neither is cured by loading a model again
            except ServiceError as error:
                if OVERLOAD.search(str(error)):
                    return []  # the `generate` API says 400 to these too
                dead = self._models_named(str(error))
                if not dead:
                    raise
        for model in dead:
            self._server.unload(model)
        for model in dead:
            self._server.load(model)
        if dead:
            self._models_without_process()  # a process just replaced is not reported again
        return dead

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._period_s):
            started = time.monotonic()
            try:
                reloaded = self.check()
            except ServiceError as error:
                self._report(f"watchdog: {error}")
                continue
            if reloaded:
                seconds = time.monotonic() - started
                self._report(f"watchdog: {', '.join(reloaded)} had died and is back after {seconds:.1f} s")

    def _models_without_process(self) -> list[str]:
        """Models with a process that was alive at the last look and is dead now.

        Under load this is seen long before a canary has waited its turn in the queue of the dead. The server
        clears up after a process that it ended itself, as for another release, and not after a dead one.
        """
        alive, now = self._alive, self._server.stages()
        if any(model is None and process in alive for process, model in now.items()):
            self._stopped.wait(ENDING_S)
            now = self._server.stages()
        self._alive = {process: model for process, model in now.items() if model is not None}
        return sorted(
            {alive[process] for process, model in now.items() if model is None and process in alive}
        )

    def _models_named(self, complaint: str) -> list[str]:
        """Models whose process the server calls unhealthy, or that are not loaded at all."""
        if named := _DEAD.findall(complaint):
            return sorted(set(named))
        listed = json.loads(self._server.call("v2/repository/index", {}))
        return sorted({entry["name"] for entry in listed if entry.get("state") != "READY"})
