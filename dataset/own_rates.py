"""Frame rates of a folder of own data, and whether sound and motion last equally long.

N captured frames at r frames a second last N / r seconds, computed with fractions. The rate of a
folder is the standard rate with which the sound of every clip lasts as long, within one frame. If
several rates fit, the one nearest to all frames over all seconds is taken. Short clips fit 29.97
and 30: there the likelihood of the differences decides, and 29.97 and its like have to be clearly
more likely than 30. A clip that differs by more than a frame is an
error, because its motion would drift away from its sound.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.frame_rates import NTSC, NTSC_RATES, parse_rate, rate_text
from dataset.prepared import (
    Lengths,
    allowed_drift_s,
    check_drift,
    clip_length,
    drift_s,
    measured_text,
)

WHOLE_RATES = (10, 12, 15, 20, 24, 25, 28, 30, 48, 50, 60, 90, 100, 120)
STANDARD_RATES = sorted([*map(Fraction, WHOLE_RATES), *(n * NTSC for n in NTSC_RATES)])
NETWORK_FPS = 30  # at most, unless dataset.json has a higher one
SPREAD_OFFSET = 2.0  # expected size of the mean difference, in spreads of the differences
LEAST_SPREAD = 0.003  # frames: sound that is cut to the sample
EVIDENCE = 9.0  # of -2·log likelihood, by which 29.97 has to fit better than 30; 3 sigma


@dataclass(frozen=True)
class Rates:
    """Frames a second of the network and of the capture, the drift allowed, and all in words."""

    fps: int
    source: Fraction
    max_drift_s: float
    text: str


def frame_rates(folder: Path, names: list[str], settings: dict[str, Any]) -> Rates:
    """The frame rates of dataset.json (`settings`), or those that the clips' lengths show.

    Raises `UserError` if a given rate contradicts the clips, if they have no standard rate, or if
    sound and motion of a clip differ by more than a frame ("max_drift_s" allows more).
    """
    lengths = {name: clip_length(folder, name) for name in names}
    fps = settings.get("fps")
    if "source_fps" in settings:
        source = parse_rate(settings["source_fps"], f'{folder}/dataset.json: "source_fps"')
        how = "as in dataset.json"
    else:
        source = inferred_rate(lengths, fps)
        how = f"by the clips' lengths{_also_fits(lengths, source)}"
    _check_rate(folder, lengths, source, "source_fps" in settings)
    fps, max_drift_s = fps or network_fps(source), settings.get("max_drift_s", 0.0)
    allowed_s = allowed_drift_s(source, fps, max_drift_s)
    check_drift(folder, lengths, source, allowed_s)
    worst_s = float(max(abs(drift_s(length, source)) for length in lengths.values()))
    text = _text(source, fps, f"{how}, at most {worst_s:.3f} s of drift")
    return Rates(fps, source, float(max_drift_s), text)


def network_fps(source: Fraction) -> int:
    """Frames a second of the network: at most 30, a divisor of `source` if one is near.

    24, 25, 28 and 30 stay; 50 becomes 25; 60 and 120 become 30, 29.97 and 59.94 as well.
    """
    nominal = next((n for n in NTSC_RATES if n * NTSC == source), round(source))
    fps = nominal // math.ceil(nominal / NETWORK_FPS)
    return fps if nominal % fps == 0 else NETWORK_FPS


def inferred_rate(lengths: Lengths, fps: int | None = None) -> Fraction:
    """The standard rate that fits most clips within a frame; see above if there are several."""
    n_fitting = {rate: len(_fitting(lengths, rate, fps)) for rate in STANDARD_RATES}
    rates = [rate for rate, n in n_fitting.items() if n == max(n_fitting.values())]
    seconds = sum(length.sound_s for length in lengths.values())
    mean = sum(length.frames for length in lengths.values()) / seconds
    nearest = min(rates, key=lambda rate: abs(rate - mean))
    for whole in (nearest, nearest / NTSC):
        if whole in rates and (ntsc := whole * NTSC) in rates:
            return ntsc if ntsc_evidence(lengths, whole) > EVIDENCE else whole
    return nearest


def ntsc_evidence(lengths: Lengths, whole: Fraction) -> float:
    """By how much the clips' lengths speak for whole·1000/1001 (> 0) or for `whole` (< 0)."""
    return misfit(lengths, whole) - misfit(lengths, whole * NTSC)


def misfit(lengths: Lengths, rate: Fraction) -> float:
    """-2·log likelihood of the drifts of clips at `rate`, up to a constant.

    The drifts, in frames, are an offset and Gaussian noise of unknown spread; the offset (sound
    that is always cut to whole frames, say) is about as large as the spread.
    """
    drifts = np.array([float(drift_s(length, rate) * rate) for length in lengths.values()])
    offset = drifts.sum() / (len(drifts) + SPREAD_OFFSET**-2)
    squares = float(np.square(drifts - offset).sum() + (offset / SPREAD_OFFSET) ** 2)
    variance = max(squares / len(drifts), LEAST_SPREAD**2)
    return len(drifts) * math.log(variance) + squares / variance


def _also_fits(lengths: Lengths, rate: Fraction) -> str:
    """A remark if clips at a whole rate may be at its NTSC rate as well; else ""."""
    ntsc = rate * NTSC
    fits = ntsc in STANDARD_RATES and len(_fitting(lengths, ntsc)) == len(lengths)
    if not fits or abs(ntsc_evidence(lengths, rate)) > EVIDENCE:
        return ""
    return f"; {float(ntsc):.5g} fits as well"


def _fitting(lengths: Lengths, rate: Fraction, fps: int | None = None) -> Lengths:
    allowed_s = allowed_drift_s(rate, fps or network_fps(rate))
    return {name: n for name, n in lengths.items() if abs(drift_s(n, rate)) <= allowed_s}


def _check_rate(folder: Path, lengths: Lengths, source: Fraction, is_given: bool) -> None:
    """Raise `UserError` if all clips have one rate, and it is not `source`."""
    by_rate = sorted(lengths.values(), key=lambda length: length.rate)
    seconds = np.cumsum([float(length.sound_s) for length in by_rate])
    measured = by_rate[int(np.searchsorted(seconds, seconds[-1] / 2))].rate  # median second
    is_constant = len(_fitting(lengths, measured)) == len(lengths)
    if len(_fitting(lengths, source)) == len(lengths) or not is_constant:
        return
    rate = measured_text(measured, source)
    standard = ", ".join(f"{float(r):.5g}" for r in STANDARD_RATES)
    if not is_given:
        raise UserError(
            f"{folder}: {rate} frames per second of audio, expected a rate "
            f'near one of {standard}; set "source_fps" in dataset.json'
        )
    if any(len(_fitting(lengths, r)) == len(lengths) for r in STANDARD_RATES):
        name, n = max(lengths.items(), key=lambda item: item[1].frames)
        raise UserError(
            f"{folder}/dataset.json: source_fps {rate_text(source)}, but the clips have "
            f"{rate} frames per second of audio ({name}: {n.frames} frames, "
            f"{float(n.sound_s):.2f} s); correct it, or check the audio"
        )


def _text(source: Fraction, fps: int, how: str) -> str:
    step = source / fps
    if step == 1:
        way = ""
    elif step.denominator == 1:
        way = f", one frame in {step}"
    else:
        way = ", resampled in time"
    return f"{rate_text(source)} a second on disk, {fps} for the network{way} ({how})"
