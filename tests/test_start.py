"""Runs from a trained model (--init) and on another recipe's network (--base), on toy data."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import main
from common.errors import UserError, run_cli
from common.overrides import check
from config import RECIPES, Recipe
from dataset.base_recipe import with_base
from jambatalk import JambaTalk, load_checkpoint, save_checkpoint
from speech.bodies import body_of
from speech.pretrained import load_pretrained
from tests.toy import moonshine_folder, outcome, run_toy, run_until_killed, same
from training import run as training_run
from training.networks import load_encoder
from training.plots import read_run, table
from training.run_log import Log, read_log
from training.start import check_encoder, load_start, start_summary, take_weights

N_VERTICES = 13


@pytest.fixture
def small(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe "small" of the toy data: the toy decoder on the mixed states of a Moonshine."""
    (tmp_path / "moonshine").mkdir()
    source = moonshine_folder(tmp_path / "moonshine")
    encoder = json.loads(Path(source, "config.json").read_text())
    model = dataclasses.replace(recipe.model, encoder=encoder, mix_layers=True)
    small = dataclasses.replace(recipe, model=model, wav2vec2=source)
    monkeypatch.setitem(RECIPES, "small", small)
    return small


@pytest.fixture
def trained(small: Recipe) -> tuple[Path, JambaTalk]:
    """A model of that recipe with random weights in its vertex head, and its file."""
    torch.manual_seed(2)
    model = JambaTalk(small.model)
    torch.nn.init.normal_(model.head.offsets.weight, std=1e-3)
    save_checkpoint("trained.safetensors", model, small.dataset)
    return Path("trained.safetensors"), model


def write_folder(root: Path, fps: int) -> Path:
    """A folder of own data: four clips of a second by one subject, a face in millimetres."""
    rng = np.random.default_rng(3)
    for part in ("wav", "vertices_npy"):
        (root / part).mkdir(parents=True)
    template = rng.uniform(-100, 100, (N_VERTICES, 3)).astype(np.float32)
    np.savez(root / "templates.npz", a=template)
    (root / "lips.txt").write_text("3 4 5")
    (root / "upper.txt").write_text("0 1")
    for number in range(1, 5):
        audio = 0.3 * rng.standard_normal(16_000).astype(np.float32)
        soundfile.write(root / f"wav/a_{number}.wav", audio, 16_000)
        vertices = np.tile(template, (fps, 1, 1))
        vertices[:, 3:6, 1] -= 10 * rng.random((fps, 1), dtype=np.float32)
        np.save(root / f"vertices_npy/a_{number}.npy", vertices.reshape(fps, -1))
    return root


def train(dataset: str | Path, out: str, *flags: str) -> int:
    """Train for one epoch of two steps by main.py."""
    settings = ["--workers", "0", "--precision", "fp32", "--epochs", "1", "--steps_per_epoch", "2"]
    command = ["--dataset", str(dataset), "--mode", "train", "--out", out, *settings]
    return run_cli(main.main, [*command, *flags])


def test_an_own_folder_trains_the_base_network_at_its_own_rate_and_unit(
    small: Recipe, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "mine", fps=60)
    (folder / "dataset.json").write_text('{"fps": 60}')
    assert train(folder, "out", "--base", "small") == 0
    model, spec = load_checkpoint("out/best.safetensors")
    c = model.config
    assert (spec.fps, c.fps, c.fold, c.n_vertices) == (60, 60, 1, N_VERTICES)
    assert (c.units_per_metre, c.layout, c.mix_layers) == (1000, "MEA", True)
    theirs = load_file(Path(small.wav2vec2) / "model.safetensors")
    assert all(torch.equal(v, theirs[k]) for k, v in model.encoder.body.state_dict().items())
    assert [row["epoch"] for row in read_log(Path("out/log.csv"))] == ["1"]  # no start to validate


@pytest.mark.parametrize("name", ["vocaset", "BIWI"])
def test_the_public_sets_take_the_base_network_at_their_rate_and_unit(
    small: Recipe, name: str
) -> None:
    spec = RECIPES[name].dataset
    recipe = with_base(spec, small)
    check(recipe)
    c = recipe.model
    assert (c.fps, c.fold, c.n_vertices) == (spec.fps, 2, spec.n_vertices)
    assert (c.units_per_metre, c.mix_layers) == (1 / spec.metres_per_unit, True)
    assert (recipe.wav2vec2, recipe.train.closure_gain) == (small.wav2vec2, 0)


def test_init_on_another_topology_keeps_all_but_the_vertex_head(
    small: Recipe,
    trained: tuple[Path, JambaTalk],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, start = trained
    folder = write_folder(tmp_path / "mine", fps=25)
    still = ("--learning_rate", "0", "--encoder_learning_rate", "0")
    assert train(folder, "out", "--base", "small", "--init", str(file), *still) == 0
    printed = capsys.readouterr().out
    assert (
        "--init trained.safetensors: kept: speech encoder, decoder; new: vertex head "
        "(13 vertices, the file has 11); 25 frames per second, the file was trained at 30"
    ) in printed
    model = load_checkpoint("out/best.safetensors").model
    weights, before = model.state_dict(), start.state_dict()
    kept = [name for name in weights if not name.startswith("head.")]
    assert kept == [name for name in before if not name.startswith("head.")]
    assert all(torch.equal(weights[name], before[name]) for name in kept)
    assert model.config.units_per_metre == 1000 and model.config.fps == 25
    bias = weights["head.offsets.bias"].unflatten(0, (N_VERTICES, 3))  # mean offsets, metres
    assert (bias[3:6, 1] < -0.003).all() and (bias[6:] == 0).all()


def test_a_new_head_without_components_starts_from_the_neutral_face(
    small: Recipe, trained: tuple[Path, JambaTalk]
) -> None:
    config = dataclasses.replace(small.model, n_vertices=N_VERTICES, vertex_rank=0)
    model = JambaTalk(config)
    assert take_weights(model, trained[1])
    with torch.no_grad():
        model.eval()
        offsets = model.offsets(model.hidden(torch.randn(1, 5, model.encoder.width))[0])
    assert offsets.shape == (1, 5, N_VERTICES, 3) and not offsets.any()
    assert not take_weights(JambaTalk(small.model), trained[1])


def test_a_run_from_a_model_validates_it_first_and_keeps_it_while_it_is_the_best(
    trained: tuple[Path, JambaTalk], capsys: pytest.CaptureFixture[str]
) -> None:
    still = ("--learning_rate", "0", "--encoder_learning_rate", "0", "--epochs", "1")
    assert run_toy("--base", "small", "--out", "a", "--init", str(trained[0]), *still) == 0
    output = capsys.readouterr().out
    weights, rows = outcome("a")
    before = trained[1].state_dict()
    assert all(torch.equal(value, before[name]) for name, value in weights.items())
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert rows[0]["val_selection_score"] == rows[1]["val_selection_score"]
    lines = [line for line in output.splitlines() if line.startswith("epoch 0")]
    assert len(lines) == 1 and "val_lve" in lines[0] and lines[0].endswith("  (start)")
    assert "no epoch was better than the start, which best.safetensors therefore holds" in output
    assert "kept: speech encoder, decoder, vertex head\n" in output
    run = read_run("a")
    assert run.best == 0 and "| 1 of 1 | 0 " in table([run])
    assert run.steps is not None and list(run.steps) == [0, 2]


def test_a_run_from_a_model_resumes_bit_equal(
    trained: tuple[Path, JambaTalk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second step, with a state of the start only; stopped in its validation."""
    flags = ("--base", "small", "--init", str(trained[0]), "--epochs", "1")
    assert run_toy("--out", "whole", *flags) == 0
    assert read_run("whole").best == 1  # the start is random
    run_until_killed(monkeypatch, 1, "--out", "killed", *flags)
    real, epochs = training_run.Run._validate, []

    def validate(self: training_run.Run, batches: Any) -> dict[str, float]:
        epochs.append(self.epoch)
        if self.folder.name == "stopped" and len(epochs) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batches)

    monkeypatch.setattr(training_run.Run, "_validate", validate)
    assert run_toy("--out", "killed", *flags, "--resume") == 0
    assert epochs == [1]  # the start is not validated again
    same("whole", "killed")
    with pytest.raises(SystemExit):
        run_toy("--out", "stopped", *flags)
    assert run_toy("--out", "stopped", *flags, "--resume") == 0
    assert epochs == [1, 0, 0, 1]
    same("whole", "stopped")


def test_a_network_that_differs_is_refused_with_the_remedy(
    small: Recipe, trained: tuple[Path, JambaTalk], recipe: Recipe
) -> None:
    file, start = trained

    def message(recipe: Recipe) -> str:
        with pytest.raises(UserError) as caught:
            check_encoder(file, load_start(file, recipe).config, recipe)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def changed(**fields: Any) -> Recipe:
        return dataclasses.replace(small, model=dataclasses.replace(small.model, **fields))

    fix = "its network is that of --base small without changes by --set or --encoder"
    decoder = f"--init {file}: its decoder does not fit: "
    assert message(changed(n_heads=2)) == decoder + f"n_heads: expected 2, got 4; {fix}"
    assert message(RECIPES["vocaset"]).startswith(
        decoder + "fold: expected 1, got 2; layout: expected MEAEME, got MEA; "
    )
    sixty = dataclasses.replace(small.dataset, fps=60)
    assert message(with_base(sixty, small)).endswith(
        "fold: expected 1, got 2; give the file's values: --set model.fold=2"
    )
    wider = changed(encoder=small.model.encoder | {"hidden_size": 24})
    encoder = f"--init {file}: its speech encoder does not fit: "
    assert message(wider) == encoder + f"hidden_size: expected 24, got 16; {fix}"
    other = changed(encoder=recipe.model.encoder)
    assert message(other) == encoder + f"model_type: expected wav2vec2, got moonshine; {fix}"
    assert start_summary("x", start.config, changed(vertex_rank=0).model).endswith(
        "new: vertex head (rank 0, the file has 2)"
    )


def test_init_with_mode_test_is_reported(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("x.safetensors").touch()
    flags = ["--dataset", "toy", "--mode", "test", "--init", "x.safetensors"]
    assert run_cli(main.main, flags) == 2
    assert "name one to test by --checkpoint" in capsys.readouterr().err


def test_a_start_at_the_neutral_face_is_no_alarm_but_a_better_one_lost_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(static: float) -> str:
        log = Log(tmp_path, done=-1)
        figures = {"val_lve": 2e-6, "val_motion": 0.0, "val_static": static, "seconds": 9.0}
        log.add({"epoch": 0, "steps": 0} | figures, epochs=20)
        log.add(figures | {"epoch": 1, "steps": 7, "val_lve": 9e-6}, epochs=20)
        return capsys.readouterr().out

    assert "warning" not in printed(static=1.0)
    assert "DIVERGING: the validation error is 4.5 times" in printed(static=0.0)


def test_a_start_in_half_precision_keeps_the_frozen_weights_of_the_encoder(
    small: Recipe, trained: tuple[Path, JambaTalk]
) -> None:
    """Rounded, they would not be the teacher's, and cached features would not be theirs."""
    torch.manual_seed(5)
    start = JambaTalk(small.model)
    load_encoder(start, small.wav2vec2)
    save_checkpoint("half.safetensors", start, small.dataset, half=True)
    own = body_of(load_pretrained(small.wav2vec2)).state_dict()
    rounded = load_checkpoint("half.safetensors").model
    assert not all(torch.equal(v, own[k]) for k, v in rounded.encoder.body.state_dict().items())
    for file, is_own in (("half.safetensors", True), ("trained.safetensors", False)):
        model = JambaTalk(small.model)
        load_encoder(model, small.wav2vec2)
        take_weights(model, load_checkpoint(file).model)
        body = model.encoder.body.state_dict()
        assert all(torch.equal(value, own[name]) for name, value in body.items()) is is_own
