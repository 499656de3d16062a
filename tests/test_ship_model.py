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


def test_a_run_without_results_is_refused(run):
    (run / "results.md").unlink()
    with pytest.raises(UserError, match="no results.md in it; train and test with main.py first"):
        ship_model.main(["--run", str(run)])
