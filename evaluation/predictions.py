"""Reads folders of predicted vertices, of any method, and pairs them with captured ones.

Predictions and truth are .npy files of (T, V*3) or (T, V, 3), T frames of V vertices.
"""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from dataset.motion import resample_in_time, resampled_frames
from files.arrays import load_npy
from files.listing import list_files, plain_name
from files.meshes import load_region

LENGTH_TOLERANCE = 0.15  # relative difference in length of prediction and decimated truth, at most
LARGEST_STEP = 2  # VOCASET's 60 fps against 30; a larger ratio means that a clip was cut short
CLEAR_MARGIN = 0.1  # least difference of two motion correlations that decides between them
# A prediction that has little in common with the truth may follow its beginning by chance. It was
# cut short if it follows the beginning well and the decimated truth badly.
FOLLOWS, DIFFERS = 0.8, 0.5  # motion correlations, at least and at most
HALF_ROUNDING = 1  # frames by which half of a clip's length may be rounded
SURE_CLIPS = 3  # of different lengths, all predicted with half of their frames: half the rate
RATE_DIFFERENCE = 0.02  # relative difference in length, at least, that is another frame rate
RATE_ROUNDING = 1.5  # frames by which lengths differ from a common ratio, at most
FIT_VERTICES = 500  # vertices, at most, for these correlations
FAR = 0.1  # of the face's diagonal, more than any mean vertex error of one face to itself


@dataclass(frozen=True)
class Pair:
    """Files of a predicted clip and of its truth; `name` is the truth's."""

    name: str
    prediction: Path
    truth: Path


def find_pairs(pred: Path, truth: Path) -> list[Pair]:
    """Every .npy under `pred` paired with the file of `truth` that it is named after, sorted.

    A prediction has the name of its truth (SelfTalk, ScanTalk), with or without a prefix or suffix
    such as "_condition_<subject>" (FaceFormer, CodeTalker, FaceDiffuser). If a clip was predicted
    in several styles and one of them is that of its own subject, only that one is scored, as in
    CodeTalker; otherwise all are. Raises `UserError` for a prediction without truth, and for two
    predictions of one clip and style.
    """
    truths = {plain_name(path.stem): path for path in _list_npy(truth, "--truth")}
    pairs = [_pair(path, truths) for path in _list_npy(pred, "--pred")]
    own = {pair.name for pair in pairs if _is_own_style(pair)}
    pairs = [pair for pair in pairs if pair.name not in own or _is_own_style(pair)]
    by_clip: dict[tuple[str, str], Path] = {}
    for pair in pairs:
        first = by_clip.setdefault((pair.name, _style(pair)), pair.prediction)
        if first != pair.prediction:
            raise UserError(
                f"{pair.prediction} and {first}: both predict {pair.name}; "
                "give --pred the folder of one method"
            )
    return pairs


def _list_npy(folder: Path, flag: str) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{flag} {folder}: no such folder, expected one of (T, V*3) .npy files")
    paths = list_files(folder, (".npy",), deep=True)
    if not paths:
        raise UserError(f"{flag} {folder}: no .npy files in it, expected (T, V*3) arrays")
    return paths


def _pair(path: Path, truths: dict[str, Path]) -> Pair:
    name = plain_name(path.stem).partition("_condition_")[0]
    if name not in truths:
        as_word = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])"
        contained = [stem for stem in truths if re.search(as_word.format(re.escape(stem)), name)]
        if not contained:
            raise UserError(
                f"{path}: its name contains no clip name of the --truth folder; rename the file"
            )
        name = max(contained, key=len)
    return Pair(name, path, truths[name])


def _style(pair: Pair) -> str:
    return plain_name(pair.prediction.stem).partition("_condition_")[2]


def _is_own_style(pair: Pair) -> bool:
    return bool(_style(pair)) and pair.name.startswith(f"{_style(pair)}_")


def load_vertices(path: Path) -> NDArray:
    """(T, V, 3), memory-mapped, of an .npy of shape (T, V*3) or (T, V, 3), or (1, ...) of these."""
    stored = load_npy(path, "vertices", mapped=True)
    shape = stored.shape
    if len(shape) == 4 or (len(shape) == 3 and shape[0] == 1 and shape[2] != 3):
        stored = stored[0] if shape[0] == 1 else stored
    if stored.ndim not in (2, 3) or stored.size == 0 or stored[0].size % 3:
        raise UserError(f"{path}: shape {shape}, expected (T, V*3) or (T, V, 3)")
    return stored.reshape(len(stored), -1, 3)


def truth_step(pairs: Sequence[Pair]) -> Fraction:
    """1, or 2 when the truth has twice the predictions' frame rate (VOCASET: 60 and 30 fps).

    Raises `UserError` for a clip whose two lengths fit neither, or not the ratio of the others, and
    if the lengths of all clips show another ratio.
    """
    counts = _counts(pairs)
    step = statistics.mode(sorted(max(1, round(truth / pred)) for pred, truth in counts))
    check_lengths(pairs, Fraction(step))
    expected = np.array([resampled_frames(n_truth, Fraction(step), 1) for _, n_truth in counts])
    predicted = np.array([n_pred for n_pred, _ in counts])
    ratio = predicted.sum() / expected.sum()
    surplus, rest = predicted - expected, predicted - ratio * expected
    is_rate = np.abs(rest).max() <= RATE_ROUNDING and surplus.std() > 2 * rest.std()
    if abs(ratio - 1) > RATE_DIFFERENCE and is_rate:
        raise UserError(
            f"--pred: {ratio:.3f} times as many frames as expected in every clip ({pairs[0].name}: "
            f"{predicted[0]}, expected {expected[0]}): another frame rate than --truth; give "
            "--pred_fps and --truth_fps"
        )
    return Fraction(step)


def _counts(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """Frames of prediction and truth of each pair."""
    return [(len(load_vertices(p.prediction)), len(load_vertices(p.truth))) for p in pairs]


def check_lengths(pairs: Sequence[Pair], step: Fraction) -> None:
    """Raise `UserError` for a prediction that is not as long as its truth.

    step: frames of the truth for each predicted frame, the ratio of the two frame rates.
    """
    for pair, (n_pred, n_truth) in zip(pairs, _counts(pairs), strict=True):
        if step > LARGEST_STEP and n_truth > LARGEST_STEP * n_pred:
            raise UserError(
                f"{pair.prediction}: {n_pred} frames, its truth has {n_truth}: cut short, or of "
                "another frame rate; expected the truth's rate or half of it"
            )
        expected = resampled_frames(n_truth, step, 1)
        every = f"{float(step):.4g}"
        reason = (
            "as in its truth" if step == 1 else f"one for every {every} of the truth's {n_truth}"
        )
        if abs(n_pred - expected) > max(2, LENGTH_TOLERANCE * expected):
            raise UserError(
                f"{pair.prediction}: {n_pred} frames, expected {expected}, {reason}; is it another "
                "clip or another frame rate?"
            )


def check_step(pairs: Sequence[Pair], step: Fraction) -> str:
    """A warning if the motion does not confirm the ratio `step` of frame rates, else "".

    Predictions of half as many frames as the truth have half its frame rate, or were cut short.
    Several clips of different lengths, each of half as many frames, are not cut short. Otherwise
    the correlation of predicted and true motion over all clips is computed for both cases. Raises
    `UserError` if it is high for the second case and low for the first one. There is a warning if
    the first one is not clearly higher: a face that never moves, or that moves otherwise.
    """
    if step != LARGEST_STEP or _all_are_half(_counts(pairs)):
        return ""
    sums = np.zeros((2, 3))  # (decimated, cut) × (covariance, variance, true variance)
    for pair in pairs:
        prediction, truth = load_vertices(pair.prediction), load_vertices(pair.truth)
        every = -(-truth.shape[1] // FIT_VERTICES)
        decimated = truth[::LARGEST_STEP, ::every]
        frames = min(len(prediction), len(decimated))
        motion = _motion(prediction[:frames, ::every])
        for row, meshes in zip(sums, (decimated, truth[:, ::every]), strict=True):
            true_motion = _motion(meshes[:frames])
            row += (
                np.vdot(motion, true_motion),
                np.vdot(motion, motion),
                np.square(true_motion).sum(),
            )
    scales = np.sqrt(sums[:, 1] * sums[:, 2])
    r_decimated, r_cut = sums[:, 0] / np.where(scales > 0, scales, 1.0)
    if r_decimated > r_cut + CLEAR_MARGIN:
        return ""
    first = pairs[0]
    n_pred, n_truth = (len(load_vertices(path)) for path in (first.prediction, first.truth))
    counts = f"{first.prediction}: {n_pred} frames, its truth has {n_truth}"
    if r_cut > FOLLOWS and r_decimated < DIFFERS:
        raise UserError(
            f"{counts}; the motion fits the truth's first {n_pred} frames (r {r_cut:.2f}) better "
            f"than one frame in {step} (r {r_decimated:.2f}): cut short; predict whole clips, or "
            "give --pred_fps and --truth_fps"
        )
    return (
        f"{counts}; compared with one frame in {step} of the truth, although the motion does not "
        "tell whether the predictions were cut short instead"
    )


def _all_are_half(counts: Sequence[tuple[int, int]]) -> bool:
    """Whether all predictions have half of their truth's frames, and several different lengths."""
    halves = all(abs(n_truth - 2 * n_pred) <= 2 * HALF_ROUNDING for n_pred, n_truth in counts)
    return halves and len({n_pred for n_pred, _ in counts}) >= SURE_CLIPS


def _motion(vertices: NDArray) -> NDArray[np.float64]:
    """(T, V, 3) minus each vertex's mean position."""
    return vertices - vertices.mean(axis=0, dtype=np.float64)


def is_far(error: float, truth: NDArray) -> bool:
    """Whether a mean vertex error is too large for a prediction of `truth` (T, V, 3)."""
    return error > FAR * float(np.linalg.norm(np.ptp(truth[0].astype(np.float64), axis=0)))


def _check_finite(path: Path, vertices: NDArray) -> None:
    for frame, mesh in enumerate(vertices):
        if not np.isfinite(mesh).all():
            raise UserError(
                f"{path}: NaN or infinite coordinates, first in scored frame {frame}; "
                "predict this clip again"
            )


@dataclass(frozen=True)
class Clip:
    """The meshes of a pair over the frames that both have, and the template and regions given.

    prediction, truth: (T, V, 3) in one unit; template: (V, 3); lips, upper: vertex indices;
    unscored: number of frames of the truth after the prediction's last.
    """

    prediction: NDArray
    truth: NDArray
    template: NDArray | None
    lips: NDArray | None
    upper: NDArray | None
    unscored: int


def read_pair(
    pair: Pair, step: Fraction, regions: dict[str, str], templates: dict[str, NDArray]
) -> Clip:
    """The clip of a pair, with one frame in `step` of the truth; resampled if `step` is no integer.

    Raises `UserError` if the two differ in number of vertices or in scale, contain NaN or infinite
    coordinates, or if a region or template does not fit them.
    """
    prediction, truth = load_vertices(pair.prediction), load_vertices(pair.truth)
    is_whole = step.denominator == 1
    truth = truth[:: step.numerator] if is_whole else resample_in_time(truth, step, 1)
    n_vertices = truth.shape[1]
    if prediction.shape[1] != n_vertices:
        raise UserError(
            f"{pair.prediction}: {prediction.shape[1]} vertices, expected {n_vertices} as in "
            "its truth; is it of another topology?"
        )
    frames = min(len(prediction), len(truth))
    unscored = len(truth) - frames
    prediction, truth = prediction[:frames], truth[:frames]
    _check_finite(pair.prediction, prediction)
    _check_finite(pair.truth, truth)
    extents = [float(np.ptp(mesh[0], axis=0).max()) for mesh in (prediction, truth)]
    if not 0.5 * extents[1] < extents[0] < 2 * extents[1]:
        raise UserError(
            f"{pair.prediction}: the face is {extents[0]:.4g} across, expected about "
            f"{extents[1]:.4g} as in its truth; bring both to one unit"
        )
    indices = {name: load_region(file, n_vertices, key=name) for name, file in regions.items()}
    template = _template_of(pair, templates, n_vertices) if templates else None
    return Clip(
        prediction=np.asarray(prediction),
        truth=np.asarray(truth),
        template=template,
        lips=indices.get("lips"),
        upper=indices.get("upper"),
        unscored=unscored,
    )


def subject_of(pair: Pair, templates: dict[str, NDArray]) -> str:
    """The subject whose name the clip's name begins with; `UserError` if no template is its."""
    subjects = [name for name in templates if pair.name.startswith(f"{name}_")]
    if not subjects:
        raise UserError(
            f"{pair.truth}: no template for its subject, --templates has "
            f"{', '.join(sorted(templates))}; expected one whose name the clip's name begins with"
        )
    return max(subjects, key=len)


def _template_of(pair: Pair, templates: dict[str, NDArray], n_vertices: int) -> NDArray:
    template = templates[subject_of(pair, templates)]
    if len(template) != n_vertices:
        raise UserError(f"{pair.truth}: {n_vertices} vertices, its template has {len(template)}")
    return template
