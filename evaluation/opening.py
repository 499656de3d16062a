"""The mouth's opening over the waveform: truth and prediction in one plot, with phones if known.

Long clips are drawn in rows of equal length. T frames at t / fps seconds, S samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.phones import Segments
from evaluation.pictures import DOTS_PER_INCH, FONT_POINTS, WIDTH_IN
from metrics import BILABIALS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, which people who are colour-blind tell apart (jfly.uni-koeln.de/color)
TRUTH, PREDICTION, CLOSED = "#000000", "#D55E00", "#56B4E9"
WAVE, LINE = "#8c8c8c", "#d0d0d0"
SECONDS_PER_INCH = 0.6  # so that the names of most phones fit
LEFT_IN, RIGHT_IN, TOP_IN, BOTTOM_IN = 0.48, 0.08, 0.26, 0.36  # around the rows
CURVE_IN, PHONES_IN, WAVE_IN, BETWEEN_IN = 0.95, 0.24, 0.32, 0.30  # heights in a row, below it
PHONE_POINTS = 6
LETTER_IN = 0.72 * PHONE_POINTS / 72  # width of a letter of a phone's name, about
COLUMNS_PER_INCH = 150  # of the waveform
SILENCES = ("sil", "sp", "spn", "pau", "")  # names of pauses, which are not printed


@dataclass(frozen=True)
class Opening:
    """A clip's mouth opening, height of the gap between the inner lips.

    truth, prediction: (T,) mm; sound: (S,) at `sample_rate`, -1 to 1; segments: [] if unknown.
    """

    truth: NDArray
    prediction: NDArray
    fps: int
    sound: NDArray
    sample_rate: int
    segments: Segments

    @property
    def seconds(self) -> float:
        """Length of the motion."""
        return len(self.truth) / self.fps


def opening_figure(opening: Opening, width_in: float = WIDTH_IN) -> "Figure":
    """The plot of an opening, `width_in` inches wide."""
    from matplotlib.figure import Figure

    across = width_in - LEFT_IN - RIGHT_IN
    n_rows = math.ceil(opening.seconds / (across * SECONDS_PER_INCH))
    phones_in = PHONES_IN if opening.segments else 0.06
    row_in = CURVE_IN + phones_in + WAVE_IN
    height_in = TOP_IN + n_rows * row_in + (n_rows - 1) * BETWEEN_IN + BOTTOM_IN
    figure = Figure(figsize=(width_in, height_in), dpi=DOTS_PER_INCH)

    def axes(top_in: float, axes_in: float) -> "Axes":
        box = LEFT_IN / width_in, 1 - (top_in + axes_in) / height_in
        return figure.add_axes((*box, across / width_in, axes_in / height_in))

    for row in range(n_rows):
        span = row * opening.seconds / n_rows, (row + 1) * opening.seconds / n_rows
        top_in = TOP_IN + row * (row_in + BETWEEN_IN)
        curves, wave = axes(top_in, CURVE_IN), axes(top_in + CURVE_IN + phones_in, WAVE_IN)
        _draw_curves(curves, opening)
        _draw_wave(wave, opening, round(across * COLUMNS_PER_INCH), span)
        _draw_phones(curves, wave, opening.segments, span, across / (span[1] - span[0]))
        for part in (curves, wave):
            _style(part, span)
    wave.set_xlabel("time (s)", fontsize=FONT_POINTS, labelpad=2)
    _legend(figure, figure.axes[0], opening)
    return figure


def _draw_curves(axes: "Axes", opening: Opening) -> None:
    times = np.arange(len(opening.truth)) / opening.fps
    axes.plot(times, opening.truth, color=TRUTH, linewidth=1.1, label="truth")
    axes.plot(times, opening.prediction, color=PREDICTION, linewidth=1.1, label="prediction")
    both = np.concatenate([opening.truth, opening.prediction])
    margin = 0.06 * max(np.ptp(both), 1e-6)
    axes.set_ylim(min(both.min(), 0.0) - margin, both.max() + margin)
    axes.set_ylabel("mouth\nopening (mm)", fontsize=FONT_POINTS, labelpad=2)
    axes.tick_params(labelbottom=False, bottom=False)


def _draw_wave(axes: "Axes", opening: Opening, n_columns: int, span: tuple[float, float]) -> None:
    """The lowest and highest sample of each of `n_columns` parts of a row, as an area."""
    first, last = (round(time_s * opening.sample_rate) for time_s in span)
    sound = opening.sound[first:last]
    bounds = np.linspace(0, len(sound), n_columns + 1).astype(int)
    starts = bounds[:-1][np.diff(bounds) > 0]
    if len(starts):
        low, high = np.minimum.reduceat(sound, starts), np.maximum.reduceat(sound, starts)
        times = span[0] + starts / opening.sample_rate
        axes.fill_between(times, low, high, color=WAVE, linewidth=0)
    peak = max(float(np.abs(opening.sound).max(initial=0.0)), 1e-6)
    axes.set_ylim(-1.05 * peak, 1.05 * peak)
    axes.set_yticks([])


def _draw_phones(
    curves: "Axes", wave: "Axes", segments: Segments, span: tuple[float, float], in_per_s: float
) -> None:
    """Names of phones between the two plots, their bounds, and spans where lips have to close.

    A name that would touch the one before it is printed below or above that.
    """
    ends_in = [-math.inf, -math.inf]  # of the names of either level
    for phone, start_s, end_s in segments:
        start_s, end_s = max(start_s, span[0]), min(end_s, span[1])
        if start_s >= end_s:
            continue
        for axes in (curves, wave):
            axes.axvline(end_s, color=LINE, linewidth=0.4, zorder=0)
            if phone.lower() in BILABIALS:
                axes.axvspan(start_s, end_s, color=CLOSED, alpha=0.35, linewidth=0, zorder=0.5)
        if phone.lower() in SILENCES:
            continue
        middle_in = (start_s + end_s) / 2 * in_per_s
        half_in = max(len(phone), 1.5) / 2 * LETTER_IN
        level = next((i for i, end in enumerate(ends_in) if middle_in - half_in >= end), None)
        level = int(np.argmin(ends_in)) if level is None else level
        ends_in[level] = middle_in + half_in
        curves.annotate(
            phone, ((start_s + end_s) / 2, 0), (0, -7 - 7 * level), ha="center", va="center",
            xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=PHONE_POINTS,
            annotation_clip=False,
        )  # fmt: skip


def _style(axes: "Axes", span: tuple[float, float]) -> None:
    axes.set_xlim(*span)
    axes.tick_params(labelsize=FONT_POINTS - 1, width=0.5, length=2, pad=2)
    for side in axes.spines.values():
        side.set_linewidth(0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: "Figure", axes: "Axes", opening: Opening) -> None:
    from matplotlib.patches import Patch

    handles, labels = axes.get_legend_handles_labels()
    if any(phone.lower() in BILABIALS for phone, _, _ in opening.segments):
        handles.append(Patch(color=CLOSED, alpha=0.35, linewidth=0))
        labels.append("lips should close (p, b, m)")
    figure.legend(
        handles, labels, loc="upper right", ncols=len(labels), fontsize=FONT_POINTS, frameon=False,
        borderaxespad=0.1, handlelength=1.5, columnspacing=1.2, handletextpad=0.5,
        bbox_to_anchor=(1, 1),
    )  # fmt: skip


def in_words(opening: Opening, name: str) -> str:
    """What the plot of a clip shows, for readers who do not see it."""
    values: Sequence[NDArray] = (opening.truth, opening.prediction)
    truth, prediction = (f"{value.min():.1f} to {value.max():.1f} mm" for value in values)
    return (
        f"Mouth opening of {name} over {opening.seconds:.1f} s: truth {truth}, prediction "
        f"{prediction}"
    )
