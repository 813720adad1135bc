"""What runs a pipeline, and why: read from the sessions that opened, not from what was asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# For programs that embed this package: INFO the route of a pipeline, WARNING a fall-back. Silent by default.
LOG = logging.getLogger("icgan")
LOG.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Route:
    """The parts that run a pipeline; None is what a server keeps to itself.

    `str(route)` is one line. Where encoder and generator differ, a value names both.
    """

    backend: str  # one of backends.select.BACKENDS, or "triton" for a server
    provider: str | None  # what computes: "CPUExecutionProvider", "CPU" of OpenVINO, "TensorRT 10.14 on sm90"
    precision: str | None  # of the graphs
    search: str | None  # how neighbours are found
    threads: int | None  # per graph; 0 leaves it to the backend
    reasons: Mapping[str, str]  # name of a part -> why it is so
    url: str | None = None  # of the server
    protocol: str | None = None  # "gRPC" or "HTTP", and shared memory if pictures pass through it

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: all parts and their reasons."""
        return asdict(self) | {"reasons": dict(self.reasons)}

    def __str__(self) -> str:
        if self.url is not None:
            return f"{self.backend} server {self.url}, {self.protocol} ({self.reasons['backend']})"
        parts = {
            "backend": self.backend,
            "provider": f"on {self.provider}",
            "precision": str(self.precision),
            "search": f"search {self.search}",
            "threads": f"threads {self.threads}",
        }
        return ", ".join(f"{text} ({self.reasons[name]})" for name, text in parts.items())


def agreed(values: Mapping[str, str]) -> str:
    """The one value of all graphs, or each graph's own."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{role} {value}" for role, value in values.items())
