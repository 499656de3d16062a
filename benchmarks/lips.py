"""Lip sync scores on human speech, with forced alignment and the corpus rules as the reference.

pocketsphinx, a recogniser independent of our network, aligns a recording with its transcript, and
`synthetic.coarticulation` converts the phones to reference lips. A predictor's lips are compared
with these: correlations over all clips of at least 3 s, closed lips on p b m and open lips on the
other consonants, sync, and stillness in silence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.real_speech import Clip
from synthetic.coarticulation import BILABIALS, CHANNEL_INDEX, CHANNELS, CLOSED, curves, loudness
from synthetic.head import Head, channel_basis

FPS = 30  # frame rate of the predictors
LONG_CLIP_S = 3.0  # shorter clips are too noisy for a correlation; only their closures count
OTHER_CONSONANTS = ("t", "d", "n", "k", "g", "s", "z", "l", "hh", "ng", "th", "dh")
MARGIN_S = 0.01  # a phone's interval is extended by this at both ends (the aligner's step)
SETTLED_S = 0.2  # the first part of a pause, in which the mouth may still move to rest
MAX_LAG = 8  # frames, the largest sync offset that is searched


class Lips(NamedTuple):
    """Lips of a clip: two tracks at 30 fps in the same unit, and the threshold of closed lips."""

    jaw: np.ndarray  # (T,)
    aperture: np.ndarray  # (T,)
    closed: float  # lips are closed where the aperture is below this


@dataclass(frozen=True)
class LipScores:
    """A predictor's lips compared with the reference lips; NaN where undefined."""

    jaw_r: float  # correlation of the jaw over all frames of the long clips
    aperture_r: float  # the same for the gap between the lips
    closed: float  # share of p b m with closed lips
    others_closed: float  # share of t d n k g s z l hh ng th dh with closed lips
    auc: float  # P(the gap is smaller on a p b m than on one of the others)
    sync_frames: float  # > 0: the face is late
    silence_shut: float  # share of settled frames in pauses with closed lips
    silence_motion: float  # jaw speed in settled pauses over jaw speed in speech
    n_closures: int
    n_others: int
    seconds: float  # of long clips

    def as_row(self) -> dict[str, float | None]:
        """The main scores, rounded, for JSON; None where undefined."""
        names = ("jaw_r", "aperture_r", "closed", "others_closed", "auc", "sync_frames")
        values = {name: getattr(self, name) for name in names}
        return {name: round(v, 3) if np.isfinite(v) else None for name, v in values.items()}


def rule_curves(clip: Clip, frames: int) -> np.ndarray:
    """Reference curves of the clip's phones: (frames, len(CHANNELS)), 30 fps."""
    return curves(clip.segments, frames, FPS, loudness=loudness(clip.audio))


def score_meshes(
    predict: Callable[[np.ndarray], np.ndarray],
    clips: Sequence[Clip],
    head: Head,
    template: np.ndarray,
) -> LipScores:
    """Scores of a predictor of meshes: audio (S,) -> vertices (T, V, 3) at 30 fps, metres.

    Prediction and reference are measured in millimetres at landmarks of the head, relative to
    `template` (V, 3): the jaw at the lower teeth, the aperture between the inner lips.
    """
    basis = channel_basis(head, CHANNELS)[:, _landmarks(head)]  # (C, 3, 3)

    def prediction(vertices: np.ndarray) -> Lips:
        offsets = vertices[:, _landmarks(head)] - template[_landmarks(head)]
        return _landmark_lips(offsets, basis)

    return score_clips(predict, clips, prediction, _curves_on(basis))


def score_curves_on_head(
    predict: Callable[[np.ndarray], np.ndarray], clips: Sequence[Clip], head: Head
) -> LipScores:
    """`score_meshes` for a predictor of curves (T, len(CHANNELS)), applied to the head."""
    lips = _curves_on(channel_basis(head, CHANNELS)[:, _landmarks(head)])
    return score_clips(predict, clips, lips, lips)


def _curves_on(basis: np.ndarray) -> Callable[[np.ndarray], Lips]:
    """Function from curves (T, C) to the lips of the head; basis: (C, 3 landmarks, 3), metres."""
    return lambda values: _landmark_lips(np.einsum("tc,clx->tlx", values, basis), basis)


def _landmarks(head: Head) -> list[int]:
    names = ("lower_teeth", "upper_lip_inner", "lower_lip_inner")
    return [head.landmarks[name] for name in names]


def _landmark_lips(offsets: np.ndarray, basis: np.ndarray) -> Lips:
    """Lips in mm from landmark offsets (T, 3, 3) in metres.

    basis: (C, 3, 3). The threshold of closed lips is the gap at jawOpen = CLOSED.
    """
    teeth, upper, lower = 1000 * offsets[..., 1].T  # y points up
    _, open_upper, open_lower = 1000 * basis[CHANNEL_INDEX["jawOpen"], :, 1]
    return Lips(-teeth, upper - lower, CLOSED * float(open_upper - open_lower))


def score_clips(
    predict: Callable[[np.ndarray], np.ndarray],
    clips: Sequence[Clip],
    prediction_lips: Callable[[np.ndarray], Lips],
    reference_lips: Callable[[np.ndarray], Lips],
) -> LipScores:
    """Scores of `predict` (audio (S,) float32 16 kHz -> frames at 30 fps) on the clips.

    `prediction_lips` converts the output of `predict` to lips, `reference_lips` the rules' curves.
    """
    pairs = []
    for clip in clips:
        predicted = predict(clip.audio)
        reference = reference_lips(rule_curves(clip, len(predicted)))
        pairs.append((clip, prediction_lips(predicted), reference))
    return score_lips(pairs)


def score_lips(pairs: Sequence[tuple[Clip, Lips, Lips]]) -> LipScores:
    """Scores of (clip, predicted lips, reference lips) triples."""
    long = [pair for pair in pairs if pair[0].duration_s >= LONG_CLIP_S]
    bilabial = _phone_apertures(pairs, BILABIALS)
    others = _phone_apertures(pairs, OTHER_CONSONANTS)
    shut, motion = _silence(pairs)
    return LipScores(
        jaw_r=_pooled_r([(p.jaw, t.jaw) for _, p, t in long]),
        aperture_r=_pooled_r([(p.aperture, t.aperture) for _, p, t in long]),
        closed=float((bilabial < 0).mean()) if len(bilabial) else float("nan"),
        others_closed=float((others < 0).mean()) if len(others) else float("nan"),
        auc=_auc(bilabial, others),
        sync_frames=_sync_frames([(p.aperture, t.aperture) for _, p, t in long]),
        silence_shut=shut,
        silence_motion=motion,
        n_closures=len(bilabial),
        n_others=len(others),
        seconds=sum(clip.duration_s for clip, _, _ in long),
    )


def _phone_apertures(
    pairs: Sequence[tuple[Clip, Lips, Lips]], phones: tuple[str, ...]
) -> np.ndarray:
    """Smallest predicted aperture in each of these phones minus the closed threshold: (n,)."""
    smallest = []
    for clip, predicted, _ in pairs:
        n = len(predicted.aperture)
        for phone, start, end in clip.segments:
            if phone not in phones or start * FPS > n - 1:
                continue
            first = max(0, int(np.ceil((start - MARGIN_S) * FPS)))
            last = min(n - 1, int(np.floor((end + MARGIN_S) * FPS)))
            first = min(first, last)
            smallest.append(predicted.aperture[first : last + 1].min() - predicted.closed)
    return np.array(smallest)


def _silence(pairs: Sequence[tuple[Clip, Lips, Lips]]) -> tuple[float, float]:
    """Share of settled silent frames with closed lips; jaw speed there over that in speech."""
    shut, still, moving = [], [], []
    for clip, predicted, _ in pairs:
        times = np.arange(len(predicted.jaw)) / FPS
        silent = np.zeros(len(times), bool)
        speech = np.zeros(len(times), bool)
        for phone, start, end in clip.segments:
            if phone == "sil":
                settled = start + SETTLED_S if start > 0 else start
                silent |= (times >= settled) & (times < end - SETTLED_S / 2)
            else:
                speech |= (times >= start) & (times < end)
        speed = np.abs(np.gradient(predicted.jaw)) if len(times) > 1 else np.zeros(len(times))
        shut.append(predicted.aperture[silent] < predicted.closed)
        still.append(speed[silent])
        moving.append(speed[speech])
    shut, still, moving = (np.concatenate(parts) for parts in (shut, still, moving))
    if not len(shut) or not len(moving):
        return float("nan"), float("nan")
    pace = moving.mean()
    return float(shut.mean()), float(still.mean() / pace) if pace > 0 else 0.0


def _pooled_r(tracks: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Correlation over all frames of all clips; NaN when either side is constant."""
    if not tracks:
        return float("nan")
    x, y = (np.concatenate(side).astype(np.float64) for side in zip(*tracks, strict=True))
    if x.std() < 1e-9 or y.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _auc(lower: np.ndarray, higher: np.ndarray) -> float:
    """P(a value of `lower` is below one of `higher`); a tie counts one half."""
    if not len(lower) or not len(higher):
        return float("nan")
    difference = higher[None] - lower[:, None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def _sync_frames(tracks: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Lag of the prediction behind the reference in frames, by interpolated cross-correlation."""
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    total = np.zeros(len(lags))
    for predicted, reference in tracks:
        if len(reference) <= 2 * MAX_LAG:
            continue
        inner = slice(MAX_LAG, len(reference) - MAX_LAG)
        x = predicted - predicted.mean()
        y = reference[inner] - reference[inner].mean()
        total += [np.dot(x[inner.start + lag : inner.stop + lag], y) for lag in lags]
    if not total.any():
        return float("nan")
    best = int(total.argmax())
    if best in (0, len(lags) - 1):
        return float(lags[best])
    before, peak, after = total[best - 1 : best + 2]
    return float(lags[best] + 0.5 * (before - after) / (before - 2 * peak + after))
