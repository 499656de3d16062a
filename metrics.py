"""The field's measures of predicted faces: vertex errors, dynamics, jitter, mouth opening, sync.

The vertex metrics are those of CodeTalker's evaluation, which FaceDiffuser, ScanTalk and
DiffSpeaker also use: lip vertex error (LVE), upper-face dynamics deviation (FDD), mean vertex error
(MVE). Scores are comparable only for the same region (vertex indices) and the same unit.

All functions are pure. Meshes are numpy arrays (T, V, 3), T frames of V vertices in one unit; sums
are accumulated in float64. To score folders of .npy predictions of any method:

    python metrics.py --pred DIR --truth DIR --regions lips=FILE upper=FILE --templates FILE
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray

BILABIALS = ("p", "b", "m")  # phones with closed lips
CLOSED_M = 0.0012  # metres between the inner lips of a closed mouth, at most; 6 % of an open jaw
STATIC_RATIO = 0.01  # of the lips' width: lips whose motion is smaller are static
STATIC_SHARE = 0.25  # of the true lips' motion: predictions that move more are not static
MAX_LAG_S = 0.5  # seconds, the largest sync offset that is searched
FRAME_BLOCK = 64  # frames converted to float64 at a time


def lip_errors(prediction: NDArray, truth: NDArray, lips: NDArray) -> NDArray[np.float64]:
    """The largest squared L2 distance of a lip vertex in every frame: (T,), unit squared.

    prediction, truth: (T, V, 3); lips: (L,) vertex indices.
    """
    _check_same(prediction, truth)
    difference = prediction[:, lips].astype(np.float64) - truth[:, lips]
    return np.square(difference).sum(axis=2).max(axis=1)


def lip_vertex_error(prediction: NDArray, truth: NDArray, lips: NDArray) -> float:
    """LVE of one clip: mean over frames of the largest squared distance of a lip vertex.

    prediction, truth: (T, V, 3); lips: (L,) vertex indices. Unit squared. For several clips, pool
    the frames of all of them, as `pool` does.
    """
    return float(lip_errors(prediction, truth, lips).mean())


def mean_vertex_errors(prediction: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """The mean L2 distance of all vertices in every frame: (T,), in the unit of the vertices.

    prediction, truth: (T, V, 3).
    """
    _check_same(prediction, truth)
    errors = np.empty(len(truth))
    for start in range(0, len(truth), FRAME_BLOCK):
        block = slice(start, start + FRAME_BLOCK)
        difference = prediction[block].astype(np.float64) - truth[block]
        errors[block] = np.sqrt(np.square(difference).sum(axis=2)).mean(axis=1)
    return errors


def mean_vertex_error(prediction: NDArray, truth: NDArray) -> float:
    """MVE of one clip: mean over frames and vertices of the L2 distance, unit of the vertices.

    prediction, truth: (T, V, 3).
    """
    return float(mean_vertex_errors(prediction, truth).mean())


def errors_by_vertex(prediction: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """The mean L2 distance of every vertex over the frames: (V,), in the unit of the vertices.

    prediction, truth: (T, V, 3). The mean of the result is the clip's MVE.
    """
    _check_same(prediction, truth)
    total = np.zeros(truth.shape[1])
    for start in range(0, len(truth), FRAME_BLOCK):
        block = slice(start, start + FRAME_BLOCK)
        difference = prediction[block].astype(np.float64) - truth[block]
        total += np.sqrt(np.square(difference).sum(axis=2)).sum(axis=0)
    return total / len(truth)


def motion_statistics(clips: Iterable[NDArray]) -> NDArray[np.float64]:
    """Mean and standard deviation of the distance that a vertex moves in a frame: (2, V).

    clips: meshes (T, V, 3), in whose unit the result is; the frames of all clips are pooled. These
    are the "temporal statistics" that CodeTalker draws (https://arxiv.org/abs/2301.02379).
    Raises `ValueError` where no clip has two frames.
    """
    total, squares, count = 0.0, 0.0, 0
    for vertices in clips:
        for start in range(0, len(vertices) - 1, FRAME_BLOCK):
            block = vertices[start : start + FRAME_BLOCK + 1].astype(np.float64)
            distances = np.sqrt(np.square(np.diff(block, axis=0)).sum(axis=2))  # (n, V)
            total, squares = total + distances.sum(axis=0), squares + (distances**2).sum(axis=0)
            count += len(distances)
    if not count:
        raise ValueError("motion: expected a clip of two frames or more")
    mean = total / count
    return np.stack([mean, np.sqrt(np.maximum(squares / count - mean**2, 0.0))])


def upper_face_dynamics(vertices: NDArray, template: NDArray, upper: NDArray) -> float:
    """Mean over upper-face vertices of the std over time of ‖v - template‖², unit squared.

    vertices: (T, V, 3); template: (V, 3); upper: (U,) vertex indices.
    """
    offsets = vertices[:, upper].astype(np.float64) - template[upper]
    return float(np.square(offsets).sum(axis=2).std(axis=0).mean())


def upper_face_dynamics_deviation(
    prediction: NDArray, truth: NDArray, template: NDArray, upper: NDArray
) -> float:
    """FDD of one clip, signed: dynamics of the truth minus those of the prediction.

    prediction, truth: (T, V, 3); template: (V, 3); upper: (U,) vertex indices. Positive when the
    prediction moves less. Its absolute value, averaged over clips, is FaceDiffuser's "abs FDD".
    """
    _check_same(prediction, truth)
    return upper_face_dynamics(truth, template, upper) - upper_face_dynamics(
        prediction, template, upper
    )


def motionless(template: NDArray, frames: int) -> NDArray:
    """The baseline that never moves: `template` (V, 3) repeated as (frames, V, 3), read-only."""
    return np.broadcast_to(template, (frames, *template.shape))


def jitter(vertices: NDArray, fps: int) -> float:
    """Mean norm of the vertices' acceleration, unit/s²; compare it with that of the truth.

    vertices: (T, V, 3), T > 2.
    """
    if len(vertices) < 3:
        raise ValueError(f"{len(vertices)} frames, expected at least 3 for an acceleration")
    total = 0.0
    for start in range(0, len(vertices) - 2, FRAME_BLOCK):
        block = vertices[start : start + FRAME_BLOCK + 2]  # blocks overlap by two frames
        acceleration = np.diff(block.astype(np.float64), n=2, axis=0) * fps**2
        total += float(np.sqrt(np.square(acceleration).sum(axis=2)).mean(axis=1).sum())
    return total / (len(vertices) - 2)


def motion_std(vertices: NDArray, region: NDArray) -> float:
    """Root mean square distance of a region's vertices from their mean positions over time.

    vertices: (T, V, 3); region: vertex indices.
    """
    selected = vertices[:, region].astype(np.float64)
    return float(np.sqrt(np.square(selected - selected.mean(axis=0)).sum(axis=2).mean()))


def is_static(vertices: NDArray, lips: NDArray) -> bool:
    """Whether the lips move by less than a hundredth of their width.

    That is correct for a silent clip; otherwise the scale is wrong or the training failed.
    """
    width = np.ptp(vertices[:, lips].mean(axis=0), axis=0).max()
    return motion_std(vertices, lips) < STATIC_RATIO * float(width)


def stays_still(prediction: NDArray, truth: NDArray, lips: NDArray) -> bool:
    """Whether predicted lips are static while the true lips move at least four times as much.

    prediction, truth: (T, V, 3). The factor of four is for clips of little motion: there, true lips
    may move by slightly more than the limit of `is_static` and a good prediction by slightly less.
    """
    if is_static(truth, lips) or not is_static(prediction, lips):
        return False
    return motion_std(prediction, lips) <= STATIC_SHARE * motion_std(truth, lips)


def _check_same(prediction: NDArray, truth: NDArray) -> None:
    if prediction.shape != truth.shape or prediction.ndim != 3 or len(truth) == 0:
        raise ValueError(
            f"prediction {prediction.shape} and truth {truth.shape}: expected one shape (T, V, 3)"
        )


def mouth_opening(
    vertices: NDArray, upper_inner: int | Sequence[int], lower_inner: int | Sequence[int]
) -> NDArray[np.float64]:
    """Height of the gap between the inner lips: (T,), negative where they overlap.

    vertices: (T, V, 3) with y up. upper_inner, lower_inner: vertices that touch when the mouth is
    closed; of several vertices the mean height is used.
    """
    height = vertices[:, :, 1].astype(np.float64)
    upper, lower = np.atleast_1d(upper_inner), np.atleast_1d(lower_inner)
    return height[:, upper].mean(axis=1) - height[:, lower].mean(axis=1)


def mouth_opening_correlation(prediction: NDArray, truth: NDArray) -> float:
    """Pearson's r of two openings (T,); NaN when one of them is constant."""
    _check_openings(prediction, truth)
    a = prediction.astype(np.float64) - prediction.mean(dtype=np.float64)
    b = truth.astype(np.float64) - truth.mean(dtype=np.float64)
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def closures(
    opening: NDArray,
    segments: Iterable[tuple[str, float, float]],
    threshold: float,
    fps: int,
    phones: Sequence[str] = BILABIALS,
) -> NDArray[np.bool_]:
    """Whether the mouth closes in each segment of one of `phones`: (N,) bool.

    opening: (T,), frame t at t / fps seconds. segments: (phone, start_s, end_s). The mouth closes
    when the smallest opening of the segment's frames is at most `threshold`. One frame on either
    side counts as well, because a closure may be shorter than a frame. Segments that begin after
    the last frame are skipped.
    """
    closed = []
    for phone, start_s, end_s in segments:
        first, last = int(np.floor(start_s * fps)), int(np.ceil(end_s * fps))
        if phone in phones and first < len(opening):
            closed.append(opening[first : last + 1].min() <= threshold)
    return np.array(closed, dtype=bool)


def lip_sync_offset_ms(prediction: NDArray, truth: NDArray, fps: int) -> float:
    """Milliseconds by which the predicted opening is late (< 0: early); NaN when one is constant.

    prediction, truth: openings (T,). The lag of the largest Pearson correlation over the overlap,
    refined below a frame by a parabola through the maximum and its neighbours.
    """
    _check_openings(prediction, truth)
    # At least half of the clip has to overlap: a few frames may correlate by chance.
    largest = min(int(MAX_LAG_S * fps), len(truth) // 2)
    lags = np.arange(-largest, largest + 1)
    scores = np.array([_correlation_at(prediction, truth, int(lag)) for lag in lags])
    if np.isnan(scores).all():
        return float("nan")
    best = int(np.nanargmax(scores))
    shift = 0.0
    if 0 < best < len(lags) - 1 and not np.isnan(scores[best - 1 : best + 2]).any():
        before, peak, after = scores[best - 1 : best + 2]
        curvature = before - 2 * peak + after
        shift = 0.5 * (before - after) / curvature if curvature < 0 else 0.0
    return float((lags[best] + shift) * 1000 / fps)


def _check_openings(prediction: NDArray, truth: NDArray) -> None:
    if prediction.shape != truth.shape or prediction.ndim != 1:
        raise ValueError(f"openings {prediction.shape}, {truth.shape}: expected one shape (T,)")


def _correlation_at(prediction: NDArray, truth: NDArray, lag: int) -> float:
    """Pearson's r of prediction[t + lag] and truth[t]."""
    n = len(truth) - abs(lag)
    if n < 3:
        return float("nan")
    late, early = max(lag, 0), max(-lag, 0)
    return mouth_opening_correlation(prediction[late : late + n], truth[early : early + n])


@dataclass(frozen=True)
class Scores:
    """Vertex metrics of a set of clips; None where a region or template for it is missing.

    lve (unit²) and mve (unit) are means over the frames of all clips; fdd and abs_fdd (unit²) are
    means over clips.
    """

    lve: float | None
    fdd: float | None
    abs_fdd: float | None
    mve: float
    frames: int
    clips: int


@dataclass(frozen=True)
class ClipScores:
    """Vertex metrics of one clip: means over its frames, and its signed FDD."""

    lve: float | None
    fdd: float | None
    mve: float
    frames: int


def score_clip(
    prediction: NDArray,
    truth: NDArray,
    template: NDArray | None = None,
    lips: NDArray | None = None,
    upper: NDArray | None = None,
) -> ClipScores:
    """The vertex metrics of one clip; None where a region or template for it is missing.

    prediction, truth: (T, V, 3); template: (V, 3); lips, upper: vertex indices.
    """
    fdd = None
    if upper is not None and template is not None:
        fdd = upper_face_dynamics_deviation(prediction, truth, template, upper)
    return ClipScores(
        lve=None if lips is None else lip_vertex_error(prediction, truth, lips),
        fdd=fdd,
        mve=mean_vertex_error(prediction, truth),
        frames=len(truth),
    )


def pool(clips: Sequence[ClipScores]) -> Scores:
    """The scores of a set of clips. Raises `ValueError` when there are none."""
    if not clips:
        raise ValueError("no clips to pool")
    frames = sum(clip.frames for clip in clips)
    fdds = [clip.fdd for clip in clips if clip.fdd is not None]

    def over_frames(values: Sequence[float | None]) -> float | None:
        if any(value is None for value in values):
            return None
        return sum(v * clip.frames for v, clip in zip(values, clips, strict=True)) / frames

    return Scores(
        lve=over_frames([clip.lve for clip in clips]),
        fdd=float(np.mean(fdds)) if len(fdds) == len(clips) else None,
        abs_fdd=float(np.mean(np.abs(fdds))) if len(fdds) == len(clips) else None,
        mve=over_frames([clip.mve for clip in clips]),
        frames=frames,
        clips=len(clips),
    )


if __name__ == "__main__":
    from common.errors import run_cli
    from evaluation.score_folders import main

    sys.exit(run_cli(main))
