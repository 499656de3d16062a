"""Motion as morph targets: a clip is its neutral face plus a weighted sum of a few displacements.

`principal_targets` finds the fewest that come near enough. `arkit_targets` takes those that
animation software knows by name. T frames, V vertices, K targets.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.clip import Clip
from export.curves import curves_of, limits, units_of
from export.frames import blocks, template_of, vertices_at

TOLERANCE = 9.9e-5  # metres, just below 0.1 mm: largest distance of any vertex in any frame
SAMPLE = 384  # frames from which the components are computed at first
STILL = 1e-6  # metres; vertices that move less are left out of the components
FIRST = "start"  # name of the target that every frame has
NEGLIGIBLE = 1e-12  # of the largest variance: components below are noise of float32


@dataclass(frozen=True, eq=False)
class MorphTargets:
    """Frame t is the template plus the sum of weights[t, k] · deltas[k].

    names: K. deltas: (K, V, 3) float32, metres. weights: (T, K) float32. error: metres, largest
    distance of a vertex from the clip's.
    """

    names: tuple[str, ...]
    deltas: NDArray[np.float32]
    weights: NDArray[np.float32]
    error: float


def principal_targets(clip: Clip) -> MorphTargets:
    """The fewest principal components of a clip's motion that keep all vertices in `TOLERANCE`.

    Weights are between 0 and 1, as Blender 4.2 and Unity cut off what is outside: the target
    `FIRST` has the weight 1 in all frames and leads from the neutral face to where all other
    weights are at their minimum. The components are those of a sample of the frames. Frames that
    are then too far off join the sample, until there are none. Raises `UserError` for NaN.
    """
    n_frames = len(clip.vertices)
    sample = np.unique(np.linspace(0, n_frames - 1, min(n_frames, SAMPLE)).astype(int))
    while True:
        offsets = _flat(vertices_at(clip, sample.tolist()) - template_of(clip))
        offsets[:, _still(offsets)] = 0.0
        centre = offsets.mean(axis=0)
        axes = _fewest(offsets - centre, _principal_axes(offsets - centre))
        weights, errors = _projected(clip, centre, axes)
        worst = np.argsort(-errors, kind="stable")[: len(sample)]
        missed = worst[errors[worst] > TOLERANCE]
        if not len(np.setdiff1d(missed, sample)):
            break
        sample = np.union1d(sample, missed)
    low, high = weights.min(axis=0), weights.max(axis=0)
    first = centre + low @ axes
    deltas = np.concatenate([first[None], axes * (high - low)[:, None]])
    return MorphTargets(
        names=(FIRST, *(f"component_{k + 1:02d}" for k in range(len(axes)))),
        deltas=deltas.reshape(-1, *clip.template.shape),
        weights=np.concatenate([np.ones_like(weights, shape=(n_frames, 1)),
                                (weights - low) / (high - low)], axis=1),
        error=float(errors.max()),
    )  # fmt: skip


def arkit_targets(clip: Clip) -> MorphTargets:
    """The units of a clip's topology (`units_of`) as targets, with its curves as their weights.

    A unit whose curve may exceed 1 ("tongueUp", 1.5) is enlarged to that, so that weights are
    between 0 and 1. Turns of the head (`Clip.rotations`) are left out: no unit turns it.
    Raises `UserError` as `curves_of`.
    """
    curves = curves_of(clip)
    names, basis_mm = units_of(clip)
    values = curves.values[:, : len(names)]
    largest = limits(names).astype(np.float32)
    return MorphTargets(
        names=names,
        deltas=(1e-3 * basis_mm * largest[:, None, None]).astype(np.float32),
        weights=values / largest,
        error=1e-3 * curves.worst_mm,
    )


def _flat(offsets: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, V, 3) -> (N, V·3)."""
    return offsets.reshape(len(offsets), -1)


def _still(flat: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(V·3,) whether a coordinate belongs to a vertex that moves less than `STILL`."""
    lengths = np.linalg.norm(flat.reshape(len(flat), -1, 3), axis=2)
    return np.repeat(lengths.max(axis=0) < STILL, 3)


def _principal_axes(flat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Orthonormal axes (n, V·3) of vectors (N, V·3), largest variance first."""
    flat = flat.astype(np.float64)
    variances, vectors = np.linalg.eigh(flat @ flat.T)
    kept = variances > NEGLIGIBLE * max(variances[-1], 0.0)
    axes = (vectors[:, kept][:, ::-1].T @ flat) / np.sqrt(variances[kept][::-1, None])
    # The small ones are not quite at right angles yet; coordinates that are 0 stay so.
    return np.linalg.solve(np.linalg.cholesky(axes @ axes.T), axes).astype(np.float32)


def _fewest(flat: NDArray[np.float32], axes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first of the axes (n, V·3) that bring vectors (N, V·3) within `TOLERANCE`."""
    weights = flat @ axes.T
    low, high = 0, len(axes)
    while low < high:
        middle = (low + high) // 2
        error = _distances(flat - weights[:, :middle] @ axes[:middle]).max()
        low, high = (low, middle) if error <= TOLERANCE else (middle + 1, high)
    return axes[:high]


def _projected(
    clip: Clip, centre: NDArray[np.float32], axes: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(weights (T, n), largest distance of a vertex in each frame (T,) in metres)."""
    template, weights, errors = template_of(clip), [], []
    for block in blocks(clip):
        flat = _flat(block - template) - centre
        weights.append(flat @ axes.T)
        errors.append(_distances(flat - weights[-1] @ axes))
    return np.concatenate(weights), np.concatenate(errors)


def _distances(flat: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) the longest of the vectors in each row of (N, V·3)."""
    return np.linalg.norm(flat.reshape(len(flat), -1, 3), axis=2).max(axis=1)
