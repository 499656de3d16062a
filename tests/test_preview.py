"""Previews: a video every nth epoch, recording beside prediction; a failure never ends a run."""

import dataclasses
import json
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import trimesh

import main
from common.errors import UserError, run_cli
from config import Recipe
from jambatalk import load_checkpoint
from tests.toy import V
from training import preview
from training.preview import Previews, strip

SIZE = 64


def never() -> bool:
    return False


class Events:
    """Replaces TensorBoard's event file."""

    def __init__(self) -> None:
        self.images: list[tuple] = []

    def add_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        self.images.append((name, picture.shape, step))


class PerfectModel(torch.nn.Module):
    """Predicts exactly the vertices of one clip."""

    def __init__(self, vertices: np.ndarray) -> None:
        super().__init__()
        self.vertices = torch.nn.Parameter(torch.from_numpy(vertices))

    def predict(self, audio: torch.Tensor, template: torch.Tensor, subject: str) -> torch.Tensor:
        return self.vertices


@pytest.fixture
def drawn(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The toy recipe with triangles, and pictures of 64 pixels."""
    spec = recipe.dataset
    points = np.load(spec.templates)["b"]
    hull = trimesh.convex.convex_hull(points)  # its faces, over all points
    order = [int(np.abs(points - corner).sum(1).argmin()) for corner in hull.vertices]
    faces = np.array(order)[hull.faces]
    mesh = trimesh.Trimesh(points, faces, process=False)
    path = Path(spec.root) / "topology.ply"
    mesh.export(path)
    spec = dataclasses.replace(spec, topology=str(path))
    toy = dataclasses.replace(recipe, dataset=spec)
    monkeypatch.setitem(main.RECIPES, "toy", toy)
    monkeypatch.setattr(preview, "SIZE", SIZE)
    return toy


def clip_of(recipe: Recipe) -> dict:
    from data_loader import MeshSpeechDataset

    return MeshSpeechDataset(recipe.dataset, "val")[0]


def train(*flags: str) -> int:
    return run_cli(main.main, ["--dataset", "toy", "--mode", "train", "--workers", "0",
                               "--precision", "fp32", *flags])  # fmt: skip


def pictures(path: Path) -> np.ndarray:
    """(T, H, W, 3) of a film."""
    read = imageio_ffmpeg.read_frames(str(path))
    width, height = next(read)["size"]
    return np.stack([np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in read])


def has_sound(path: Path) -> bool:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return "Audio: aac" in subprocess.run(command, capture_output=True, text=True).stderr


def test_every_nth_epoch_and_the_last_get_a_preview(drawn: Recipe) -> None:
    assert train("--epochs", "5", "--set", "train.preview_every=2", "--out", "a") == 0
    videos = sorted(path.name for path in Path("a/previews").iterdir())
    assert videos == ["epoch_0002.mp4", "epoch_0004.mp4", "epoch_0005.mp4"]
    path = Path("a/previews/epoch_0005.mp4")
    # frames of the clip: 1 s of sound at 30 fps; two faces side by side
    assert pictures(path).shape == (clip_of(drawn)["frames"], SIZE, 2 * SIZE, 3)
    assert has_sound(path)


def test_previews_do_not_change_the_training(drawn: Recipe) -> None:
    for every in "01":
        assert train("--set", f"train.preview_every={every}", "--out", every) == 0
    assert not Path("0/previews").exists() and len(list(Path("1/previews").iterdir())) == 2
    assert Path("0/best.safetensors").read_bytes() == Path("1/best.safetensors").read_bytes()


def test_preview_every_may_change_on_resume(drawn: Recipe) -> None:
    assert train("--out", "a") == 0
    assert train("--out", "a", "--resume", "--set", "train.preview_every=1") == 0
    record = json.loads(Path("a/run.json").read_text())
    assert record["recipe"]["train"]["preview_every"] == 10


def test_a_perfect_prediction_looks_like_the_truth(drawn: Recipe, tmp_path: Path) -> None:
    clip, events = clip_of(drawn), Events()
    previews = Previews(drawn.dataset, [clip], tmp_path)
    path = previews.add(PerfectModel(clip["vertices"]), 3, events, never)
    truth, predicted = np.split(pictures(path).astype(int), 2, axis=2)
    assert np.abs(truth - predicted).mean() < 1.0  # compressed
    assert (truth < 200).any(axis=(1, 2, 3)).all()  # a face on white in every picture
    assert events.images == [("preview", (2 * SIZE, 6 * SIZE, 3), 3)]


def test_long_clips_are_cut(drawn: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "SECONDS", 0.2)
    clip = clip_of(drawn)
    previews = Previews(drawn.dataset, [clip], tmp_path)
    path = previews.add(PerfectModel(clip["vertices"]), 3, Events(), never)
    assert len(pictures(path)) == 6  # 0.2 s at 30 fps


def test_missing_triangles_are_reported_once(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--set", "train.preview_every=1") == 0
    assert capsys.readouterr().out.count("no previews: toy has no triangles to draw") == 1
    assert not Path("runs/toy/previews").exists()


def test_a_renderer_that_fails_is_a_warning(
    drawn: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_) -> None:
        raise UserError("ffmpeg cannot write: no space left")

    monkeypatch.setattr(preview, "write_video", fails)
    assert train() == 0
    output = capsys.readouterr().out
    assert "warning: epoch 2: no preview: ffmpeg cannot write: no space left" in output
    assert load_checkpoint("runs/toy/best.safetensors")[1].name == "toy"


def test_triangles_of_another_mesh_are_a_warning(
    drawn: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trimesh.creation.icosphere(subdivisions=1).export(drawn.dataset.topology)  # 42 vertices
    clip = clip_of(drawn)
    previews = Previews(drawn.dataset, [clip], tmp_path)
    assert previews.add(PerfectModel(clip["vertices"]), 3, Events(), never) is None
    assert f"a face has vertex 41, expected less than {V}" in capsys.readouterr().out


def test_the_strip_has_true_frames_above_predicted_ones() -> None:
    pairs = [np.full((2, 4, 3), 10 * i, np.uint8) for i in range(3)]
    for pair in pairs:
        pair[:, 2:] += 1  # the prediction
    rows = strip(pairs)[:, ::2, 0]
    assert rows.tolist() == [[0, 10, 20]] * 2 + [[1, 11, 21]] * 2
