"""The bounds that every export must meet against torch in float32, one row for each; see docs/export.md.

Pictures are compared in [-1, 1]: one grey level is 2/255, and rounding to bytes can turn 1e-6 into one
level.
Embeddings in bfloat16 are held to the bounds of INT8, because they have eight significant bits, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from icgan_export.lower.half import LARGEST_HALF

# What is measured, as reports and the manifest name it.
MAX_ERROR = "max error"
COSINE = "cosine, worst row"
RECALL = "recall@1 on the bank"
PSNR = "PSNR, dB"
FID_CHANGE = "FID, change"
LARGEST_ACTIVATION = "largest activation"
NEAREST = "nearest agrees"
SCORE_ERROR = "scores, max error"


@dataclass(frozen=True)
class Bound:
    """`limit` is the most, or with `at_least` the least, that `measure` may be."""

    stage: str  # encoder, lookup, generator, or chain: encoder and generator one after the other
    precision: str
    measure: str
    limit: float
    at_least: bool = False


BOUNDS = (
    Bound("encoder", "fp32", MAX_ERROR, 1e-4),
    Bound("encoder", "fp32", COSINE, 0.999999, at_least=True),
    Bound("encoder", "fp32", RECALL, 1.0, at_least=True),
    Bound("encoder", "fp16", COSINE, 0.9995, at_least=True),
    Bound("encoder", "fp16", RECALL, 0.99, at_least=True),
    Bound("encoder", "fp16", LARGEST_ACTIVATION, LARGEST_HALF),
    Bound("encoder", "bf16", COSINE, 0.99, at_least=True),
    Bound("encoder", "bf16", RECALL, 0.95, at_least=True),
    Bound("encoder", "int8", COSINE, 0.99, at_least=True),
    Bound("encoder", "int8", RECALL, 0.95, at_least=True),
    Bound("lookup", "fp32", NEAREST, 1.0, at_least=True),
    Bound("lookup", "fp32", SCORE_ERROR, 1e-4),
    Bound("generator", "fp32", MAX_ERROR, 1e-4),
    Bound("generator", "fp16", PSNR, 40.0, at_least=True),
    Bound("generator", "fp16", FID_CHANGE, 0.1),
    Bound("generator", "fp16", LARGEST_ACTIVATION, LARGEST_HALF),
    Bound("generator", "bf16", PSNR, 40.0, at_least=True),
    Bound("generator", "bf16", FID_CHANGE, 0.1),
    Bound("generator", "int8", PSNR, 25.0, at_least=True),
    Bound("generator", "int8", FID_CHANGE, 1.0),
    Bound("chain", "fp16", PSNR, 40.0, at_least=True),
    Bound("chain", "bf16", PSNR, 40.0, at_least=True),
    Bound("chain", "int8", PSNR, 25.0, at_least=True),
)
_BY_NAME = {(bound.stage, bound.precision, bound.measure): bound for bound in BOUNDS}


def find_bound(stage: str, precision: str, measure: str) -> Bound | None:
    """The bound, or None for what is reported and not judged."""
    return _BY_NAME.get((stage, precision, measure))


def limit(stage: str, precision: str, measure: str) -> float:
    """The limit of a bound that there is. Raises KeyError where there is none."""
    return _BY_NAME[stage, precision, measure].limit
