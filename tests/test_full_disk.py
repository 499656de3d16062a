"""A full disk: every writer leaves what stood, no temporary file, and one line with the path."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import EXIT_BAD_INPUT, run_cli
from config import SAMPLE_RATE, VOCASET, Recipe
from dataset.clip_files import make_folders, write_clip
from evaluation.results import write_results
from files.models import save_model_file
from rendering.animation import Animation
from rendering.video import write_video
from speech.recording import Recording
from tests.toy import full_disk
from training.run_log import Log
from training.state_file import disk_errors

N_BYTES = 20  # that fit into a file
ROW = {"epoch": 1, "steps": 7, "val_lve": 2e-6, "seconds": 90.0}


def a_log(folder: Path) -> None:
    with full_disk(10_000):
        log = Log(folder, done=1)
    with disk_errors(folder):
        log.add(ROW | {"epoch": 2}, epochs=3)


def a_plot(folder: Path) -> None:
    from training.plots import plot_runs

    record = {"recipe": {"dataset": {"metres_per_unit": 1.0}}}
    with full_disk(10_000):
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "log.csv").write_text("epoch,seconds,val_lve\n1,60,2e-6\n")
    try:
        plot_runs([folder], folder / "plot.png")
    finally:
        (folder / "run.json").unlink()
        (folder / "log.csv").unlink()


def a_clip(folder: Path) -> None:
    make_folders(folder)
    write_clip(folder, "a", np.zeros((2, 2, 3)), np.zeros(99), SAMPLE_RATE)


def an_animation(folder: Path) -> None:
    vertices = np.zeros((5, 7, 3), np.float32)
    Animation(vertices, 30, None, "a", vertices[0], VOCASET, None).save(folder / "a.npy")


def a_model(folder: Path) -> None:
    save_model_file(folder / "a.safetensors", {"w": torch.zeros(99)}, "key", {})


WRITERS = {
    "results.csv": lambda folder: write_results(folder, [ROW], ROW, "text", "results"),
    "log.csv": a_log,
    "plot.png": a_plot,
    "vertices_npy/a.npy": a_clip,
    "a.npy": an_animation,
    "a.mp4": lambda folder: write_video(
        folder / "a.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2, 2, 30
    ),
    "a.safetensors": a_model,
}


def test_a_full_disk_for_the_sound_of_a_video_of_samples_is_an_error_of_the_system() -> None:
    recording = Recording(np.zeros(99, np.float32), np.zeros(99, np.float32), SAMPLE_RATE)
    with full_disk(N_BYTES), pytest.raises(OSError, match="recording.wav"), recording.file():
        pass


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_stood_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    stood = "epoch\n1\n" if name == "log.csv" else "old"
    (tmp_path / name).write_text(stood)

    def main(_: object) -> None:
        WRITERS[name](tmp_path)

    with full_disk(N_BYTES):
        assert run_cli(main) == EXIT_BAD_INPUT
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and str(tmp_path) in errors[0], errors
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "events" not in path.name]
    assert files == [tmp_path / name] and files[0].read_text() == stood


def test_a_run_that_cannot_write_its_record_ends_in_one_line(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.toy import run_toy

    with full_disk(100):
        assert run_toy("--out", "run") == EXIT_BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: run/run.json: cannot be written (File too large); free some")
    assert [path.name for path in Path("run").iterdir()] == [".lock"]
