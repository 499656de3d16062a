"""Results of a test from the rows of its clips: means, Markdown tables, JSON and CSV files.

A row has the metrics of one clip in the data set's unit (`scoring.score_split`); the tables are in
millimetres. For VOCASET and BIWI there is a table of published scores (literature.py) as well, with
the run in the unit in which those are printed.
"""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason_of
from common.whole_file import write_together
from config import DatasetSpec
from evaluation.literature import WARNING, benchmark, comparison, rows_of
from metrics import CLOSED_M

OVER_FRAMES = ("lve", "mve", "jitter")  # metrics averaged over frames; FDD is over clips
SUFFIXES = {"model": "", "motionless template": "_motionless", "captured truth": "_truth"}
# Character error rate on true lips, as a share of that on a motionless face, above which the rates
# of a lip reader have no meaning.
MAX_TRUTH_CER_SHARE = 0.95


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The `means` of all rows.

    If rows have a "split", "splits" has those of each split, and in each of these "subjects" those
    of each subject.
    """
    total = means(rows)
    if "split" not in rows[0]:
        return total
    total["splits"] = {}
    for split, of_split in grouped(rows, "split").items():
        subjects = {name: means(group) for name, group in grouped(of_split, "subject").items()}
        total["splits"][split] = means(of_split) | {"subjects": subjects}
    return total


def grouped(rows: list[dict[str, Any]], key: str) -> dict[str, list[dict[str, Any]]]:
    """Value of `key` -> the rows that have it, in the order of first appearance."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of the metrics of rows (at least one).

    LVE, MVE and jitter are means over all frames; FDD, opening r, sync and MTM over clips; closures
    and character error rates over all closures and characters.
    """
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
        total["opening_r"] = mean_without_nan([row["opening_r"] for row in rows])
        total["sync_ms"] = mean_without_nan([row["sync_ms"] for row in rows])
        total["mtm_ms"] = mean_without_nan([row["mtm_ms"] for row in rows])
        total["mtm_extrema"] = sum(row["mtm_extrema"] for row in rows)
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
    """Weighted mean of the values that are not NaN; NaN when all are."""
    valid = ~np.isnan(values) & (weights > 0)
    if not valid.any():
        return math.nan
    return float(np.average(np.array(values)[valid], weights=weights[valid]))


def mean_without_nan(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN when all are."""
    return weighted(values, np.ones(len(values)))


def table(total: dict[str, Any], spec: DatasetSpec, split: str) -> str:
    """The Markdown tables: by split, by subject, and with published scores if there are any.

    total: of `summarise`, with or without "checkpoint", "regions" {"lips": ..., "upper": ...} and
    "lip_reader", a line on the lip reader.
    """
    regions = total.get("regions", {"lips": spec.lips_region, "upper": spec.upper_region})
    region_text = f"lips: {regions['lips']}, upper face: {regions['upper']}"
    splits = total.get("splits", {split: total})
    everything = {"all": total} if len(splits) > 1 else {}
    lines = [
        f"{spec.name}, {split}: {total['clips']} clips, {total['frames']} frames, {spec.fps} fps; "
        f"LVE on lips: {regions['lips']}; FDD on upper face: {regions['upper']}; MVE and jitter on "
        f"all {spec.n_vertices} vertices; 1 unit = {_millimetres(spec):g} mm"
        f"{'; model ' + total['checkpoint'] if 'checkpoint' in total else ''}",
        "",
        *split_lines(splits | everything, spec),
        "",
        *(f"- {line}" for line in summary_lines(total)),
    ]
    if "splits" in total:
        lines += ["", *subject_lines(splits, spec)]
    for name, values in splits.items():
        reference = benchmark(spec.name, name, spec.n_vertices)
        if reference is not None:
            motionless = {m: values[f"{m}_motionless"] for m in reference.scales}
            runs = {"motionless template": motionless, f"**{spec.name}, {name}**": values}
            lines += ["", f"## {spec.name} {name} and published scores", ""]
            lines += [comparison(reference, runs, region_text)]
    return "\n".join(lines)


def _millimetres(spec: DatasetSpec) -> float:
    return spec.metres_per_unit * 1000.0


def _cells(values: dict[str, Any], suffix: str, spec: DatasetSpec) -> list[str]:
    """LVE, FDD, abs. FDD, MVE, jitter, CER of one row of a table; "-" for missing values."""
    mm = _millimetres(spec)
    units = {"lve": mm**2, "fdd": mm**2, "abs_fdd": mm**2, "mve": mm, "jitter": mm, "cer": 1.0}
    digits = {"jitter": 0, "cer": 3}
    row = {name: values.get(name + suffix, math.nan) for name in units}
    return [
        "-" if math.isnan(value) else f"{value * units[name]:.{digits.get(name, 4)}f}"
        for name, value in row.items()
    ]


HEADINGS = ("LVE (mm²)", "FDD (mm²)", "abs. FDD (mm²)", "MVE (mm)", "jitter (mm/s²)", "CER")


def split_lines(splits: dict[str, dict[str, Any]], spec: DatasetSpec) -> list[str]:
    """The main table: the scores of model, motionless template and truth for every split."""
    lines = [_line("split", "", *HEADINGS), _line(*["---"] * (len(HEADINGS) + 2))]
    for name, values in splits.items():
        for label, suffix in SUFFIXES.items():
            lines.append(_line(name, label, *_cells(values, suffix, spec)))
    return lines


def subject_lines(splits: dict[str, dict[str, Any]], spec: DatasetSpec) -> list[str]:
    """A table of the model's scores for every subject."""
    lines = [_line("split", "subject", "clips", "frames", *HEADINGS)]
    lines += [_line(*["---"] * (len(HEADINGS) + 4))]
    for name, of_split in splits.items():
        for subject, values in of_split["subjects"].items():
            counts = (str(values["clips"]), str(values["frames"]))
            lines.append(_line(name, subject, *counts, *_cells(values, "", spec)))
    return lines


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def summary_lines(total: dict[str, Any]) -> list[str]:
    """Lines with the metrics that are not in the tables, and with warnings."""
    lines = [f"LVE of the model / of the motionless template: {total['lve_ratio']:.3f}"]
    if "opening_r" in total:
        sync_ms = round(total["sync_ms"], 0) + 0.0  # -0.0 + 0.0 is 0.0: "+0", not "-0"
        lines.append(f"mouth opening r: {total['opening_r']:.3f}; sync: {sync_ms:+.0f} ms")
        matched = f"{total['mtm_extrema']} matched extrema of the opening"
        lines.append(f"MTM: {total['mtm_ms']:.1f} ms, {matched}" if total["mtm_extrema"] else
                     "MTM: none, no extrema of the opening match")  # fmt: skip
    if "closed" in total:
        lines.append(
            f"p b m closed: {total['closed']:.3f} of {total['closures']} "
            f"(truth {total['closed_truth']:.3f}; opening up to {CLOSED_M * 1000} mm)"
        )
    if total.get("lip_reader"):
        lines.append(total["lip_reader"])
    if total.get("cer_truth", 0.0) > MAX_TRUTH_CER_SHARE * total.get("cer_motionless", math.inf):
        lines.append("the lip reader's error rate on true lips is close to that on a motionless "
                     "face, so its error rates have no meaning; train it longer")  # fmt: skip
    if total["static_clips"]:
        names = total["static_clips"]
        lines.append(
            f"STATIC FACE in {len(names)} of {total['clips']} clips ({', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}): the lips move by less than a hundredth of "
            "their width and less than a quarter of the true motion; usual causes: data in another "
            "unit, a too high --encoder_learning_rate, too few epochs"
        )
    return lines


def published_rows(spec: DatasetSpec, splits: Sequence[str]) -> dict[str, Any]:
    """The warning and the published scores of these splits, for results.json; {} without any."""
    rows = []
    for split in splits:
        reference = benchmark(spec.name, split, spec.n_vertices)
        for row in rows_of(reference) if reference is not None else []:
            rows.append({"dataset": spec.name, "split": split} | dataclasses.asdict(row))
    return {"warning": WARNING, "rows": rows} if rows else {}


def without_nan(value: Any) -> Any:
    """`value` with NaN replaced by None at any depth, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def results_name(spec: DatasetSpec, splits: Sequence[str]) -> str:
    """Stem of the result files: "results" for all test splits, else "results_<split>".

    So the scores of other splits never replace those of the test splits.
    """
    test = {split for split in spec.splits if split.startswith("test")}
    return "results" if set(splits) == test else "_".join(["results", *splits])


def write_results(
    folder: Path, rows: list[dict[str, Any]], total: dict[str, Any], text: str, name: str
) -> None:
    """Write <name>.json, <name>.csv and <name>.md into the run folder, all of them or none.

    rows: of the clips; total: of `summarise`; text: of `table`. Raises `UserError` where the folder
    cannot be written.
    """
    content = without_nan({"total": total, "clips": rows})
    rows_csv = io.StringIO(newline="")
    writer = csv.DictWriter(rows_csv, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_together(
            {
                folder / f"{name}.json": json.dumps(content, indent=1) + "\n",
                folder / f"{name}.csv": rows_csv.getvalue(),
                folder / f"{name}.md": text + "\n",
            }
        )
    except OSError as error:
        raise UserError(
            f"results {folder}/{name}: cannot be written ({reason_of(error)})"
        ) from error
