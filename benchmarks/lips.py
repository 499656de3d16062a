"""Lip sync scores on human speech, with forced alignment and the corpus rules as the reference.

pocketsphinx, a recogniser independent of our network, aligns a recording with its transcript, and
`synthetic.coarticulation` converts the phones to reference lips. A predictor's lips are compared
with these: correlations over all clips of at least 3 s, closed lips on p b m and open lips on the
other consonants, the shape of the lips, sync, and stillness in silence. Every figure that is
pooled over clips has a bootstrap interval.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from benchmarks.intervals import (
    Figure,
    amplitude,
    auc,
    correlation,
    cross_correlation,
    lag,
    moments,
    pooled,
    ratio,
)
from benchmarks.measures import LipMeter, Lips
from benchmarks.phone_tables import (
    FPS,
    OTHER_CONSONANTS,
    Event,
    PhoneRow,
    Spell,
    events,
    phone_rows,
    smallest_gap,
    spells,
)
from benchmarks.real_speech import Clip
from synthetic.coarticulation import BILABIALS, CHANNEL_INDEX, curves, loudness
from synthetic.head import Head

LONG_CLIP_S = 3.0  # shorter clips are too noisy for a correlation; only their phones count
SETTLED_S = 0.2  # the first part of a pause, in which the mouth may still move to rest
JSON_NAMES = (
    "jaw_r", "aperture_r", "closed", "others_closed", "false_closures", "auc", "sync_frames",
    "width_r", "protrusion_r", "rest_shut",
)  # fmt: skip
CHANNELS_COMPARED = {"tongue": "tongueUp", "press": "mouthPress", "brow": "browInnerUp"}

Predict = Callable[[np.ndarray], np.ndarray]


class Pair(NamedTuple):
    """A clip with the lips of a predictor and those of the rules."""

    clip: Clip
    predicted: Lips
    rules: Lips


@dataclass(frozen=True)
class LipScores:
    """A predictor's lips compared with the reference lips; a figure is NaN where undefined.

    `..._r` are correlations and `..._amplitude` ratios of standard deviations (predictor over
    rules), over all frames of the long clips.
    """

    jaw_r: Figure
    jaw_amplitude: Figure
    aperture_r: Figure  # the gap between the lips
    aperture_amplitude: Figure
    closed: Figure  # share of p b m with closed lips
    others_closed: Figure  # share of t d n k g s z l hh ng th dh with closed lips
    false_closures: Figure  # the same away from labials and pauses
    rules_false_closures: Figure  # the same by the rules
    auc: Figure  # P(the gap is smaller on a p b m than on one of the others)
    sync_frames: Figure  # > 0: the face is late
    width_r: Figure
    width_amplitude: Figure
    protrusion_r: Figure
    protrusion_amplitude: Figure
    rest_shut: Figure  # share of settled frames in pauses with closed lips
    rest_motion: Figure  # jaw speed in settled pauses over jaw speed in speech
    tongue_r: Figure  # tongueUp
    tongue_amplitude: Figure
    press_r: Figure  # mouthPress
    press_amplitude: Figure
    brow_r: Figure  # browInnerUp
    brow_amplitude: Figure
    jitter_mm: Figure  # second difference of the vertices of the lips, mean
    rules_jitter_mm: Figure
    phones: tuple[PhoneRow, ...]
    n_closures: int
    n_others: int
    n_free: int  # consonants in false_closures
    seconds: float  # of long clips

    def figures(self) -> dict[str, Figure]:
        """Name -> figure of all pooled figures."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Figure)}

    def as_row(self) -> dict[str, float | None]:
        """The main scores, rounded, for JSON; None where undefined."""
        values = {name: getattr(self, name).value for name in JSON_NAMES}
        return {name: round(v, 3) if np.isfinite(v) else None for name, v in values.items()}


def rule_curves(clip: Clip, frames: int) -> np.ndarray:
    """Reference curves of the clip's phones: (frames, len(CHANNELS)), 30 fps."""
    sound = clip.audio if clip.clean is None else clip.clean
    return curves(clip.segments, frames, FPS, loudness=loudness(sound))


def score_meshes(
    predict: Predict, clips: Sequence[Clip], head: Head, template: np.ndarray
) -> LipScores:
    """Scores of a predictor of meshes: audio (S,) -> vertices (T, V, 3) at 30 fps, metres.

    Prediction and reference are measured in millimetres on the head, relative to `template`
    (V, 3): see `LipMeter`.
    """
    return score_lips(mesh_pairs(predict, clips, head, template))


def score_curves_on_head(predict: Predict, clips: Sequence[Clip], head: Head) -> LipScores:
    """`score_meshes` for a predictor of curves (T, len(CHANNELS)), applied to the head."""
    meter = LipMeter(head)
    return score_lips(_pairs(predict, clips, meter, meter.of_curves))


def mesh_pairs(
    predict: Predict, clips: Sequence[Clip], head: Head, template: np.ndarray
) -> list[Pair]:
    """Predicted and reference lips of each clip; the arguments are those of `score_meshes`."""
    meter = LipMeter(head)
    return _pairs(predict, clips, meter, lambda vertices: meter.of_meshes(vertices, template))


def _pairs(
    predict: Predict, clips: Sequence[Clip], meter: LipMeter, lips: Callable[[np.ndarray], Lips]
) -> list[Pair]:
    pairs = []
    for clip in clips:
        predicted = predict(clip.audio)
        rules = meter.of_curves(rule_curves(clip, len(predicted)))
        pairs.append(Pair(clip, lips(predicted), rules))
    return pairs


def score_lips(pairs: Sequence[Pair]) -> LipScores:
    """Scores pooled over clips with predicted and reference lips."""
    long = [pair for pair in pairs if pair.clip.duration_s >= LONG_CLIP_S]
    by_clip = [list(spells(pair.clip, len(pair.predicted.jaw))) for pair in pairs]
    phones = phone_rows([_events(pair, of) for pair, of in zip(pairs, by_clip, strict=True)])
    bilabials, others = (
        [_gaps(pair.predicted, of, names) for pair, of in zip(pairs, by_clip, strict=True)]
        for names in (BILABIALS, OTHER_CONSONANTS)
    )
    free = [[spell for spell in of if spell.free] for of in by_clip]
    free_gaps, free_rules = (
        [_gaps(lips, of, OTHER_CONSONANTS) for lips, of in zip(every, free, strict=True)]
        for every in ([pair.predicted for pair in pairs], [pair.rules for pair in pairs])
    )
    return LipScores(
        closed=_closed_share(bilabials),
        others_closed=_closed_share(others),
        false_closures=_closed_share(free_gaps),
        rules_false_closures=_closed_share(free_rules),
        auc=auc(bilabials, others),
        phones=tuple(phones),
        n_closures=sum(map(len, bilabials)),
        n_others=sum(map(len, others)),
        n_free=sum(map(len, free_gaps)),
        seconds=sum(pair.clip.duration_s for pair in long),
        **_track_figures(long),
        **_rest_figures(pairs),
        **_jitter_figures(pairs),
    )


def _events(pair: Pair, of_clip: Sequence[Spell]) -> list[Event]:
    return [e for spell in of_clip for e in events(spell, pair.predicted, pair.rules)]


def _gaps(lips: Lips, of_clip: Sequence[Spell], phones: tuple[str, ...]) -> np.ndarray:
    """Smallest aperture in each of these phones minus the closed threshold: (n,) mm."""
    return np.array([smallest_gap(lips, spell) for spell in of_clip if spell.phone in phones])


def _closed_share(gaps: Sequence[np.ndarray]) -> Figure:
    return pooled(ratio, [np.array([(g < 0).sum(), len(g)]) for g in gaps])


def _track_figures(long: Sequence[Pair]) -> dict[str, Figure]:
    """Correlations, amplitudes and sync over the frames of these clips."""
    figures = {
        "sync_frames": pooled(
            lag, [cross_correlation(p.predicted.aperture, p.rules.aperture) for p in long]
        )
    }
    for name, sums in _track_moments(long):
        figures[f"{name}_r"] = pooled(correlation, sums)
        figures[f"{name}_amplitude"] = pooled(amplitude, sums)
    return figures


def _track_moments(long: Sequence[Pair]) -> Iterator[tuple[str, list[np.ndarray]]]:
    for name in ("jaw", "aperture", "width", "protrusion"):
        yield name, [moments(getattr(p.predicted, name), getattr(p.rules, name)) for p in long]
    for name, channel in CHANNELS_COMPARED.items():
        column = CHANNEL_INDEX[channel]
        yield (
            name,
            [moments(p.predicted.curves[:, column], p.rules.curves[:, column]) for p in long],
        )


def _jitter_figures(pairs: Sequence[Pair]) -> dict[str, Figure]:
    tracks = {"jitter_mm": "predicted", "rules_jitter_mm": "rules"}
    return {
        name: pooled(
            ratio,
            [np.array([getattr(p, side).jitter.sum(), len(p.predicted.jitter)]) for p in pairs],
        )
        for name, side in tracks.items()
    }


def _rest_figures(pairs: Sequence[Pair]) -> dict[str, Figure]:
    """Share of settled silent frames with closed lips; jaw speed there over that in speech."""
    shut, motion = [], []
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
        shut.append(np.array([(predicted.aperture[silent] < predicted.closed).sum(), silent.sum()]))
        motion.append([speed[silent].sum(), silent.sum(), speed[speech].sum(), speech.sum()])
    return {
        "rest_shut": pooled(ratio, shut),
        "rest_motion": pooled(_relative_speed, [np.array(row) for row in motion]),
    }


def _relative_speed(sums: np.ndarray) -> np.ndarray:
    """Mean of the first over mean of the second, from (..., 4) sums and counts; 0 if both are."""
    still, moving = sums[..., 0] / sums[..., 1], sums[..., 2] / sums[..., 3]
    return np.where((still == 0) & (moving == 0), 0.0, still / moving)
