"""The command that makes a run's model the shipped one."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from config import PROJECT_ROOT
from jambatalk import load_checkpoint, save_checkpoint
from synthetic import ship_model


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder with the shipped model as its best one; the command writes into `tmp_path`."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ship_model.RECORD_FILES:
        shutil.copyfile(PROJECT_ROOT / "benchmarks/runs/synthetic" / name, folder / name)
    model, spec = load_checkpoint()  # saved anew: its config may lack the newest fields
    save_checkpoint(folder / "best.safetensors", model, spec, half=True)
    monkeypatch.setattr(ship_model, "BUNDLED_MODEL", tmp_path / "model.safetensors")
    monkeypatch.setattr(ship_model, "RECORDS", tmp_path / "records")
    return folder


def test_model_and_record_are_written(run):
    ship_model.main(["--run", str(run)])
    assert ship_model.BUNDLED_MODEL.read_bytes() == (run / "best.safetensors").read_bytes()
    shipped = load_file(PROJECT_ROOT / "synthetic/model.safetensors")
    written = load_file(ship_model.BUNDLED_MODEL)
    assert shipped.keys() == written.keys()
    assert all(torch.equal(shipped[name], written[name]) for name in shipped)
    assert (ship_model.RECORDS / "run.json").read_bytes() == (run / "run.json").read_bytes()
    assert (ship_model.RECORDS / "losses.png").is_file()


def test_a_model_that_is_too_large_leaves_the_shipped_one_unchanged(run, monkeypatch):
    ship_model.BUNDLED_MODEL.write_bytes(b"the shipped model")
    monkeypatch.setattr(ship_model, "MAX_MB", 1.0)
    with pytest.raises(UserError, match="expected a model of at most 1 MB, got 23.2 MB"):
        ship_model.main(["--run", str(run)])
    assert ship_model.BUNDLED_MODEL.read_bytes() == b"the shipped model"


def test_the_averaged_weights_of_the_last_epoch_in_a_mean_with_the_shipped_ones(run, tmp_path):
    model, _ = load_checkpoint()
    weights = {f"module.{name}": 3 * weight for name, weight in model.state_dict().items()}
    average = weights | {"n_averaged": torch.tensor(5)}
    state = {"average": average, "generators": {}, "epoch": 2, "sums": {}}
    torch.save(state, run / "last.pt")
    shutil.copyfile(run / "best.safetensors", ship_model.BUNDLED_MODEL)
    out = tmp_path / "mean.safetensors"
    ship_model.main(["--run", str(run), "--last", "--share", "0.25", "--out", str(out)])
    name = "project.weight"  # 0.25 · 3 + 0.75 = 1.5 times the shipped one
    expected = 1.5 * load_file(ship_model.BUNDLED_MODEL)[name].float()
    torch.testing.assert_close(load_file(out)[name].float(), expected, rtol=1e-3, atol=1e-4)
    assert not ship_model.RECORDS.exists()


@pytest.mark.parametrize(
    ("epoch", "sums"), [(0, {}), (1, {}), (1, {"loss": 2.0}), (3, {"loss": 2.0})]
)
def test_an_epoch_that_is_not_finished_is_no_last_one(run, tmp_path, epoch, sums):
    """Its weights would be those of the start, or of the middle of an epoch."""
    state = {"average": {"module.a": torch.ones(1)}, "epoch": epoch, "sums": sums}
    torch.save(state | {"generators": {}}, run / "last.pt")
    out = tmp_path / "mean.safetensors"
    with pytest.raises(UserError, match=f"--last: epoch {max(epoch, 1)} is not finished"):
        ship_model.main(["--run", str(run), "--last", "--out", str(out)])
    assert not out.exists()


def test_the_mean_of_several_runs(run, tmp_path):
    """1, 4 and 4 times the shipped weights: 3 times."""
    model, spec = load_checkpoint()
    for weight in model.state_dict().values():
        weight.mul_(4)
    (tmp_path / "other").mkdir()
    save_checkpoint(tmp_path / "other/best.safetensors", model, spec, half=True)
    runs, out = [str(run), *[str(tmp_path / "other")] * 2], tmp_path / "mean.safetensors"
    ship_model.main(["--run", *runs, "--out", str(out)])
    name = "project.weight"
    expected = 3 * load_file(PROJECT_ROOT / "synthetic/model.safetensors")[name].float()
    torch.testing.assert_close(load_file(out)[name].float(), expected, rtol=2e-3, atol=1e-4)


def test_several_runs_are_not_shipped_without_a_record(run):
    with pytest.raises(UserError, match="a mean of several runs has no record of its own; add"):
        ship_model.main(["--run", str(run), str(run)])
    assert not ship_model.BUNDLED_MODEL.exists()


@pytest.mark.parametrize("share", ["0", "1.5"])
def test_a_share_outside_of_0_to_1_is_refused(run, share):
    with pytest.raises(UserError, match="expected more than 0, at most 1"):
        ship_model.main(["--run", str(run), "--share", share])


def test_a_run_without_results_is_refused(run):
    (run / "results.md").unlink()
    with pytest.raises(UserError, match="no results.md in it; train and test with main.py first"):
        ship_model.main(["--run", str(run)])
