"""Where TensorRT says what went wrong; the library itself is handed in by those that import it."""

from __future__ import annotations

import functools
from typing import Any


def quiet_logger(trt: Any) -> Any:
    """The logger of this process for `tensorrt` or `tensorrt_rtx`, its `last_error` forgotten.

    There is one: while a builder or a runtime lives, the library reports to the logger that came with the
    first of them, and ignores the logger of any other.
    """
    logger = _logger(trt)
    logger.last_error = "no reason given"
    return logger


@functools.cache
def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        """Keeps the last error, prints nothing: what fails is raised."""

        last_error: str

        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.last_error = " ".join(message.split())

    return Logger()
