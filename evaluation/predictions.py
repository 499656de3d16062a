"""Folders of anybody's predicted vertices, paired with captured ones and read.

Predictions and truth are .npy files of (T, V*3) or (T, V, 3), T frames of V vertices.
"""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from files.arrays import load_npy
from files.meshes import load_region

LENGTH_TOLERANCE = 0.15  # of a clip: how far prediction and decimated truth may differ in length
LARGEST_STEP = 2  # VOCASET's 60 fps against 30; fewer frames than that are a clip cut short
CLEAR = 0.1  # correlations of motion that differ by less do not tell two readings apart
FIT_VERTICES = 500  # enough of a mesh for that
FAR = 0.1  # of the face's diagonal: no mean error of a face over itself is as large


@dataclass(frozen=True)
class Pair:
    """A predicted clip and the truth it is compared with; `name` is the truth's."""

    name: str
    prediction: Path
    truth: Path


def find_pairs(pred: Path, truth: Path) -> list[Pair]:
    """Every .npy under `pred` with the file of `truth` whose name it carries, sorted.

    A prediction is named like its truth (SelfTalk, ScanTalk), perhaps with something before or
    behind it, such as the "_condition_<subject>" of FaceFormer, CodeTalker and FaceDiffuser. Where
    a clip was predicted in several styles and one of them is its own subject's, that one is scored
    alone, as CodeTalker does; where none is, all are. Raises `UserError` for a prediction without
    truth and for two of one clip and style.
    """
    truths = {path.stem: path for path in _list_npy(truth, "--truth")}
    pairs = [_pair(path, truths) for path in _list_npy(pred, "--pred")]
    own = {pair.name for pair in pairs if _is_own_style(pair)}
    pairs = [pair for pair in pairs if pair.name not in own or _is_own_style(pair)]
    seen: dict[tuple[str, str], Path] = {}
    for pair in pairs:
        first = seen.setdefault((pair.name, _style(pair)), pair.prediction)
        if first != pair.prediction:
            raise UserError(
                f"{pair.prediction} and {first}: both predict {pair.name}; "
                "--pred wants the folder of one method"
            )
    return pairs


def _list_npy(folder: Path, flag: str) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{flag} {folder}: no such folder; wanted one of (T, V*3) .npy arrays")
    paths = sorted(folder.rglob("*.npy"))
    if not paths:
        raise UserError(f"{flag} {folder}: no .npy files in it; wanted a folder of (T, V*3) arrays")
    return paths


def _pair(path: Path, truths: dict[str, Path]) -> Pair:
    name = path.stem.partition("_condition_")[0]
    if name not in truths:
        whole = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])"
        carried = [stem for stem in truths if re.search(whole.format(re.escape(stem)), name)]
        if not carried:
            raise UserError(f"{path}: no truth of that name in the --truth folder")
        name = max(carried, key=len)
    return Pair(name, path, truths[name])


def _style(pair: Pair) -> str:
    return pair.prediction.stem.partition("_condition_")[2]


def _is_own_style(pair: Pair) -> bool:
    return bool(_style(pair)) and pair.name.startswith(f"{_style(pair)}_")


def load_vertices(path: Path) -> NDArray:
    """(T, V, 3), memory-mapped, of an .npy of shape (T, V*3) or (T, V, 3), or (1, ...) of these."""
    stored = load_npy(path, "vertices", mapped=True)
    shape = stored.shape
    if len(shape) == 4 or (len(shape) == 3 and shape[0] == 1 and shape[2] != 3):
        stored = stored[0] if shape[0] == 1 else stored
    if stored.ndim not in (2, 3) or stored.size == 0 or stored[0].size % 3:
        raise UserError(f"{path}: shape {shape}; wanted (T, V*3) or (T, V, 3)")
    return stored.reshape(len(stored), -1, 3)


def truth_step(pairs: Sequence[Pair]) -> int:
    """1, or 2 when the truth has twice the predictions' frame rate (VOCASET: 60 and 30 fps).

    Raises `UserError` naming a clip whose lengths do not agree with the others' or with either.
    """
    counts = [(len(load_vertices(p.prediction)), len(load_vertices(p.truth))) for p in pairs]
    step = statistics.mode(sorted(max(1, round(truth / pred)) for pred, truth in counts))
    for pair, (n_pred, n_truth) in zip(pairs, counts, strict=True):
        if step > LARGEST_STEP and n_truth > LARGEST_STEP * n_pred:
            raise UserError(
                f"{pair.prediction}: {n_pred} frames; its truth has {n_truth}: cut short, or at "
                "another frame rate; wanted the truth's rate or half of it"
            )
        expected = -(-n_truth // step)
        if abs(n_pred - expected) > max(2, LENGTH_TOLERANCE * expected):
            raise UserError(
                f"{pair.prediction}: {n_pred} frames; its truth has {n_truth}, "
                f"{expected} at every frame in {step}: another clip or another frame rate"
            )
    return step


def check_step(pairs: Sequence[Pair], step: int) -> str | None:
    """None where the motion says that the truth has `step` times the frame rate, as the counts do.

    The other reading of half as many frames is a prediction cut short. Each gives a correlation of
    predicted and true motion over all clips: a warning is returned where they do not differ, as for
    a face that never moves, and `UserError` is raised where frames cut short fit clearly better.
    """
    if step == 1:
        return None
    sums = np.zeros((2, 3))  # (sparse, cut) x (covariance, variances)
    for pair in pairs:
        prediction, truth = load_vertices(pair.prediction), load_vertices(pair.truth)
        every = -(-truth.shape[1] // FIT_VERTICES)
        sparse = truth[::step, ::every]
        frames = min(len(prediction), len(sparse))
        motion = _motion(prediction[:frames, ::every])
        for row, meshes in zip(sums, (sparse, truth[:, ::every]), strict=True):
            true_motion = _motion(meshes[:frames])
            row += (
                np.vdot(motion, true_motion),
                np.vdot(motion, motion),
                np.square(true_motion).sum(),
            )
    scales = np.sqrt(sums[:, 1] * sums[:, 2])
    as_sparse, as_cut = sums[:, 0] / np.where(scales > 0, scales, 1.0)
    if as_sparse > as_cut + CLEAR:
        return None
    first = pairs[0]
    n_pred, n_truth = (len(load_vertices(path)) for path in (first.prediction, first.truth))
    counts = f"{first.prediction}: {n_pred} frames; its truth has {n_truth}"
    if as_cut > as_sparse + CLEAR:
        raise UserError(
            f"{counts}, and the motion fits their beginning (r {as_cut:.2f}) better than one frame "
            f"in {step} (r {as_sparse:.2f}): cut short; predict whole clips"
        )
    return f"{counts}: taken as one frame in {step}; if these were cut short, this is wrong"


def _motion(vertices: NDArray) -> NDArray[np.float64]:
    """(T, V, 3) about each vertex's mean place."""
    return vertices - vertices.mean(axis=0, dtype=np.float64)


def is_far(error: float, truth: NDArray) -> bool:
    """Whether a clip's mean vertex error is that of another face than `truth` (T, V, 3)."""
    return error > FAR * float(np.linalg.norm(np.ptp(truth[0].astype(np.float64), axis=0)))


def _check_finite(path: Path, vertices: NDArray) -> None:
    for frame, mesh in enumerate(vertices):
        if not np.isfinite(mesh).all():
            raise UserError(
                f"{path}: NaN or infinite coordinates, first in compared frame {frame}; "
                "wanted numbers"
            )


@dataclass(frozen=True)
class Clip:
    """A pair's meshes over the frames that both have, and what of the regions was given.

    prediction, truth: (T, V, 3) in one unit; template: (V, 3); lips, upper: vertex indices;
    missing: frames of the truth behind the prediction's last.
    """

    prediction: NDArray
    truth: NDArray
    template: NDArray | None
    lips: NDArray | None
    upper: NDArray | None
    missing: int


def read_pair(
    pair: Pair, step: int, regions: dict[str, str], templates: dict[str, NDArray]
) -> Clip:
    """The clip of a pair, one frame in `step` of the truth taken.

    Raises `UserError` when the two differ in vertices or scale, hold NaN, or a region or template
    is wrong.
    """
    prediction, truth = load_vertices(pair.prediction), load_vertices(pair.truth)[::step]
    n_vertices = truth.shape[1]
    if prediction.shape[1] != n_vertices:
        raise UserError(
            f"{pair.prediction}: {prediction.shape[1]} vertices; its truth has {n_vertices}"
        )
    frames = min(len(prediction), len(truth))
    missing = len(truth) - frames
    prediction, truth = prediction[:frames], truth[:frames]
    _check_finite(pair.prediction, prediction)
    _check_finite(pair.truth, truth)
    extents = [float(np.ptp(mesh[0], axis=0).max()) for mesh in (prediction, truth)]
    if not 0.5 * extents[1] < extents[0] < 2 * extents[1]:
        raise UserError(
            f"{pair.prediction}: {extents[0]:.4g} across, its truth {extents[1]:.4g}: another unit"
        )
    chosen = {name: load_region(file, n_vertices, key=name) for name, file in regions.items()}
    template = _template_of(pair, templates, n_vertices) if templates else None
    return Clip(
        prediction=np.asarray(prediction),
        truth=np.asarray(truth),
        template=template,
        lips=chosen.get("lips"),
        upper=chosen.get("upper"),
        missing=missing,
    )


def _template_of(pair: Pair, templates: dict[str, NDArray], n_vertices: int) -> NDArray:
    subjects = [name for name in templates if pair.name.startswith(f"{name}_")]
    if not subjects:
        raise UserError(f"{pair.truth}: no template of its subject; they are {sorted(templates)}")
    template = templates[max(subjects, key=len)]
    if len(template) != n_vertices:
        raise UserError(f"{pair.truth}: {n_vertices} vertices; its template has {len(template)}")
    return template
