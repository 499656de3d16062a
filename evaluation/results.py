"""From the rows of all clips to what a run folder keeps: means, Markdown tables, JSON and CSV.

A row holds one clip's metrics, lengths in the data set's unit (`scoring.score_split`); the tables
are in millimetres. Where the data set is one of the field's, the run stands under the published
rows (literature.py), in the unit in which those are printed.
"""

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import DatasetSpec
from evaluation.literature import WARNING, benchmark, comparison, rows_of
from metrics import CLOSED_M

UNITS = {"lve": "unit²", "fdd": "unit²", "mve": "unit", "jitter": "unit/s²", "cer": "ratio"}
OVER_FRAMES = ("lve", "mve", "jitter")  # metrics averaged over frames; FDD is over clips
ENDS = {"model": "", "motionless template": "_motionless", "captured truth": "_truth"}
BLIND = 0.95  # of the motionless template's error rate: a reader no better on true lips is blind


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`means` of all rows; where rows name a split, those of each under "splits" and, in each of
    these, of each subject under "subjects"."""
    total = means(rows)
    if "split" not in rows[0]:
        return total
    total["splits"] = {}
    for split, of_split in grouped(rows, "split").items():
        subjects = {name: means(group) for name, group in grouped(of_split, "subject").items()}
        total["splits"][split] = means(of_split) | {"subjects": subjects}
    return total


def grouped(rows: list[dict[str, Any]], key: str) -> dict[str, list[dict[str, Any]]]:
    """Rows by the value they have for `key`, in the order of their first appearance."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """LVE, MVE, jitter over all frames; FDD, r, sync over clips; closures, characters pooled."""
    frames = np.array([row["frames"] for row in rows])
    total: dict[str, Any] = {"clips": len(rows), "frames": int(frames.sum())}
    for name in rows[0]:
        if name.partition("_")[0] in OVER_FRAMES:
            total[name] = weighted([row[name] for row in rows], frames)
    for name in ("fdd", "fdd_motionless"):
        total[name] = float(np.mean([row[name] for row in rows]))
        total[f"abs_{name}"] = float(np.mean([abs(row[name]) for row in rows]))
    total["lve_ratio"] = total["lve"] / (total["lve_motionless"] or math.nan)
    total["static_clips"] = [row.get("clip", "") for row in rows if row["static"]]
    if "opening_r" in rows[0]:
        total["opening_r"] = mean_of_known([row["opening_r"] for row in rows])
        total["sync_ms"] = mean_of_known([row["sync_ms"] for row in rows])
        n = sum(row["closures"] for row in rows)
        if n:
            total["closures"] = n
            total["closed"] = sum(row["closed"] for row in rows) / n
            total["closed_truth"] = sum(row["closed_truth"] for row in rows) / n
    if "cer" in rows[0]:
        characters = np.array([row["characters"] for row in rows])
        total["characters"] = int(characters.sum())
        for name in ("cer", "cer_truth", "cer_motionless"):
            total[name] = weighted([row[name] for row in rows], characters)
    return total


def weighted(values: Sequence[float], weights: NDArray) -> float:
    """Mean of the values that are numbers, each counted `weights` times; NaN when none is."""
    known = ~np.isnan(values) & (weights > 0)
    if not known.any():
        return math.nan
    return float(np.average(np.array(values)[known], weights=weights[known]))


def mean_of_known(values: Sequence[float]) -> float:
    """Mean of the values that are numbers; NaN when none is."""
    return weighted(values, np.ones(len(values)))


def table(total: dict[str, Any], spec: DatasetSpec, split: str) -> str:
    """The Markdown tables: per split, per subject, and under the published rows if there are any.

    total: as `summarise` makes it, perhaps with "checkpoint", "regions" {"lips": ..., "upper": ...}
    and the line "reading".
    """
    regions = total.get("regions", {"lips": spec.lips_region, "upper": spec.upper_region})
    splits = total.get("splits", {split: total})
    everything = {"all": total} if len(splits) > 1 else {}
    lines = [
        f"{spec.name}, {split}: {total['clips']} clips, {total['frames']} frames, {spec.fps} fps; "
        f"lips {regions['lips']}, upper {regions['upper']}; 1 unit = {_millimetres(spec):g} mm"
        f"{'; model ' + total['checkpoint'] if 'checkpoint' in total else ''}",
        "",
        *split_lines(splits | everything, spec),
        "",
        *(f"- {line}" for line in measure_lines(total)),
    ]
    if "splits" in total:
        lines += ["", *subject_lines(splits, spec)]
    for name, values in splits.items():
        found = benchmark(spec.name, name, spec.n_vertices)
        if found is not None:
            still = {m: values[f"{m}_motionless"] for m in found.scales}
            runs = {"motionless template": still, f"**{spec.name}, {name}**": values}
            lines += ["", f"## {spec.name} {name} under the published rows", ""]
            where = f"lips {regions['lips']}, upper {regions['upper']}"
            lines += [comparison(found, runs, where)]
    return "\n".join(lines)


def _millimetres(spec: DatasetSpec) -> float:
    return spec.metres_per_unit * 1000.0


def _cells(values: dict[str, Any], end: str, spec: DatasetSpec) -> list[str]:
    """LVE, FDD, abs. FDD, MVE, jitter, CER of one row of a table; "-" for what there is not."""
    mm = _millimetres(spec)
    units = {"lve": mm**2, "fdd": mm**2, "abs_fdd": mm**2, "mve": mm, "jitter": mm, "cer": 1.0}
    digits = {"jitter": 0, "cer": 3}
    found = {name: values.get(name + end, math.nan) for name in units}
    return [
        "-" if math.isnan(value) else f"{value * units[name]:.{digits.get(name, 4)}f}"
        for name, value in found.items()
    ]


HEADINGS = ("LVE (mm²)", "FDD (mm²)", "abs. FDD (mm²)", "MVE (mm)", "jitter (mm/s²)", "CER")


def split_lines(splits: dict[str, dict[str, Any]], spec: DatasetSpec) -> list[str]:
    """The main table: model, motionless template and truth of every split."""
    lines = [_line("split", "", *HEADINGS), _line(*["---"] * (len(HEADINGS) + 2))]
    for name, values in splits.items():
        for label, end in ENDS.items():
            lines.append(_line(name, label, *_cells(values, end, spec)))
    return lines


def subject_lines(splits: dict[str, dict[str, Any]], spec: DatasetSpec) -> list[str]:
    """The model's scores of every subject."""
    lines = [_line("split", "subject", "clips", "frames", *HEADINGS)]
    lines += [_line(*["---"] * (len(HEADINGS) + 4))]
    for name, of_split in splits.items():
        for subject, values in of_split["subjects"].items():
            counts = (str(values["clips"]), str(values["frames"]))
            lines.append(_line(name, subject, *counts, *_cells(values, "", spec)))
    return lines


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def measure_lines(total: dict[str, Any]) -> list[str]:
    """What the tables do not hold, and what they mean, as sentences."""
    lines = [f"LVE of the model / of the motionless template: {total['lve_ratio']:.3f}"]
    if "opening_r" in total:
        lines.append(f"mouth opening r: {total['opening_r']:.3f}; sync: {total['sync_ms']:+.0f} ms")
    if "closed" in total:
        lines.append(
            f"p b m closed: {total['closed']:.3f} of {total['closures']} "
            f"(truth {total['closed_truth']:.3f}; opening up to {CLOSED_M * 1000} mm)"
        )
    if total.get("reading"):
        lines.append(total["reading"])
    if total.get("cer_truth", 0.0) > BLIND * total.get("cer_motionless", math.inf):
        lines.append("The reader reads the true lips no better than a face that does not move: "
                     "its rates judge nothing; train it longer")  # fmt: skip
    if total["static_clips"]:
        names = total["static_clips"]
        lines.append(
            f"STATIC FACE in {len(names)} of {total['clips']} clips ({', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}): the lips move by less than a hundredth of "
            "their width and a quarter of what the truth's do; usual causes: data in another unit, "
            "too high an --encoder_learning_rate, too few epochs"
        )
    return lines


def published_rows(spec: DatasetSpec, splits: Sequence[str]) -> dict[str, Any]:
    """The warning and the published rows of these splits, for results.json; {} without any."""
    rows = []
    for split in splits:
        found = benchmark(spec.name, split, spec.n_vertices)
        for row in rows_of(found) if found is not None else []:
            rows.append({"dataset": spec.name, "split": split} | dataclasses.asdict(row))
    return {"warning": WARNING, "rows": rows} if rows else {}


def without_nan(value: Any) -> Any:
    """NaN (an r of something that never moves) as None, which JSON can say, at any depth."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def results_name(spec: DatasetSpec, splits: Sequence[str]) -> str:
    """The files' name: "results" for all test splits of a data set, else with the splits' names.

    So the scores of another split never take the place of the test's.
    """
    test = {split for split in spec.splits if split.startswith("test")}
    return "results" if set(splits) == test else "_".join(["results", *splits])


def write_results(
    folder: Path, rows: list[dict[str, Any]], total: dict[str, Any], text: str, name: str
) -> None:
    """<name>.json, <name>.csv and <name>.md in the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = without_nan({"total": total, "clips": rows})
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    with open(folder / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    (folder / f"{name}.md").write_text(text + "\n")
