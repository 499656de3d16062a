"""main.py as a user runs it: train, best model on validation, test table; on a toy data set."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from common.errors import UserError, run_cli
from config import Recipe
from jambatalk import load_checkpoint
from tests.toy import ENCODER
from training import run as training_run
from training import step
from training.networks import build
from training.run_log import format_duration, read_log


def run(*argv: str) -> int:
    return run_cli(main.main, list(argv))


def test_train_then_test_leaves_a_whole_run_folder(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--dataset", "toy", "--workers", "0", "--precision", "fp32") == 0
    folder = Path("runs/toy")
    record = json.loads((folder / "run.json").read_text())
    assert record["recipe"]["train"]["epochs"] == 2 and record["commit"]
    assert record["units"] == {"val_lve": "m²", "val_mve": "m"}
    log = (folder / "log.csv").read_text().splitlines()
    assert len(log) == 3
    assert {"loss", "vertex", "velocity", "lips", "latent", "ctc", "balance", "val_lve"} < set(
        log[0].split(",")
    )
    rows = read_log(folder / "log.csv")
    assert [row["steps"] for row in rows] == ["1", "2"]  # two clips, two a step, one step an epoch
    for row in rows:  # an epoch may be over in less than the tenth of a second that is written
        slowest = 2 / max(float(row["seconds"]), 0.05) / 1.2
        assert float(row["clips_per_s"]) >= slowest - 0.005  # it has two decimals
    assert list(folder.glob("events.*"))
    model, spec = load_checkpoint(folder / "best.safetensors")
    assert spec == recipe.dataset
    assert not any("teacher" in name or "reader" in name for name in model.state_dict())
    total = json.loads((folder / "results.json").read_text())["total"]
    assert total["clips"] == 2 and total["closures"] == 2
    assert total["units"]["lve"] == "m²" and total["units"]["mtm_ms"] == "ms"
    assert {"mtm_ms", "mtm_extrema"} < set(total)
    assert (folder / "reader.safetensors").exists() and {"cer", "cer_truth"} < set(total)
    output = capsys.readouterr().out
    assert "motionless template" in output
    assert [line.endswith(" left") for line in output.splitlines() if "val_lve" in line] == [
        True,
        False,
    ]


def test_durations_are_given_in_their_usual_units() -> None:
    spans = {0: "0 s", 119: "119 s", 120: "2 min", 7199: "120 min", 7200: "2.0 h", 2e5: "2.3 days"}
    assert {seconds: format_duration(seconds) for seconds in spans} == spans


def test_training_reduces_the_error_on_the_toy_data(recipe: Recipe) -> None:
    flags = ["--dataset", "toy", "--workers", "0", "--precision", "fp32", "--epochs", "40"]
    assert run(*flags) == 0
    total = json.loads(Path("runs/toy/results.json").read_text())["total"]
    assert total["lve_ratio"] < 0.7  # the same loudness on another subject
    assert total["opening_r"] > 0.5


def test_equal_seeds_give_equal_losses(recipe: Recipe) -> None:
    rows = []
    for out in ("one", "two"):
        flags = ["--dataset", "toy", "--mode", "train", "--workers", "0", "--precision", "fp32"]
        assert run(*flags, "--out", out) == 0
        lines = Path(out, "log.csv").read_text().splitlines()
        rows.append([line.split(",")[:-2] for line in lines])  # the last two columns are of time
    assert rows[0] == rows[1]


def test_wrong_flags_are_reported_in_one_line(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, part in (
        (["--epochs", "0"], "--epochs 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--workers", "-1"], "--workers -1"),
        (["--save_every", "nan"], "--save_every nan: expected minutes"),
        (["--set", "train.accumulate=0"], "--set train.accumulate=0: expected 1 or more"),
        (["--learning_rate", "-0.1"], "--learning_rate -0.1"),
        (["--split", "dev"], "--split dev: unknown split of toy, expected one of train, val, test"),
        (["--checkpoint", "x.safetensors"], "add --mode test"),
        (["--out", "/proc/nowhere"], "folder /proc/nowhere: cannot be written"),
        (["--wav2vec2", str(Path("enc/none").absolute())], "no such folder; expected one"),
        (["--mode", "test", "--checkpoint", "none.safetensors"], "no such file"),
        (["--mode", "test", "--epochs", "3"], "the model file determines network and training"),
    ):
        Path("enc").mkdir(exist_ok=True)
        assert run("--dataset", "toy", *flags) == 2
        message = capsys.readouterr().err
        assert part in message and message.count("\n") == 1


def test_a_broken_encoder_file_is_reported_in_one_line(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Path(recipe.wav2vec2) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000])
    assert run("--dataset", "toy", "--workers", "0") == 2
    assert "cannot be loaded" in capsys.readouterr().err


def test_a_new_run_does_not_keep_an_older_best_model(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("runs/toy").mkdir(parents=True)
    Path("runs/toy/best.safetensors").write_bytes(b"of another run")
    monkeypatch.setattr(training_run, "validate", lambda *_: {"lve": float("nan")})
    assert run("--dataset", "toy", "--workers", "0") == 2
    assert not Path("runs/toy/best.safetensors").exists()


def test_a_loss_that_is_not_finite_stops_and_names_the_clips(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step, "total_loss", lambda parts, _: math.nan * parts["vertex"])
    assert run("--dataset", "toy", "--workers", "0") == 2
    assert "a_sentence0" in capsys.readouterr().err
    state = torch.load("runs/toy/last.pt", weights_only=True)
    assert state["batches"]["position"] == 0  # the step that went wrong is done again


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_broken_clip_is_reported_in_one_line_from_a_worker_too(
    recipe: Recipe, capfd: pytest.CaptureFixture[str], workers: str
) -> None:
    path = Path(recipe.dataset.root) / "vertices_npy/a_sentence01.npy"
    vertices = np.load(path)
    vertices[8, 3] = np.nan
    np.save(path, vertices)
    flags = ["--mode", "train", "--set", "model.vertex_rank=0"]  # else the start reads it first
    assert run("--dataset", "toy", "--workers", workers, *flags) == 2
    error = capfd.readouterr().err
    assert f"error: vertices {path}: NaN or infinite coordinates" in error
    assert "Traceback" not in error


def test_an_encoder_of_another_shape_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    other = dataclasses.replace(
        recipe, model=dataclasses.replace(recipe.model, encoder=ENCODER | {"hidden_size": 16})
    )
    with pytest.raises(UserError, match="not the recipe's encoder"):
        build(other, torch.device("cpu"), 3)
