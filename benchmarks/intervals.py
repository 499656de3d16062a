"""Figures pooled over clips, with bootstrap intervals.

Every figure is a function of sums over clips. An interval resamples the clips with replacement
(Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, percentile method): frames of one
clip are not independent, clips are. The resamples have a fixed seed.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

N_RESAMPLES = 1000
LEVEL = 95  # per cent of the resampled figures that lie in the interval
MAX_LAG = 8  # frames, the largest sync offset that is searched


class Figure(NamedTuple):
    """A pooled figure and its interval; NaN where undefined. One clip has no interval."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


def pooled(function: Callable[[np.ndarray], np.ndarray], rows: Sequence[np.ndarray]) -> Figure:
    """`function` of the sum of the clips' rows; it maps (..., k) sums to (...) figures."""
    if not len(rows):
        return Figure(float("nan"))
    table = np.stack(rows).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(function(table.sum(axis=0)))
        return _with_interval(value, len(table), lambda weights: function(weights @ table))


def auc(lower: Sequence[np.ndarray], higher: Sequence[np.ndarray]) -> Figure:
    """P(a value of `lower` is below one of `higher`); a tie counts one half.

    lower, higher: the values of each clip, in the same order of clips.
    """
    counts = np.array([[len(a), len(b)] for a, b in zip(lower, higher, strict=True)]).reshape(-1, 2)
    if not counts.sum(axis=0).all():
        return Figure(float("nan"))
    difference = np.concatenate(higher)[None] - np.concatenate(lower)[:, None]
    wins = (difference > 0) + 0.5 * (difference == 0)
    clips = np.arange(len(counts))
    from_lower, from_higher = (
        (np.repeat(clips, n)[:, None] == clips).astype(np.float64) for n in counts.T
    )
    by_clip = from_lower.T @ wins @ from_higher  # (clips, clips)

    def share(weights: np.ndarray) -> np.ndarray:
        pairs = (weights @ counts).prod(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return ((weights @ by_clip) * weights).sum(axis=-1) / pairs

    return _with_interval(float(share(np.ones(len(counts)))), len(counts), share)


def _with_interval(
    value: float, n_clips: int, figures: Callable[[np.ndarray], np.ndarray]
) -> Figure:
    if n_clips < 2:
        return Figure(value)
    samples = figures(_weights(n_clips))
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return Figure(value)
    low, high = np.percentile(samples, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return Figure(value, float(low), float(high))


@cache
def _weights(n_clips: int) -> np.ndarray:
    """How often each clip is drawn in each resample: (N_RESAMPLES, n_clips)."""
    rng = np.random.default_rng(0)
    return rng.multinomial(n_clips, np.full(n_clips, 1 / n_clips), N_RESAMPLES).astype(np.float64)


def moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sums of two tracks (T,) for `correlation` and `amplitude`: (6,)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.array([len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y])


def correlation(sums: np.ndarray) -> np.ndarray:
    """Pearson correlation from sums (..., 6) of `moments`; NaN when either side is constant."""
    var_x, var_y, covariance = _variances(sums)
    return covariance / np.sqrt(var_x * var_y)


def amplitude(sums: np.ndarray) -> np.ndarray:
    """Standard deviation of x over that of y from sums (..., 6) of `moments`."""
    var_x, var_y, _ = _variances(sums)
    return np.sqrt(np.nan_to_num(var_x) / var_y)


def _variances(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances and covariance; a variance below (1e-6)² plus rounding errors is NaN."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    var_x, var_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
    tiny_x, tiny_y = 1e-12 + 1e-12 * xx / n, 1e-12 + 1e-12 * yy / n
    var_x, var_y = np.where(var_x > tiny_x, var_x, np.nan), np.where(var_y > tiny_y, var_y, np.nan)
    return var_x, var_y, xy / n - x * y / n**2


def ratio(sums: np.ndarray) -> np.ndarray:
    """First sum over second: (..., 2) to (...)."""
    return sums[..., 0] / sums[..., 1]


def cross_correlation(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Products of two tracks (T,) at lags from -MAX_LAG to MAX_LAG frames, for `lag`."""
    lags = range(-MAX_LAG, MAX_LAG + 1)
    if len(reference) <= 2 * MAX_LAG:
        return np.zeros(len(lags))
    inner = slice(MAX_LAG, len(reference) - MAX_LAG)
    x = predicted - predicted.mean()
    y = reference[inner] - reference[inner].mean()
    return np.array([np.dot(x[inner.start + lag : inner.stop + lag], y) for lag in lags])


def lag(sums: np.ndarray) -> np.ndarray:
    """Lag in frames with the largest cross-correlation, by a parabola: (..., lags) to (...)."""
    best = sums.argmax(axis=-1)
    inner = np.clip(best, 1, sums.shape[-1] - 2)
    before, peak, after = (
        np.take_along_axis(sums, (inner + k)[..., None], -1)[..., 0] for k in (-1, 0, 1)
    )
    curvature = before - 2 * peak + after
    curvature = np.where((best == inner) & (curvature < 0), curvature, -np.inf)
    shift = 0.5 * (before - after) / curvature  # 0 at the first and the last lag
    return np.where(sums.any(axis=-1), best + shift - MAX_LAG, np.nan)
