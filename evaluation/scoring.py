"""The test mode: predicts and scores every clip of a split and writes the results.

The metrics are those of metrics.py. For comparison, the motionless template is scored as well, and
the character error rate of predicted lips is listed with that of true lips. results.json and
results.csv have a row for every clip. results.md has the tables by split and subject and, for
VOCASET and BIWI, published scores. Splits other than the test splits get files of their own
(results_val.md). Clips are predicted and scored one at a time, and their meshes are then freed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import UserError
from common.units import metric_units, unit_name
from config import DatasetSpec
from data_loader import OpenDataset
from dataset.regions import Region, lip_sides
from evaluation.misalignment import temporal_misalignment
from evaluation.phones import load_phones
from evaluation.results import published_rows, results_name, summarise, table, write_results
from evaluation.saved import check_predictions_folder, save_prediction
from jambatalk import JambaTalk
from lip_reader import READER_FILE, LipReadingScorer, edit_distance, load_reader
from metrics import (
    CLOSED_M,
    closures,
    jitter,
    lip_errors,
    lip_sync_offset_ms,
    mean_vertex_errors,
    motionless,
    mouth_opening,
    mouth_opening_correlation,
    stays_still,
    upper_face_dynamics_deviation,
)
from speech.pretrained import load_pretrained
from wav2vec import TextTeacher


def evaluate(
    model: JambaTalk, dataset: OpenDataset, splits: Sequence[str], device: torch.device,
    checkpoint: Path, out: Path, teacher: str | None = None, predictions: Path | None = None,
) -> str:  # fmt: skip
    """Score a model on splits of a data set, write the results into `out`, return the table.

    The lip reader is the file READER_FILE in the folder of `checkpoint`; `teacher` (hub name or
    folder of a CTC model) replaces the one that this file names. predictions: folder for the
    predicted vertices of every clip (saved.py), None to keep none. Raises `UserError` for missing
    data and for results that cannot be written.
    """
    spec = dataset.spec
    if predictions is not None:
        check_predictions_folder(predictions, spec)
    for split in splits:
        dataset.split(split)  # raises for missing files before the first clip is scored
    scorer, remark = load_lip_scorer(checkpoint.parent / READER_FILE, spec, device, teacher)
    rows = [
        row for s in splits for row in score_split(model, dataset, s, device, scorer, predictions)
    ]
    total = {"checkpoint": str(checkpoint), "dataset": spec.name, "split": ", ".join(splits)}
    units = metric_units(unit_name(spec.metres_per_unit))
    total |= {"metres_per_unit": spec.metres_per_unit, "units": units}
    total |= {"regions": {which: region_label(region) for which, region in dataset.regions.items()}}
    total |= {"lip_reader": remark} | summarise(rows)
    total |= {"published": published_rows(spec, splits)}
    text = table(total, spec, total["split"])
    write_results(out, rows, total, text, results_name(spec, splits))
    return text


def load_lip_scorer(
    path: Path, spec: DatasetSpec, device: torch.device, teacher: str | None = None
) -> tuple[LipReadingScorer | None, str]:
    """The lip reader of the file `path` with its teacher, and a line that describes them.

    Where one of the two cannot be loaded: None, and a line with the reason.
    """
    try:
        saved = load_reader(path)
        if saved.lips.max() >= spec.n_vertices:
            raise UserError(
                f"lip reader {path}: lip vertex {saved.lips.max()}, expected less than "
                f"{spec.n_vertices}; it was trained on another topology"
            )
        source = teacher or saved.teacher
        scorer = LipReadingScorer(saved, TextTeacher(load_pretrained(source)), device)
    except UserError as error:
        return None, f"no character error rate: {error}"
    return scorer, (
        f"character error rate: {path} on {len(saved.lips)} lip vertices ({saved.region}), "
        f"against the transcript of {source}"
    )


def region_label(region: Region) -> str:
    """The name of a region in tables: its source and its number of vertices."""
    counted = "vertices" in region.source
    return region.source + ("" if counted else f" ({len(region.indices)} vertices)")


def score_split(
    model: JambaTalk, dataset: OpenDataset, split: str, device: torch.device,
    lip_scorer: LipReadingScorer | None = None, predictions: Path | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for every clip of a split; lengths are in the data set's unit.

    predictions: folder for the frames that are scored, None to keep none.
    """
    data = dataset.split(split)
    scorer = ClipScorer(dataset, lip_scorer, predictions)
    rows = []
    for index in tqdm(range(len(data)), desc=f"{dataset.spec.name} {split}", mininterval=5):
        rows.append({"split": split} | scorer.row(model, data[index], device))
    return rows


class ClipScorer:
    """Predicts and scores clips of a data set.

    Metrics of the inner lips need `spec.inner_lips`, closures also `spec.phones`, character error
    rates a lip scorer. predictions: folder for the frames that are scored, None to keep none.
    """

    def __init__(
        self,
        dataset: OpenDataset,
        lip_scorer: LipReadingScorer | None,
        predictions: Path | None = None,
    ) -> None:
        spec = dataset.spec
        self.predictions = predictions
        self.spec, self.lip_scorer = spec, lip_scorer
        self.lips, self.upper = (dataset.regions[which].indices for which in ("lips", "upper"))
        inner_lips = dataset.regions.get("inner_lips")
        self.inner = lip_sides(inner_lips.indices, inner_lips.source) if inner_lips else None
        self.phones = load_phones(spec)

    def row(self, model: JambaTalk, item: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """The scores of an item of `MeshSpeechDataset`, by name of the metric."""
        audio = torch.from_numpy(item["audio"]).to(device)
        template = torch.from_numpy(item["template"]).to(device)
        predicted = model.predict(audio, template, item["subject"]).cpu().numpy()
        frames = min(len(predicted), item["frames"])
        predicted, truth = predicted[:frames], item["vertices"][:frames]
        if self.predictions is not None:
            save_prediction(self.predictions, item["name"], predicted)
        row = {"clip": item["name"], "subject": item["subject"], "frames": frames}
        row |= clip_scores(predicted, truth, item["template"], self.lips, self.upper, self.spec.fps)
        if self.inner is not None:
            segments = self.phones.get(item["name"], [])
            row |= mouth_scores(predicted, truth, self.inner, segments, self.spec)
        if self.lip_scorer is not None:
            audio = item["audio"]
            row |= reading_scores(self.lip_scorer, audio, predicted, truth, item["template"])
        return row


def clip_scores(
    predicted: np.ndarray, truth: np.ndarray, template: np.ndarray,
    lips: np.ndarray, upper: np.ndarray, fps: int,
) -> dict[str, Any]:  # fmt: skip
    """LVE, FDD, MVE and jitter of a prediction; LVE, FDD and MVE of the motionless template.

    predicted, truth: (T, V, 3); template: (V, 3); lips, upper: vertex indices.
    """
    still = motionless(template, len(truth))
    has_acceleration = len(truth) > 2
    fdd = upper_face_dynamics_deviation(predicted, truth, template, upper)
    return {
        "lve": float(lip_errors(predicted, truth, lips).mean()),
        "fdd": fdd,
        "abs_fdd": abs(fdd),
        "mve": float(mean_vertex_errors(predicted, truth).mean()),
        "lve_motionless": float(lip_errors(still, truth, lips).mean()),
        "fdd_motionless": upper_face_dynamics_deviation(still, truth, template, upper),
        "mve_motionless": float(mean_vertex_errors(still, truth).mean()),
        "jitter": jitter(predicted, fps) if has_acceleration else math.nan,
        "jitter_truth": jitter(truth, fps) if has_acceleration else math.nan,
        "static": stays_still(predicted, truth, lips),
    }


def mouth_scores(
    predicted: np.ndarray, truth: np.ndarray, inner: tuple[list[int], list[int]], segments: list,
    spec: DatasetSpec,
) -> dict[str, Any]:  # fmt: skip
    """Correlation, sync and MTM of the mouth opening with the truth's; closures on p, b, m.

    predicted, truth: (T, V, 3); inner: vertices of the upper and of the lower inner lip; segments:
    [phone, start_s, end_s] of the clip, empty where phones are unknown.
    """
    threshold = CLOSED_M / spec.metres_per_unit
    opening, true_opening = mouth_opening(predicted, *inner), mouth_opening(truth, *inner)
    misalignment = temporal_misalignment(opening, true_opening, spec.fps)
    closed = closures(opening, segments, threshold, spec.fps)
    return {
        "opening_r": mouth_opening_correlation(opening, true_opening),
        "sync_ms": lip_sync_offset_ms(opening, true_opening, spec.fps),
        "mtm_ms": misalignment.ms,
        "mtm_extrema": misalignment.extrema,
        "closures": len(closed),
        "closed": int(closed.sum()),
        "closed_truth": int(closures(true_opening, segments, threshold, spec.fps).sum()),
    }


def reading_scores(
    scorer: LipReadingScorer, audio: NDArray, predicted: NDArray, truth: NDArray, template: NDArray
) -> dict[str, Any]:
    """Character error rates of predicted, true and motionless lips against the teacher's text.

    audio: (S,), normalised; predicted, truth: (T, V, 3); template: (V, 3). NaN for an empty text.
    """
    target, n_audio_frames = scorer.transcribe_audio(audio)
    still = motionless(template, len(truth))
    texts = {
        suffix: scorer.transcribe_lips(vertices, template, n_audio_frames)
        for suffix, vertices in (("", predicted), ("_truth", truth), ("_motionless", still))
    }
    row: dict[str, Any] = {"characters": len(target)}
    for suffix, text in texts.items():
        row[f"cer{suffix}"] = edit_distance(text, target) / len(target) if target else math.nan
    teacher_text, reader_text = scorer.to_string(target), scorer.to_string(texts[""])
    return row | {"teacher_text": teacher_text, "reader_text": reader_text}
