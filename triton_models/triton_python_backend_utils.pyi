"""What the server's python backend gives a model.py, as far as these use it; the server brings the module."""

from collections.abc import Sequence
from typing import Any, ClassVar

from numpy.typing import NDArray

TRITONSERVER_MEMORY_CPU: int

class PreferredMemory:
    def __init__(self, memory_type: int, memory_id: int) -> None: ...

class InferenceRequest:
    def __init__(
        self,
        model_name: str,
        requested_output_names: Sequence[str],
        inputs: Sequence[Tensor],
        request_id: str = ...,
        model_version: int = ...,
        preferred_memory: PreferredMemory = ...,
    ) -> None: ...
    def requested_output_names(self) -> Sequence[str]: ...
    def request_id(self) -> str: ...
    def exec(self) -> InferenceResponse: ...

class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None: ...
    def as_numpy(self) -> NDArray[Any]: ...

class TritonError(Exception):
    INVALID_ARG: ClassVar[int]
    UNAVAILABLE: ClassVar[int]
    def __init__(self, message: str, code: int = ...) -> None: ...

class InferenceResponse:
    def __init__(
        self, output_tensors: Sequence[Tensor] | None = None, error: TritonError | None = None
    ) -> None: ...

class Metric:
    def increment(self, value: float) -> None: ...
    def observe(self, value: float) -> None: ...

class MetricFamily:
    COUNTER: ClassVar[int]
    HISTOGRAM: ClassVar[int]
    def __init__(self, name: str, description: str, kind: int) -> None: ...
    def Metric(self, labels: dict[str, str], buckets: list[float] = ...) -> Metric: ...  # noqa: N802

def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None: ...
