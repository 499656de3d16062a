"""Toy runs: the unit of length changes nothing, and a face that does not move is reported."""

import csv
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import main
from common.errors import run_cli
from config import DatasetSpec, ModelConfig, Recipe, Split, TrainConfig
from dataset.base_recipe import with_base
from tests import toy

V = 13
ENCODER = toy.ENCODER | {"apply_spec_augment": False}


def write_data(root: Path, units_per_metre: float) -> DatasetSpec:
    """One face 0.2 m across, four clips of a second; three vertices follow the loudness."""
    for kind in ("wav", "vertices_npy"):
        (root / kind).mkdir(parents=True)
    rng = np.random.default_rng(3)
    template = rng.uniform(-0.1, 0.1, (V, 3))
    content = {"a": (template * units_per_metre).astype(np.float32)}
    (root / "templates.pkl").write_bytes(pickle.dumps(content))
    (root / "lips.txt").write_text("3 4 5")
    time = np.arange(16_640) / 16_000
    for sentence in range(1, 5):
        loud = np.clip(np.sin(2 * np.pi * (1 + sentence) * time), 0, 1)
        sound = loud * np.sin(2 * np.pi * 200 * time) * 0.5
        soundfile.write(root / f"wav/a_{sentence}.wav", sound, 16_000)
        vertices = np.tile(template, (30, 1, 1))
        vertices[:, 3:6, 1] -= np.interp(np.arange(30) / 30, time, loud)[:, None] * 0.02
        stored = (vertices * units_per_metre).astype(np.float32)
        np.save(root / f"vertices_npy/a_{sentence}.npy", stored.reshape(30, -1))
    return DatasetSpec(
        name="toy", root=str(root), fps=30, source_fps=30, n_vertices=V,
        metres_per_unit=1 / units_per_metre, templates=str(root / "templates.pkl"), topology="",
        lips_region=str(root / "lips.txt"), upper_region=str(root / "lips.txt"),
        splits={"train": Split(("a",), (1, 2)), "val": Split(("a",), (3,)),
                "test": Split(("a",), (4,))},
    )  # fmt: skip


def toy_recipe(tmp_path: Path, units_per_metre: float) -> Recipe:
    spec = write_data(tmp_path / f"in_{units_per_metre}", units_per_metre)
    encoder = tmp_path / "encoder"
    if not encoder.exists():
        torch.manual_seed(0)
        toy.ctc_folder(encoder, ENCODER)
    model = ModelConfig(encoder=ENCODER, n_vertices=V, fps=30, fold=1, **toy.DECODER)
    train = TrainConfig(epochs=3, batch_size=2, warmup_steps=2, w_lips=1e3)
    return with_base(spec, Recipe(spec, model, train, str(encoder)))


def train_and_test(out: str) -> tuple[list[dict[str, float]], dict[str, float]]:
    flags = ["--dataset", "toy", "--workers", "0", "--precision", "fp32", "--out", out]
    assert run_cli(main.main, flags) == 0
    with open(f"{out}/log.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return rows, json.loads(Path(out, "results.json").read_text())["total"]


def test_training_is_the_same_in_millimetres_and_in_metres(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = {}
    for units in (1, 1000):
        monkeypatch.setitem(main.RECIPES, "toy", toy_recipe(tmp_path, units))
        runs[units] = train_and_test(f"out{units}")
    (metres, total_m), (millimetres, total_mm) = runs[1], runs[1000]
    assert metres[-1]["vertex"] < metres[0]["vertex"]
    for a, b in zip(metres, millimetres, strict=True):
        for name in ("loss", "vertex", "velocity", "lips", "latent", "ctc", "balance"):
            assert b[name] == pytest.approx(a[name], rel=2e-3), name
        assert b["val_lve"] == pytest.approx(1e6 * a["val_lve"], rel=2e-3)  # unit²
    assert total_mm["lve"] == pytest.approx(1e6 * total_m["lve"], rel=2e-3)


def test_lips_that_never_move_are_reported_as_a_static_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = toy_recipe(tmp_path, 1)
    still = dataclasses.replace(recipe.train, learning_rate=0.0, encoder_learning_rate=0.0)
    monkeypatch.setitem(main.RECIPES, "toy", dataclasses.replace(recipe, train=still))
    monkeypatch.chdir(tmp_path)
    rows, total = train_and_test("out")
    assert [row["val_static"] for row in rows] == [1, 1, 1] and rows[-1]["val_motion"] == 0
    printed = capsys.readouterr()
    alarms = [
        line for line in (printed.out + printed.err).splitlines() if "epoch 3: STATIC" in line
    ]
    assert len(alarms) == 1
    assert "--encoder_learning_rate" in alarms[0] and "one scale" in alarms[0]
    assert len(total["static_clips"]) == 1


def test_a_scale_a_thousandfold_off_is_an_error_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = toy_recipe(tmp_path, 1000)
    spec = dataclasses.replace(recipe.dataset, metres_per_unit=1.0)
    monkeypatch.setitem(main.RECIPES, "toy", dataclasses.replace(recipe, dataset=spec))
    flags = ["--dataset", "toy", "--workers", "0", "--out", str(tmp_path / "out")]
    assert run_cli(main.main, flags) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: templates ") and "m across with 1 m per unit" in error
