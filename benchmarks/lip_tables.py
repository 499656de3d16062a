"""The tables of `bench_lips` as lines of text."""

from collections.abc import Sequence

import numpy as np

from benchmarks.intervals import LEVEL, Figure
from benchmarks.lips import LipScores

COLUMNS = (
    ("jaw_r", "jaw r"),
    ("aperture_r", "gap r"),
    ("closed", "pbm shut"),
    ("others_closed", "others"),
    ("false_closures", "false"),
    ("auc", "AUC"),
    ("sync_frames", "sync"),
    ("width_r", "width r"),
    ("protrusion_r", "forward r"),
    ("rest_shut", "rest shut"),
    ("rest_motion", "rest move"),
)
SHAPE_COLUMNS = (
    ("jaw_amplitude", "jaw"),
    ("aperture_amplitude", "gap"),
    ("width_amplitude", "width"),
    ("protrusion_amplitude", "forward"),
    ("tongue_amplitude", "tongue"),
    ("tongue_r", "tongue r"),
    ("press_amplitude", "press"),
    ("press_r", "press r"),
    ("brow_amplitude", "brow"),
    ("brow_r", "brow r"),
    ("jitter_mm", "jitter mm"),
    ("rules_jitter_mm", "rules' mm"),
    ("rules_false_closures", "rules' false"),
)
_NAME, _COLUMN = 26, 13


def header(columns: Sequence[tuple[str, str]] = COLUMNS) -> str:
    """The column titles; columns: (field, title)."""
    counts = f"{'clips':>6}{'s':>5}{'pbm':>5}{'free':>5}"
    return f"{'':{_NAME}}{counts}" + "".join(f"{title:>{_COLUMN}}" for _, title in columns)


def lines(
    name: str,
    n_clips: int,
    scores: LipScores,
    columns: Sequence[tuple[str, str]] = COLUMNS,
    intervals: bool = True,
) -> str:
    """A row of figures and, below it, their intervals."""
    figures = [getattr(scores, field) for field, _ in columns]
    counts = f"{n_clips:6}{scores.seconds:5.0f}{scores.n_closures:5}{scores.n_free:5}"
    row = f"{name:{_NAME}}{counts}" + "".join(f"{f.value:{_COLUMN}.3f}" for f in figures)
    if not intervals or n_clips < 2:
        return row
    below = "".join(f"{interval(figure):>{_COLUMN}}" for figure in figures)
    return f"{row}\n{f'  {LEVEL} % of the resamples':{len(f'{name:{_NAME}}{counts}')}}{below}"


def interval(figure: Figure) -> str:
    """The interval as "low..high", empty where there is none."""
    if not np.isfinite(figure.low):
        return ""
    return "..".join(f"{v:.3f}".replace("0.", ".", 1) for v in (figure.low, figure.high))


def phone_lines(scores: LipScores) -> list[str]:
    """The tables of single phones: share or ratio with interval, that of the rules, and mm."""
    text, table = [], ""
    for row in scores.phones:
        if row.table != table:
            table = row.table
            text.append(
                f"  {table:25}{'n':>5}{'share':>8}{'':>14}{'rules':>8}{'mm':>7}{'rules':>7}"
            )
        mm = f"{row.mm:7.1f}{row.rules_mm:7.1f}" if np.isfinite(row.mm) else ""
        share = f"{row.share.value:8.3f}{interval(row.share):>14}{row.rules_share:8.3f}"
        text.append(f"    {row.row:23}{row.n:5}{share}{mm}")
    return text
