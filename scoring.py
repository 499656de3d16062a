"""The test mode: every clip of a split predicted and scored, the table written to the run folder.

Metrics are those of metrics.py; beside the model stands the motionless template, so that a number
can be judged. results.json and results.csv hold every clip, results.md the table.
"""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from config import DatasetSpec
from data_loader import MeshSpeechDataset, load_region
from errors import UserError
from jambatalk import JambaTalk
from metrics import (
    closures,
    is_static,
    lip_errors,
    lip_sync_offset_ms,
    mean_vertex_errors,
    motionless,
    mouth_opening,
    mouth_opening_correlation,
    upper_face_dynamics_deviation,
)

CLOSED_M = 0.0012  # metres between inner lips up to which a mouth is shut: 6 % of an open jaw


def score_split(
    model: JambaTalk, spec: DatasetSpec, split: str, device: torch.device
) -> list[dict[str, Any]]:
    """One row a clip, model and motionless template; lengths in the data set's unit."""
    data = MeshSpeechDataset(spec, split)
    lips = load_region(spec.path(spec.lips_region), spec.n_vertices)
    upper = load_region(spec.path(spec.upper_region), spec.n_vertices)
    inner = np.loadtxt(spec.path(spec.inner_lips), dtype=int) if spec.inner_lips else None
    phones = load_phones(spec)
    rows = []
    for item in tqdm(data, desc=f"{spec.name} {split}", total=len(data), mininterval=5):
        audio = torch.from_numpy(item["audio"]).to(device)
        template = torch.from_numpy(item["template"]).to(device)
        predicted = model.predict(audio, template).cpu().numpy()
        frames = min(len(predicted), item["frames"])
        predicted, truth = predicted[:frames], item["vertices"][:frames]
        row = {"clip": item["name"], "subject": item["subject"], "frames": frames}
        row |= clip_scores(predicted, truth, item["template"], lips, upper)
        if inner is not None:
            segments = phones.get(item["name"], [])
            row |= mouth_scores(predicted, truth, inner, segments, spec)
        rows.append(row)
    return rows


def clip_scores(
    predicted: np.ndarray, truth: np.ndarray, template: np.ndarray,
    lips: np.ndarray, upper: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """LVE, FDD, MVE of a prediction (T, V, 3), and of the template that does not move."""
    still = motionless(template, len(truth))
    return {
        "lve": float(lip_errors(predicted, truth, lips).mean()),
        "fdd": upper_face_dynamics_deviation(predicted, truth, template, upper),
        "mve": float(mean_vertex_errors(predicted, truth).mean()),
        "lve_motionless": float(lip_errors(still, truth, lips).mean()),
        "fdd_motionless": upper_face_dynamics_deviation(still, truth, template, upper),
        "mve_motionless": float(mean_vertex_errors(still, truth).mean()),
        "static": is_static(predicted, lips),
    }


def mouth_scores(
    predicted: np.ndarray, truth: np.ndarray, inner: np.ndarray, segments: list, spec: DatasetSpec
) -> dict[str, Any]:
    """Mouth opening against the truth's, and closures on p, b, m where the phones are known."""
    threshold = CLOSED_M / spec.metres_per_unit
    opening = mouth_opening(predicted, int(inner[0]), int(inner[1]))
    wanted = mouth_opening(truth, int(inner[0]), int(inner[1]))
    shut = closures(opening, segments, threshold, spec.fps)
    return {
        "opening_r": mouth_opening_correlation(opening, wanted),
        "sync_ms": lip_sync_offset_ms(opening, wanted, spec.fps),
        "closures": len(shut),
        "closed": int(shut.sum()),
        "closed_truth": int(closures(wanted, segments, threshold, spec.fps).sum()),
    }


def load_phones(spec: DatasetSpec) -> dict[str, list]:
    """Clip -> [[phone, start_s, end_s], ...] of `spec.phones`; empty when the set has none."""
    if not spec.phones:
        return {}
    path = spec.path(spec.phones)
    if not path.exists():
        raise UserError(f"{path}: no such file; make the data: python -m synthetic.make_corpus")
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            found[row["name"]] = row["segments"]
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{path}, line {number}: not a JSON object with name and segments; make it again"
            ) from error
    return found


def summarise(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means over all frames (LVE, MVE), clips (FDD, r, sync), closures pooled."""
    frames = np.array([row["frames"] for row in rows])
    total: dict[str, float] = {"clips": len(rows), "frames": int(frames.sum())}
    for name in ("lve", "mve", "lve_motionless", "mve_motionless"):
        total[name] = float(np.average([row[name] for row in rows], weights=frames))
    for name in ("fdd", "fdd_motionless"):
        total[name] = float(np.mean([row[name] for row in rows]))
    total["abs_fdd"] = float(np.mean([abs(row["fdd"]) for row in rows]))
    total["lve_ratio"] = total["lve"] / total["lve_motionless"]
    total["static_clips"] = sum(row["static"] for row in rows)
    if "opening_r" in rows[0]:
        total["opening_r"] = float(np.nanmean([row["opening_r"] for row in rows]))
        total["sync_ms"] = float(np.nanmean([row["sync_ms"] for row in rows]))
        n = sum(row["closures"] for row in rows)
        if n:
            total["closures"] = n
            total["closed"] = sum(row["closed"] for row in rows) / n
            total["closed_truth"] = sum(row["closed_truth"] for row in rows) / n
    return total


def table(total: dict[str, float], spec: DatasetSpec, split: str) -> str:
    """A Markdown table of the run beside the motionless template."""
    mm = spec.metres_per_unit * 1000.0
    lines = [
        f"{spec.name}, {split}: {total['clips']} clips, {total['frames']} frames, {spec.fps} fps; "
        f"lips {spec.lips_region}, upper {spec.upper_region}",
        "",
        "| | LVE (mm²) | FDD (mm²) | MVE (mm) |",
        "|---|---|---|---|",
    ]
    for label, end in (("model", ""), ("motionless template", "_motionless")):
        lines.append(
            f"| {label} | {total['lve' + end] * mm**2:.4f} | {total['fdd' + end] * mm**2:.4f} "
            f"| {total['mve' + end] * mm:.4f} |"
        )
    lines += ["", f"LVE of the model / of the motionless template: {total['lve_ratio']:.3f}"]
    if "opening_r" in total:
        lines.append(f"mouth opening r: {total['opening_r']:.3f}; sync: {total['sync_ms']:+.0f} ms")
    if "closed" in total:
        lines.append(
            f"p b m closed: {total['closed']:.3f} of {total['closures']} "
            f"(truth {total['closed_truth']:.3f}; opening up to {CLOSED_M * 1000} mm)"
        )
    if total["static_clips"]:
        lines.append(f"STATIC FACE in {total['static_clips']} clips: the lips hardly move")
    return "\n".join(lines)


def without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """NaN (an r of something that never moves) as None, which JSON can say."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def write_results(
    folder: Path, rows: list[dict[str, Any]], total: dict[str, float], text: str
) -> None:
    """results.json, results.csv and results.md in the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"total": without_nan(total), "clips": [without_nan(row) for row in rows]}
    (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    with open(folder / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    (folder / "results.md").write_text(text + "\n")
