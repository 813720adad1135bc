"""Runtime side of icgan: run an exported bundle in-process or talk to a server, without torch.

    from icgan_runtime import Pipeline

    with Pipeline.load("bundles/demo") as pipe:
        result = pipe.generate("photo.jpg", n=8, seed=0, truncation=0.7)
        result.save("grid.png")

`Pipeline.connect(url)` does the same with a server, `AsyncPipeline` under asyncio.
"""

from icgan_runtime.async_pipeline import AsyncPipeline
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.drawn import Drawn
from icgan_runtime.errors import IcganError
from icgan_runtime.pipeline import Pipeline
from icgan_runtime.request import Neighbours, Request, Result
from icgan_runtime.route import Route
from icgan_runtime.steer.scorers import onnx_scorer, text_scorer
from icgan_runtime.steer.steered import Steered

__all__ = [
    "AsyncPipeline",
    "Bank",
    "Drawn",
    "IcganError",
    "Neighbours",
    "Pipeline",
    "Request",
    "Result",
    "Route",
    "Steered",
    "__version__",
    "onnx_scorer",
    "text_scorer",
]

__version__ = "0.1.0"
