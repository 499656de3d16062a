"""Frame rates of a folder of own data, and whether sound and motion last equally long.

N captured frames at r frames a second last N / r seconds, computed with fractions. The rate of a
folder is the standard rate with which the sound of every clip lasts as long, within one frame. If
several rates fit, the one nearest to all frames over all seconds is taken. Short clips fit 29.97
and 30: there the likelihood of the differences decides, and 29.97 and its like have to be clearly
more likely than 30. A clip that differs by more than a frame is an
error, because its motion would drift away from its sound.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.frame_rates import NTSC, NTSC_RATES, parse_rate, rate_text
from dataset.clip_files import find_audio, npy_path
from dataset.prepared import ClipLength, clip_length

WHOLE_RATES = (10, 12, 15, 20, 24, 25, 28, 30, 48, 50, 60, 90, 100, 120)
STANDARD_RATES = sorted([*map(Fraction, WHOLE_RATES), *(n * NTSC for n in NTSC_RATES)])
NETWORK_FPS = 30  # at most, unless dataset.json has a higher one
SPREAD_OFFSET = 2.0  # expected size of the mean difference, in spreads of the differences
LEAST_SPREAD = 0.003  # frames: sound that is cut to the sample
EVIDENCE = 9.0  # of -2·log likelihood, by which 29.97 has to fit better than 30; 3 sigma

Lengths = Mapping[str, ClipLength]  # of the clips, by name


@dataclass(frozen=True)
class Rates:
    """Frames a second of the network and of the capture, and both in words."""

    fps: int
    source: Fraction
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
    fps = fps or network_fps(source)
    allowed_s = max(_frame_s(source, fps), Fraction(settings.get("max_drift_s", 0)))
    _check_clips(folder, lengths, source, allowed_s)
    worst_s = float(max(abs(drift_s(length, source)) for length in lengths.values()))
    return Rates(fps, source, _text(source, fps, f"{how}, at most {worst_s:.3f} s of drift"))


def network_fps(source: Fraction) -> int:
    """Frames a second of the network: at most 30, a divisor of `source` if one is near.

    24, 25, 28 and 30 stay; 50 becomes 25; 60 and 120 become 30, 29.97 and 59.94 as well.
    """
    nominal = next((n for n in NTSC_RATES if n * NTSC == source), round(source))
    fps = nominal // math.ceil(nominal / NETWORK_FPS)
    return fps if nominal % fps == 0 else NETWORK_FPS


def drift_s(length: ClipLength, rate: Fraction) -> Fraction:
    """Seconds by which the motion of a clip at `rate` is longer than its sound (< 0: shorter)."""
    return length.frames / rate - length.sound_s


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


def _frame_s(source: Fraction, fps: int | None) -> Fraction:
    """Seconds of a frame, of the slower of capture and network."""
    return 1 / min(source, Fraction(fps or network_fps(source)))


def _fitting(lengths: Lengths, rate: Fraction, fps: int | None = None) -> Lengths:
    allowed_s = _frame_s(rate, fps)
    return {name: n for name, n in lengths.items() if abs(drift_s(n, rate)) <= allowed_s}


def _check_rate(folder: Path, lengths: Lengths, source: Fraction, is_given: bool) -> None:
    """Raise `UserError` if all clips have one rate, and it is not `source`."""
    by_rate = sorted(lengths.values(), key=lambda length: length.rate)
    seconds = np.cumsum([float(length.sound_s) for length in by_rate])
    measured = by_rate[int(np.searchsorted(seconds, seconds[-1] / 2))].rate  # median second
    is_constant = len(_fitting(lengths, measured)) == len(lengths)
    if len(_fitting(lengths, source)) == len(lengths) or not is_constant:
        return
    standard = ", ".join(f"{float(rate):.5g}" for rate in STANDARD_RATES)
    if not is_given:
        raise UserError(
            f"{folder}: {_measured(measured, source)} frames per second of audio, expected a rate "
            f'near one of {standard}; set "source_fps" in dataset.json'
        )
    if any(len(_fitting(lengths, rate)) == len(lengths) for rate in STANDARD_RATES):
        name, n = max(lengths.items(), key=lambda item: item[1].frames)
        raise UserError(
            f"{folder}/dataset.json: source_fps {rate_text(source)}, but the clips have "
            f"{_measured(measured, source)} frames per second of audio ({name}: {n.frames} frames, "
            f"{float(n.sound_s):.2f} s); correct it, or check the audio"
        )


def _check_clips(folder: Path, lengths: Lengths, source: Fraction, allowed_s: Fraction) -> None:
    """Raise `UserError` naming the clip whose sound and motion differ most, if by too much."""
    drifting = {
        name: abs(drift_s(length, source))
        for name, length in lengths.items()
        if abs(drift_s(length, source)) > allowed_s
    }
    if not drifting:
        return
    name = max(drifting, key=drifting.__getitem__)
    length = lengths[name]
    others = f" ({len(drifting)} clips differ by too much)" if len(drifting) > 1 else ""
    raise UserError(
        f"{npy_path(folder, name)}: {_measured(length.rate, source)} frames per second of its "
        f"audio, expected {rate_text(source)}: {length.frames} frames last "
        f"{float(length.frames / source):.3f} s, wav/{find_audio(folder, name).name} lasts "
        f"{float(length.sound_s):.3f} s; {float(drifting[name]):.3f} s apart, expected at most "
        f"{float(allowed_s):.3f} s{others}; cut both to one take; if the lengths may differ, set "
        '"source_fps" and "max_drift_s" in dataset.json'
    )


def _measured(rate: Fraction, expected: Fraction) -> str:
    """A measured rate, with the digits that tell it from the expected one."""
    return f"{float(rate):.{1 if abs(rate - expected) >= 0.1 else 3}f}"


def _text(source: Fraction, fps: int, how: str) -> str:
    step = source / fps
    if step == 1:
        way = ""
    elif step.denominator == 1:
        way = f", one frame in {step}"
    else:
        way = ", resampled in time"
    return f"{rate_text(source)} a second on disk, {fps} for the network{way} ({how})"
