"""The test mode on hand-made clips: rows, means, tables, files, error messages."""

import dataclasses
import json
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from common.errors import UserError
from config import DatasetSpec, Split
from data_loader import OpenDataset
from evaluation import results, score_folders, scoring
from evaluation.saved import check_predictions_folder, save_prediction
from lip_reader import LipReader, save_reader
from tests.toy import full_disk

V = 11
LIPS, UPPER = [3, 4, 5], [0, 1]
CPU = torch.device("cpu")
SUBJECTS = {"F2": (1, 2), "F1": (2,)}  # subject -> sentences


@pytest.fixture
def spec(tmp_path: Path) -> DatasetSpec:
    """A data set in millimetres: two clips of a seen subject, one of an unseen one."""
    rng = np.random.default_rng(5)
    for kind in ("wav", "vertices_npy"):
        (tmp_path / kind).mkdir()
    templates = {name: rng.uniform(-90, 90, (V, 3)).astype(np.float32) for name in SUBJECTS}
    np.savez(tmp_path / "templates.npz", **templates)
    for subject, sentences in SUBJECTS.items():
        for sentence in sentences:
            name, frames = f"{subject}_e{sentence:02d}", 20 + 5 * sentence
            audio = rng.normal(size=frames * 640 + 400).astype(np.float32) * 0.1
            soundfile.write(tmp_path / f"wav/{name}.wav", audio, 16_000)
            motion = 4.0 * rng.normal(size=(frames, V, 3))
            np.save(
                tmp_path / f"vertices_npy/{name}.npy", (templates[subject] + motion).astype("f4")
            )
    for name, rows in (("lips", LIPS), ("upper", UPPER)):
        (tmp_path / f"{name}.txt").write_text(" ".join(map(str, rows)))
    return DatasetSpec(
        name="toy", root=str(tmp_path), fps=25, source_fps=25, n_vertices=V, metres_per_unit=1e-3,
        templates=str(tmp_path / "templates.npz"), topology="",
        lips_region=str(tmp_path / "lips.txt"), upper_region=str(tmp_path / "upper.txt"),
        splits={"test_a": Split(("F2",), (1, 2), "e"), "test_b": Split(("F1",), (2,), "e")},
    )  # fmt: skip


class Shifted:
    """Predicts the template moved to the right by `by`, for all frames of the audio."""

    def __init__(self, by: float) -> None:
        self.by, self.predictions = by, []

    def predict(self, audio: torch.Tensor, template: torch.Tensor, subject: str) -> torch.Tensor:
        assert all(ref() is None for ref in self.predictions), "an earlier clip is in memory"
        frames = ((len(audio) - 400) // 320 + 1) * 25 // 50
        predicted = template.repeat(frames, 1, 1)
        predicted[:, :, 0] += self.by
        self.predictions.append(weakref.ref(predicted))
        return predicted


def rows_of(spec: DatasetSpec, by: float = 0.0, **more: Any) -> list[dict[str, Any]]:
    model = Shifted(by)
    return [
        r
        for s in spec.splits
        for r in scoring.score_split(model, OpenDataset(spec), s, CPU, **more)
    ]


def test_rows_hold_the_formulas_of_every_clip(spec: DatasetSpec) -> None:
    rows = rows_of(spec, by=2.5)
    assert [(r["split"], r["clip"], r["subject"]) for r in rows] == [
        ("test_a", "F2_e01", "F2"), ("test_a", "F2_e02", "F2"), ("test_b", "F1_e02", "F1"),
    ]  # fmt: skip
    templates = np.load(spec.templates)
    for row in rows:
        truth = np.load(Path(spec.root, f"vertices_npy/{row['clip']}.npy")).astype(float)
        assert row["frames"] == len(truth)
        template = templates[row["subject"]].astype(float)
        error = ((template + [2.5, 0, 0] - truth) ** 2).sum(2)  # (T, V)
        assert row["lve"] == pytest.approx(error[:, LIPS].max(1).mean(), rel=1e-5)
        assert row["mve"] == pytest.approx(np.sqrt(error).mean(), rel=1e-5)
        moved = ((truth - template) ** 2).sum(2)[:, UPPER].std(0).mean()
        assert row["fdd"] == row["fdd_motionless"] == pytest.approx(moved, rel=1e-5)
        assert row["abs_fdd"] == abs(row["fdd"])
        acceleration = (truth[2:] - 2 * truth[1:-1] + truth[:-2]) * 25**2
        jitter = np.sqrt((acceleration**2).sum(2)).mean()
        assert row["jitter"] == 0 and row["jitter_truth"] == pytest.approx(jitter, rel=1e-5)
        assert row["static"] and "cer" not in row and "opening_r" not in row


def test_one_clip_is_in_memory_at_a_time(spec: DatasetSpec) -> None:
    assert len(rows_of(spec)) == 3  # Shifted.predict asserts it


def test_means_pool_frames_and_clips_apart() -> None:
    rows = [
        {"split": split, "subject": name, "clip": name, "frames": n, "lve": e, "mve": e,
         "fdd": fdd, "lve_motionless": 2.0, "mve_motionless": 1.0, "fdd_motionless": -1.0,
         "jitter": j, "jitter_truth": 1.0, "static": False,
         "characters": k, "cer": cer, "cer_truth": cer, "cer_motionless": 1.0}
        for split, name, n, e, fdd, j, k, cer in (
            ("a", "x", 10, 0.0, 3.0, math.nan, 4, 0.5),
            ("a", "y", 30, 4.0, -1.0, 6.0, 12, 0.25),
            ("b", "z", 60, 8.0, -5.0, 2.0, 0, math.nan),
        )
    ]  # fmt: skip
    total = results.summarise(rows)
    assert total["lve"] == (0 * 10 + 4 * 30 + 8 * 60) / 100
    assert (total["fdd"], total["abs_fdd"], total["abs_fdd_motionless"]) == (-1.0, 3.0, 1.0)
    assert total["jitter"] == (6 * 30 + 2 * 60) / 90  # of the clips that have one
    assert total["cer"] == (0.5 * 4 + 0.25 * 12) / 16 and total["characters"] == 16
    assert total["lve_ratio"] == 6.0 / 2.0
    assert list(total["splits"]) == ["a", "b"]
    assert total["splits"]["a"]["lve"] == 3.0 and total["splits"]["b"]["fdd"] == -5.0
    assert list(total["splits"]["a"]["subjects"]) == ["x", "y"]
    assert math.isnan(total["splits"]["b"]["cer"])


def test_means_of_rows_without_splits_pool_frames() -> None:
    rows = [
        {"frames": n, "lve": e, "mve": e, "fdd": e, "lve_motionless": 1.0, "mve_motionless": 1.0,
         "fdd_motionless": 1.0, "static": False}
        for n, e in ((10, 0.0), (30, 4.0))
    ]  # fmt: skip
    total = results.summarise(rows)
    assert total["lve"] == 3.0 and total["fdd"] == 2.0 and total["lve_ratio"] == 3.0


def evaluate(spec: DatasetSpec, out: Path, by: float = 0.0) -> str:
    splits = list(spec.splits)
    return scoring.evaluate(
        Shifted(by), OpenDataset(spec), splits, CPU, out / "best.safetensors", out
    )


def test_files_hold_both_splits_every_clip_and_plain_json(
    spec: DatasetSpec, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    text = evaluate(spec, out)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    content = json.loads((out / "results.json").read_text(), parse_constant=refuse)
    assert [clip["clip"] for clip in content["clips"]] == ["F2_e01", "F2_e02", "F1_e02"]
    assert set(content["total"]["splits"]) == {"test_a", "test_b"}
    assert content["total"]["metres_per_unit"] == 1e-3
    assert content["total"]["units"]["lve"] == "mm²" and content["total"]["units"]["mve"] == "mm"
    assert content["total"]["regions"]["lips"] == "lips.txt (3 vertices)"
    lines = (out / "results.csv").read_text().splitlines()
    assert lines[0].startswith("split,clip,subject,frames,lve,") and len(lines) == 4
    assert (out / "results.md").read_text() == text + "\n"


def test_another_split_does_not_change_the_results_of_the_test_splits(
    spec: DatasetSpec, tmp_path: Path
) -> None:
    evaluate(spec, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("results*")}
    path = tmp_path / "best.safetensors"
    scoring.evaluate(Shifted(1.0), OpenDataset(spec), ["test_b"], CPU, path, tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.glob("results*")}
    assert before.items() <= after.items() and len(before) == 3
    assert set(after) - set(before) == {f"results_test_b.{end}" for end in ("md", "csv", "json")}
    assert results.results_name(spec, ["test_b", "test_a"]) == "results"
    without = dataclasses.replace(spec, splits={"val": spec.splits["test_a"]})
    assert results.results_name(without, ["val"]) == "results_val"


def test_tables_name_unit_region_split_and_subject(spec: DatasetSpec, tmp_path: Path) -> None:
    lines = evaluate(spec, tmp_path).splitlines()
    assert lines[0].startswith(
        "toy, test_a, test_b: 3 clips, 85 frames, 25 fps; LVE on lips: lips.txt"
    )
    assert "(3 vertices); FDD on upper face: upper.txt (2 vertices); MVE and jitter on" in lines[0]
    assert lines[0].endswith(f"1 unit = 1 mm; model {tmp_path}/best.safetensors")
    assert "| split |  | LVE (mm²) | FDD (mm²) | abs. FDD (mm²) | MVE (mm) |" in lines[2]
    rows = [line.split(" | ") for line in lines if line.startswith("| test_b")]
    assert [row[1] for row in rows] == ["model", "motionless template", "captured truth", "F1"]
    assert rows[0][2] == rows[1][2] == rows[3][4] != "-"
    assert rows[2][2:6] == ["-"] * 4 and float(rows[2][6]) > 0  # jitter of the truth
    assert any(line.startswith("| all | model |") for line in lines)
    for table in "\n".join(lines).split("\n\n"):
        bars = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(bars) <= 1
    assert not any("not found" in line or "UniTalker" in line for line in lines)


def test_a_face_that_does_not_move_is_reported_as_static(spec: DatasetSpec, tmp_path: Path) -> None:
    lines = evaluate(spec, tmp_path).splitlines()
    warning = next(line for line in lines if line.startswith("- STATIC"))
    assert "in 3 of 3 clips (F2_e01, F2_e02, F1_e02)" in warning and "unit" in warning


def test_a_silent_clip_is_not_static(spec: DatasetSpec, tmp_path: Path) -> None:
    template = np.load(spec.templates)["F1"]
    np.save(tmp_path / "vertices_npy/F1_e02.npy", np.tile(template, (30, 1, 1)))
    assert [row["static"] for row in rows_of(spec)] == [True, True, False]


def test_scores_of_vocaset_are_listed_with_published_ones(spec: DatasetSpec) -> None:
    rows = [row | {"lve": 3e-5, "fdd": 2e-7} for row in rows_of(spec) if row["subject"] == "F2"]
    rows = [row | {"split": "test"} for row in rows]
    real = dataclasses.replace(spec, name="vocaset", n_vertices=5_023, metres_per_unit=1.0)
    text = results.table(results.summarise(rows), real, "test")
    assert "| SelfTalk | 3.2238 |" in text and "| ScanTalk | not found |" in text
    assert "| **vocaset, test** | 3.0000 | 2.0000e-07 |" in text and "not comparable" in text
    assert "| test | model | 30.0000 |" in text  # 3e-5 m² in mm²
    published = results.published_rows(real, ["test"])
    assert published["warning"] and {"dataset", "metric", "value", "unit", "source"} < set(
        published["rows"][0]
    )
    assert results.published_rows(spec, ["test_a"]) == {}


class ScriptedScorer:
    """Transcribes audio as `target`, and prediction, truth and motionless template as `texts`."""

    def __init__(self, target: list[int], *texts: list[int]) -> None:
        self.target, self.texts = target, list(texts)

    def transcribe_audio(self, audio: np.ndarray) -> tuple[list[int], int]:
        return self.target, 9

    def transcribe_lips(
        self, vertices: np.ndarray, template: np.ndarray, n_audio_frames: int
    ) -> list[int]:
        assert n_audio_frames == 9
        return self.texts.pop(0)

    def to_string(self, text: list[int]) -> str:
        return "".join(map(str, text))


def test_character_error_rates_of_prediction_truth_and_template() -> None:
    mesh = np.zeros((5, V, 3), np.float32)
    scorer = ScriptedScorer([1, 2, 3, 4], [1, 2, 4], [1, 2, 3, 4], [])
    row = scoring.reading_scores(scorer, np.zeros(9), mesh, mesh, mesh[0])
    assert row == {"characters": 4, "cer": 0.25, "cer_truth": 0.0, "cer_motionless": 1.0,
                   "teacher_text": "1234", "reader_text": "124"}  # fmt: skip
    silent = scoring.reading_scores(
        ScriptedScorer([], [1], [], []), np.zeros(9), mesh, mesh, mesh[0]
    )
    assert silent["characters"] == 0 and math.isnan(silent["cer"])


def test_a_lip_reader_without_skill_on_true_lips_gives_a_warning() -> None:
    total = {"lve_ratio": 1.0, "static_clips": [], "cer_truth": 0.99, "cer_motionless": 1.0}
    assert "its error rates have no meaning" in "\n".join(results.summary_lines(total))
    better = results.summary_lines(total | {"cer_truth": 0.5})
    assert "have no meaning" not in "\n".join(better)


def test_the_table_gives_the_reason_for_missing_character_error_rates(
    spec: DatasetSpec, tmp_path: Path
) -> None:
    text = evaluate(spec, tmp_path)
    assert "no character error rate: lip reader" in text and "no such file" in text
    reader = LipReader(3, 8, 4, fps=25, d_model=16, n_layers=1)
    save_reader(tmp_path / "reader.safetensors", reader, LIPS, "lips.txt", str(tmp_path))
    text = evaluate(spec, tmp_path)
    assert "no character error rate: --encoder" in text
    assert all(not line.startswith("Traceback") for line in text.splitlines())
    save_reader(tmp_path / "reader.safetensors", reader, [3, 4, V], "lips.txt", str(tmp_path))
    assert "trained on another topology" in evaluate(spec, tmp_path)


def test_a_split_without_clips_fails_before_anything_is_scored(
    spec: DatasetSpec, tmp_path: Path
) -> None:
    splits = spec.splits | {"test_b": Split(("F9",), (1,), "e")}
    with pytest.raises(UserError, match="no clip of split 'test_b'"):
        evaluate(dataclasses.replace(spec, splits=splits), tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_metrics_py_scores_saved_predictions_as_the_test_mode_does(
    spec: DatasetSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = tmp_path / "predictions", tmp_path / "best.safetensors"
    scoring.evaluate(
        Shifted(2.5), OpenDataset(spec), list(spec.splits), CPU, path, tmp_path, None, folder
    )
    assert np.load(folder / "F2_e01.npy").shape == (25, V * 3)
    score_folders.main(
        ["--pred", str(folder), "--truth", f"{spec.root}/vertices_npy", "--json"]
        + ["--templates", spec.templates, "--regions"]
        + [f"lips={spec.lips_region}", f"upper={spec.upper_region}"]
    )
    scores = json.loads(capsys.readouterr().out)
    total = json.loads((tmp_path / "results.json").read_text())["total"]
    for name in ("clips", "frames", "lve", "mve", "fdd", "abs_fdd"):
        assert scores[name] == pytest.approx(total[name], rel=1e-6), name


@pytest.mark.parametrize("place", ["", "vertices_npy"])
def test_predictions_are_not_written_over_the_captured_vertices(
    spec: DatasetSpec, place: str
) -> None:
    before = {path: path.read_bytes() for path in Path(spec.root).rglob("*.npy")}
    with pytest.raises(UserError, match="holds the captured vertices of toy .*another folder"):
        check_predictions_folder(Path(spec.root) / place, spec)
    assert {path: path.read_bytes() for path in Path(spec.root).rglob("*.npy")} == before


def test_a_prediction_that_does_not_fit_on_the_disk_is_reported_in_one_line(
    tmp_path: Path,
) -> None:
    with full_disk(1_000), pytest.raises(UserError, match="prediction .*x.npy: cannot be written"):
        save_prediction(tmp_path, "x", np.zeros((50, V, 3), np.float32))
    assert not list(tmp_path.iterdir())
