"""The table of the field: means and spread over seeds, as Markdown and as JSON."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A column: the name of a cell's figure, its title, decimals, which is better, and a factor."""

    name: str
    title: str
    digits: int
    better: int = 0  # 1: larger, -1: smaller, 0: neither
    factor: float = 1.0


CORPUS = (
    Column("lve", "LVE mm²", 3, -1),
    Column("fdd", "FDD mm²", 4),
    Column("abs_fdd", "abs. FDD mm²", 4, -1),
    Column("mve", "MVE mm", 4, -1),
    Column("test_opening_r", "gap r", 3, 1),
    Column("test_mtm_ms", "MTM ms", 1, -1),
    Column("test_closed", "p b m closed", 3, 1),
    Column("jitter", "jitter mm/s²", 0),
    Column("cer", "CER", 3, -1),
)
REAL = (
    Column("real_jaw_r", "jaw r", 3, 1),
    Column("real_aperture_r", "gap r", 3, 1),
    Column("real_closed", "p b m closed", 3, 1),
    Column("real_others_closed", "others", 3, -1),
    Column("real_false_closures", "false", 3, -1),
    Column("real_auc", "AUC", 3, 1),
    Column("real_width_r", "width r", 3, 1),
    Column("real_protrusion_r", "forward r", 3, 1),
    Column("real_jitter_mm", "jitter mm", 3),
)
COST = (
    Column("decoder_parameters", "decoder, M parameters", 2, -1, 1e-6),
    Column("steps", "steps", 0),
    Column("seconds_a_step", "s a step", 3, -1),
    Column("real_time_factor", "s a second of sound", 4, -1),
    Column("training_mb", "training MB", 0, -1),
    Column("look_ahead_frames", "look-ahead, frames", 0, -1),
)
TABLES = {
    "Held-out clips of the data set": CORPUS,
    "Human recordings, dev half": REAL,
    "Cost": COST,
}


def summary(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Model -> figure -> {"mean", "sd", "n"}; sd is None for one seed.

    records: of `field_cell.run`. A figure that a record lacks or has as None is left out.
    """
    models: dict[str, dict[str, Any]] = {}
    names = {column.name for columns in TABLES.values() for column in columns}
    for model in dict.fromkeys(record["cell"]["name"] for record in records):
        own = [record for record in records if record["cell"]["name"] == model]
        models[model] = {}
        for name in sorted(names):
            values = [record[name] for record in own if record.get(name) is not None]
            if values:
                sd = statistics.stdev(values) if len(values) > 1 else None
                models[model][name] = {"mean": statistics.fmean(values), "sd": sd, "n": len(values)}
    return models


def best(models: dict[str, dict[str, Any]], column: Column) -> float:
    """The best mean of a column, NaN where no value is better than another."""
    means = [figures[column.name]["mean"] for figures in models.values() if column.name in figures]
    if not column.better or len(means) < 2:
        return math.nan
    return max(means) if column.better > 0 else min(means)


def cell_text(figures: dict[str, Any], column: Column, winner: float) -> str:
    """Mean and spread of a figure; the best mean of a column is bold."""
    value = figures.get(column.name)
    if value is None:
        return "-"
    mean, digits = value["mean"], column.digits
    text = f"{mean * column.factor:,.{digits}f}"
    text = f"**{text}**" if mean == winner else text
    return text if value["sd"] is None else f"{text} ± {value['sd'] * column.factor:.{digits}f}"


def markdown(models: dict[str, dict[str, Any]]) -> str:
    """The tables of `summary`; tables and columns without figures are left out."""
    parts = []
    for title, columns in TABLES.items():
        used = [c for c in columns if any(c.name in figures for figures in models.values())]
        if not used:
            continue
        lines = [f"### {title}", "", _line("", *(c.title for c in used)),
                 _line(*["---"] * (len(used) + 1))]  # fmt: skip
        winners = [best(models, column) for column in used]
        for model, figures in models.items():
            cells = (cell_text(figures, c, w) for c, w in zip(used, winners, strict=True))
            lines.append(_line(model, *cells))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
