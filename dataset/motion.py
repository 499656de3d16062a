"""Motion resampled in time, from the frame rate of a capture to that of the network.

Frame t of the result is the instant t / target, position p = t·source / target in the captured
frames x, computed with integers. Where p is a whole number for every t (60 to 30 frames a second),
these frames are taken as they are, as the field does with VOCASET. Elsewhere

    y[t] = Σ_k (c·sinc(c·(p - k)) + q_t(p - k)) · w((p - k) / H) · x[k],   |p - k| < H

c = min(1, target / source) limits the band to half of the lower rate, so that nothing is aliased
where the rate goes down. w is a Kaiser window. H = 8 / c frames; towards the ends of a clip H
shrinks, down to 3, so that frames before the first or after the last are not needed; the band is
limited less there. q_t is the polynomial of degree 2 with which constant, linear and quadratic
motion is exact, at the ends too.
Motion up to 0.7 of that band is exact within 0.3 % of its amplitude. (Windowed sinc:
Smith, "Digital Audio Resampling", https://ccrma.stanford.edu/~jos/resample/.)
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

ZERO_CROSSINGS = 8  # of the sinc, on each side
FEWEST = 3  # captured frames on each side, at the ends of a clip
KAISER_BETA = 6.0  # 60 dB in the stop band
DEGREE = 2  # of the motion that is exact at the ends
BLOCK = 64  # frames of the result computed at once


def resampled_frames(n_frames: int, source: Fraction, target: Fraction | int) -> int:
    """The number of instants t / target that lie between the first and the last captured frame.

    floor((N - 1)·target / source) + 1, computed with integers; 0 of 0. For source = k·target this
    is ceil(N / k).
    """
    step = source / Fraction(target)
    return (n_frames - 1) * step.denominator // step.numerator + 1 if n_frames else 0


def resample_in_time(
    vertices: NDArray,
    source: Fraction,
    target: Fraction | int,
    first: int = 0,
    end: int | None = None,
) -> NDArray[np.float32]:
    """Frames `first` to `end` (not included; None: all) of the motion at `target` frames a second.

    vertices: (N, V, 3) at `source` frames a second, any unit. Returns (end - first, V, 3) float32.
    Vertices that do not move keep their bits. Where the target divides the source, the captured
    frames are returned unchanged.
    """
    step = source / Fraction(target)
    n_out = resampled_frames(len(vertices), source, target)
    end = n_out if end is None else min(end, n_out)
    if step.denominator == 1:
        k = step.numerator
        return np.array(vertices[first * k : end * k : k], dtype=np.float32)
    out = np.empty((max(end - first, 0), *vertices.shape[1:]), np.float32)
    for start in range(first, end, BLOCK):
        stop = min(start + BLOCK, end)
        out[start - first : stop - first] = _block(vertices, step, start, stop)
    return out


@dataclass(frozen=True)
class Motion:
    """The captured vertices (N, V, 3) of a clip, read at `fps` frames a second."""

    captured: NDArray  # memory-mapped, at source_fps
    source_fps: Fraction
    fps: int

    @property
    def frames(self) -> int:
        """The number of frames at `fps`."""
        return resampled_frames(len(self.captured), self.source_fps, self.fps)

    def read(self, start: int, frames: int) -> NDArray[np.float32]:
        """Vertices (frames, V, 3) from frame `start` on, at `fps`; read from disk here."""
        return resample_in_time(self.captured, self.source_fps, self.fps, start, start + frames)


def _block(vertices: NDArray, step: Fraction, start: int, stop: int) -> NDArray[np.float32]:
    """Frames start to stop of the result: a matrix of weights times the frames that they need."""
    matrix, low = _weights(len(vertices), step, start, stop)
    rest = np.asarray(vertices[0], dtype=np.float32)  # subtracted: no rounding where nothing moves
    frames = np.asarray(vertices[low : low + matrix.shape[1]], dtype=np.float32) - rest
    with np.errstate(invalid="ignore", over="ignore"):  # NaN is reported by the caller
        moved = matrix.astype(np.float32) @ frames.reshape(len(frames), -1)
    return moved.reshape(stop - start, *rest.shape) + rest


def _weights(n: int, step: Fraction, start: int, stop: int) -> tuple[NDArray[np.float64], int]:
    """Weights (stop - start, K) of K consecutive captured frames, and the first of these."""
    parts = [divmod(t * step.numerator, step.denominator) for t in range(start, stop)]
    floor = np.array([whole for whole, _ in parts])
    position = floor + np.array([rest / step.denominator for _, rest in parts])
    c = min(1.0, float(1 / step))
    reach = math.ceil(ZERO_CROSSINGS / c)
    low, high = max(floor[0] - reach + 1, 0), min(floor[-1] + reach + 1, n)
    half = np.clip(np.minimum(position, n - 1 - position), FEWEST, reach)[:, None]  # H
    distance = (position[:, None] - np.arange(low, high)) / half  # in units of H
    inside = np.abs(distance) < 1
    window = np.where(inside, np.i0(KAISER_BETA * np.sqrt(np.clip(1 - distance**2, 0, 1))), 0.0)
    window /= np.i0(KAISER_BETA)
    weights = c * np.sinc(c * distance * half) * window
    powers = distance[..., None] ** np.arange(min(DEGREE, n - 1) + 1)
    gram = np.einsum("tk,tkm,tkn->tmn", window, powers, powers)
    missing = np.eye(powers.shape[2])[0] - np.einsum("tk,tkm->tm", weights, powers)
    q = np.linalg.solve(gram, missing[..., None])
    return weights + window * (powers @ q)[..., 0], int(low)
