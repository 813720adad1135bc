"""Seed -> noise: the portable contract, `docs/noise.md`, in numpy.

Sample j of a request with seed s reads the Philox4x64-10 stream of key (s, j). Rows are independent of each
other, so a picture does not depend on the batch it was computed in, nor on the runtime or language.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

MAX_SEED = (1 << 63) - 1
UNTRUNCATED = math.inf  # as a number, `truncation=None`
_BELOW_ONE = 1.0 - 2.0**-53
_DRAW_COUNTER = 1 << 192  # the most significant counter word is 1: blocks that noise never reaches
_PRIOR_COUNTER = 2 << 192  # and 2: the blocks that instances are drawn from


def noise(seeds: ArrayLike, samples: ArrayLike, truncations: ArrayLike, dim_z: int) -> F32:
    """Noise [N, dim_z]; row i belongs to sample `samples[i]` of `seeds[i]` and lies within ±2·truncations[i].

    The three are int64, int64 and float32 of shape [N], or scalars that apply to every row.
    """
    words = philox_words(seeds, samples, dim_z)
    u = uniforms(words)
    return gaussians(u, np.broadcast_to(np.asarray(truncations, np.float32), len(words))).astype(np.float32)


def philox_words(seeds: ArrayLike, samples: ArrayLike, count: int, counter: int = 0) -> U64:
    """The first `count` 64-bit words [N, count] of the streams with keys (seed, sample), from `counter` on.

    `seeds` and `samples` are [N], or scalars that apply to every row; `counter` has 256 bits.
    """
    seeds, samples = np.broadcast_arrays(np.atleast_1d(np.asarray(seeds)), np.asarray(samples))
    keys = np.stack([seeds, samples], axis=-1).astype(np.uint64)
    words = np.empty((len(keys), count), np.uint64)
    # one generator that is set to each row's stream: making one costs four times as much
    stream = np.random.Philox(key=keys[0], counter=counter)
    start = stream.state
    for row, key in enumerate(keys):
        start["state"]["key"] = key
        stream.state = start
        words[row] = stream.random_raw(count)
    return words


def uniforms(words: U64) -> F64:
    """((word >> 11) + 0.5)·2⁻⁵³ in (0, 1); the topmost would round to 1 in doubles and is held below."""
    u: F64 = np.minimum(((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53, _BELOW_ONE)
    return u


def gaussians(u: F64, truncations: F32) -> F64:
    """Standard normal variates [N, d], row i truncated to ±2·truncations[i] (infinity: not at all)."""
    bounds = 2.0 * truncations.astype(np.float64)[:, None]
    known = {b: (normal_cdf(-b), normal_cdf(b)) for b in set(bounds[:, 0].tolist())}
    ends = np.array([known[b] for b in bounds[:, 0].tolist()])
    low, high = ends[:, :1], ends[:, 1:]
    return np.clip(normal_quantile(low + u * (high - low)), -bounds, bounds)


def draw_ranks(seeds: ArrayLike, samples: ArrayLike, k: int) -> I64:
    """For `condition="sample"`: which of the k nearest (0 = nearest) each row draws, int64 [N].

    The draw has counters of its own, so it changes nothing about the noise of the same sample.
    """
    first = philox_words(seeds, samples, 1, _DRAW_COUNTER)[:, 0]
    # integers throughout: 53 bits times k < 2¹¹ fits in 64
    ranks: I64 = (((first >> np.uint64(11)) * np.uint64(k)) >> np.uint64(53)).astype(np.int64)
    return ranks


def prior_words(seeds: ArrayLike, samples: ArrayLike, count: int) -> U64:
    """The words [N, count] from which each row's instance is drawn, where none is given (prior.py)."""
    return philox_words(seeds, samples, count, _PRIOR_COUNTER)


def normal_cdf(x: float) -> float:
    """Φ(x)."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def normal_quantile(p: NDArray[Any]) -> F64:
    """Φ⁻¹(p) for p in (0, 1): algorithm AS 241, routine PPND16 (Wichura 1988), about 16 digits."""
    q = np.asarray(p - 0.5)
    r = 0.180625 - q * q
    result: F64 = np.asarray(q * _ratio(r, _A, _B))
    outer = np.abs(q) > 0.425  # one in seven of a normal's values
    nearer = np.minimum(p, 1.0 - p)[outer]
    distance = np.sqrt(-np.log(nearer))
    tail = _ratio(distance - 1.6, _C, _D)
    if distance.size and distance.max() > 5.0:  # beyond 6.6 sigma
        tail = np.where(distance <= 5.0, tail, _ratio(distance - 5.0, _E, _F))
    result[outer] = np.copysign(tail, q[outer])
    return result


def _ratio(x: F64, above: tuple[float, ...], below: tuple[float, ...]) -> F64:
    """Quotient of two polynomials in x by Horner's rule, coefficients from the constant up."""
    top, bottom = np.full_like(x, above[-1]), np.full_like(x, below[-1])
    for a, b in zip(above[-2::-1], below[-2::-1], strict=True):
        top *= x
        top += a
        bottom *= x
        bottom += b
    top /= bottom
    return top


# Coefficients of AS 241, PPND16: |p − 0.5| ≤ 0.425, then the near tail, then the far tail.
_A = (
    3.3871328727963666080e0,
    1.3314166789178437745e2,
    1.9715909503065514427e3,
    1.3731693765509461125e4,
    4.5921953931549871457e4,
    6.7265770927008700853e4,
    3.3430575583588128105e4,
    2.5090809287301226727e3,
)
_B = (
    1.0,
    4.2313330701600911252e1,
    6.8718700749205790830e2,
    5.3941960214247511077e3,
    2.1213794301586595867e4,
    3.9307895800092710610e4,
    2.8729085735721942674e4,
    5.2264952788528545610e3,
)
_C = (
    1.42343711074968357734e0,
    4.63033784615654529590e0,
    5.76949722146069140550e0,
    3.64784832476320460504e0,
    1.27045825245236838258e0,
    2.41780725177450611770e-1,
    2.27238449892691845833e-2,
    7.74545014278341407640e-4,
)
_D = (
    1.0,
    2.05319162663775882187e0,
    1.67638483018380384940e0,
    6.89767334985100004550e-1,
    1.48103976427480074590e-1,
    1.51986665636164571966e-2,
    5.47593808499534494600e-4,
    1.05075007164441684324e-9,
)
_E = (
    6.65790464350110377720e0,
    5.46378491116411436990e0,
    1.78482653991729133580e0,
    2.96560571828504891230e-1,
    2.65321895265761230930e-2,
    1.24266094738807843860e-3,
    2.71155556874348757815e-5,
    2.01033439929228813265e-7,
)
_F = (
    1.0,
    5.99832206555887937690e-1,
    1.36929880922735805310e-1,
    1.48753612908506148525e-2,
    7.86869131145613259100e-4,
    1.84631831751005468180e-5,
    1.42151175831644588870e-7,
    2.04426310338993978564e-15,
)
