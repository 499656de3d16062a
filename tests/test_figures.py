"""Pictures for papers: colours of a heat map, colour scales, the command and its messages."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import trimesh
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.image import imread

from common.errors import UserError, run_cli
from config import DatasetSpec
from evaluation import figures, pictures
from evaluation.comparison import Comparison, Layout, draw_canvas, paste
from evaluation.figures import draw_errors, draw_motion, draw_strips
from evaluation.opening import CLOSED, Opening, opening_figure
from evaluation.pictures import upper_limit
from evaluation.source import Source
from metrics import errors_by_vertex, mean_vertex_error, motion_statistics
from rendering.heat_map import COLOUR_MAP, NO_VALUE, draw_values
from rendering.renderer import Renderer
from speech.ffmpeg import find_ffmpeg

PLATE = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32) * 0.1
FACES = np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def rgb(level: float) -> np.ndarray:
    return 255 * np.array(colormaps[COLOUR_MAP](level)[:3])


def test_colours_facing_the_viewer_are_those_of_the_colour_bar() -> None:
    """Values rise linearly from left to right, so the middle has half of the limit."""
    picture = draw_values(Renderer(FACES, PLATE, 64), PLATE, np.array([0.0, 4, 4, 0]), 4.0)
    assert picture.shape == (64, 64, 3) and (picture[0] == 255).all()
    np.testing.assert_allclose(picture[32, 32], rgb(0.5), atol=5)
    drawn = np.flatnonzero((picture[32] != 255).any(axis=1))
    np.testing.assert_allclose(picture[32, drawn[2]], rgb(0.03), atol=9)
    np.testing.assert_allclose(picture[32, drawn[-3]], rgb(0.97), atol=9)


def test_larger_values_than_the_limit_have_its_colour() -> None:
    picture = draw_values(Renderer(FACES, PLATE, 64), PLATE, np.full(4, 9.0), 4.0)
    np.testing.assert_allclose(picture[32, 32], rgb(1.0), atol=5)


def test_the_vertices_that_round_an_outline_have_values_as_well() -> None:
    """The kernel checks no bounds."""
    ball = trimesh.creation.icosphere(subdivisions=1)
    renderer = Renderer(ball.faces, ball.vertices, 64, rounded=np.ones(len(ball.vertices), bool))
    assert renderer.faces.max() >= len(ball.vertices)  # vertices were added
    picture = draw_values(renderer, ball.vertices, np.ones(len(ball.vertices)), 2.0)[28:36, 28:36]
    np.testing.assert_allclose(picture, np.broadcast_to(rgb(0.5), picture.shape), atol=9)


def test_back_sides_are_grey() -> None:
    renderer = Renderer(FACES, PLATE, 64)
    behind = PLATE * [-1, 1, 1]
    picture = draw_values(renderer, behind, np.ones(4), 1.0)
    np.testing.assert_allclose(picture[32, 32], 255 * NO_VALUE, atol=5)


def test_errors_by_vertex_are_means_over_frames() -> None:
    truth = np.zeros((2, 3, 3))
    prediction = truth.copy()
    prediction[0, 1] = [3, 4, 0]
    prediction[1, 1] = [0, 0, 1]
    prediction[1, 2] = [0, 2, 0]
    assert errors_by_vertex(prediction, truth).tolist() == [0, 3, 1]
    assert mean_vertex_error(prediction, truth) == pytest.approx(4 / 3)


@pytest.mark.parametrize(("top", "limit"), [(0.0, 1e-6), (0.11, 0.15), (1.0, 1.0), (8.1, 10.0)])
def test_colour_scales_end_at_round_numbers(top: float, limit: float) -> None:
    assert upper_limit(np.full(7, top)) == pytest.approx(limit)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Two clips of a plate that moves by 1 mm a frame; predictions stay 2 mm behind."""
    monkeypatch.setattr(pictures, "SIZE", 64)
    monkeypatch.setattr("evaluation.source.SIZE", 64)
    for folder in ("vertices_npy", "pred", "wav"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "templates.npz", a=PLATE, b=PLATE)
    np.savez(tmp_path / "faces.npz", faces=FACES)
    for name in ("a_01", "b_01"):
        truth = np.repeat(PLATE[None], 14, axis=0)
        truth[..., 1] += np.arange(14)[:, None] * 1e-3
        np.save(tmp_path / f"vertices_npy/{name}.npy", truth)
        np.save(tmp_path / f"pred/{name}.npy", truth[::2] - np.float32([0, 0, 2e-3]))
        soundfile.write(tmp_path / f"wav/{name}.wav", np.zeros(3733), 16_000)
    spec = DatasetSpec(
        name="plates", root=str(tmp_path), fps=30, source_fps=60, n_vertices=4,
        metres_per_unit=1.0, templates=str(tmp_path / "templates.npz"),
        topology=str(tmp_path / "faces.npz"), lips_region="", upper_region="",
    )  # fmt: skip
    return Source.open(spec, tmp_path / "pred")


def test_errors_of_a_data_set_are_in_millimetres(source: Source) -> None:
    np.testing.assert_allclose(source.errors_mm(), 2.0, rtol=1e-3)


def test_motion_is_the_distance_from_one_frame_to_the_next() -> None:
    """Of all frames of all clips: the first vertex moves by 5, 0 and 1, the second not at all."""
    clips = [np.zeros((3, 2, 3)), np.zeros((2, 2, 3))]
    clips[0][1:, 0] = [3, 4, 0]
    clips[1][1, 0] = [0, 0, 1]
    mean, std = motion_statistics(clips)
    np.testing.assert_allclose(mean, [2, 0])
    np.testing.assert_allclose(std, [np.std([5, 0, 1]), 0])
    with pytest.raises(ValueError, match="two frames"):
        motion_statistics([clips[0][:1]])


def test_the_motion_map_has_mean_and_deviation_of_truth_and_prediction(source: Source) -> None:
    np.testing.assert_allclose(source.motion_mm()[0], 2.0, rtol=1e-3)  # 1 mm at 60 fps
    figure = draw_motion(source)
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["truth", "prediction", "std of motion", "mean motion"]
    assert [axes.get_ylabel() for axes in figure.axes[1:]] == ["mm per frame (30 fps)"] * 2


def opening(segments: list) -> Opening:
    """Three seconds in which the truth rises to 4 mm and the prediction to 3."""
    t = np.linspace(0, 1, 90)
    return Opening(4 * t, 3 * t, 30, np.sin(np.arange(48_000)), 16_000, segments)


def test_an_opening_has_its_phones_and_where_lips_should_close() -> None:
    segments = [("sil", 0.0, 0.5), ("m", 0.5, 0.7), ("aa", 0.7, 3.0)]
    curves, wave = opening_figure(opening(segments)).axes
    assert [line.get_ydata()[-1] for line in curves.lines[:2]] == [4, 3]
    assert [text.get_text() for text in curves.texts] == ["m", "aa"]
    closed = [patch for patch in curves.patches if to_hex(patch.get_facecolor()) == CLOSED.lower()]
    assert [(patch.get_x(), patch.get_width()) for patch in closed] == [(0.5, pytest.approx(0.2))]
    assert wave.get_xlabel() == "time (s)" and "(mm)" in curves.get_ylabel()


def test_a_long_opening_is_drawn_in_rows_of_one_scale() -> None:
    axes = opening_figure(opening([]), width_in=3.4).axes
    assert len(axes) == 4 and not axes[0].texts
    assert [part.get_xlim() for part in axes[::2]] == [(0.0, 1.5), (1.5, 3.0)]
    assert axes[0].get_ylim() == axes[2].get_ylim()


def test_a_video_has_the_panels_side_by_side_below_their_names() -> None:
    layout = Layout(96, with_error=True)
    canvas = draw_canvas(layout, 2.0)
    assert canvas.shape == (96, layout.width, 3) and (canvas[: layout.title] < 128).any()
    panels = [np.full((*layout.panel[::-1], 3), level, np.uint8) for level in (10, 20, 30)]
    picture, middle = paste(canvas, panels, layout), layout.panel[0] // 2
    columns = [middle, middle + layout.panel[0], middle + 2 * layout.panel[0]]
    assert picture[-1, columns, 0].tolist() == [10, 20, 30]
    assert (picture[:, 3 * layout.panel[0] :] == canvas[:, 3 * layout.panel[0] :]).all()


def test_truth_and_prediction_become_a_video_with_the_clips_sound(
    source: Source, tmp_path: Path
) -> None:
    layout = Layout(96)
    Comparison(source, source.pairs[0], layout, 1.0).write(tmp_path / "a.mp4", n_frames=3)
    command = [find_ffmpeg(), "-i", str(tmp_path / "a.mp4")]
    about = subprocess.run(command, capture_output=True).stderr.decode()
    assert "Video: h264" in about and "Audio: aac" in about
    assert f"{layout.width}x96" in about and "Duration: 00:00:00.1" in about


def test_a_strip_has_a_column_for_each_instant_and_three_rows(
    source: Source, tmp_path: Path
) -> None:
    figure = next(draw_strips(source, source.pairs, times=[0.0, 0.1]))
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["0.00 s", "0.10 s", "error", "prediction", "truth"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["", "error (mm)"]
    figure.savefig(tmp_path / "strip.png", dpi=50)
    assert imread(tmp_path / "strip.png").shape[1] == 7 * 50


def test_all_strips_have_one_scale(source: Source) -> None:
    path = source.pairs[1].prediction
    np.save(path, np.load(path) - np.float32([0, 0, 5e-3]))  # 7 mm from the truth, the other 2
    bars = [figure.axes[1] for figure in draw_strips(source, source.pairs)]
    assert [bar.get_ylim() for bar in bars] == [(0.0, 8.0), (0.0, 8.0)]


def test_the_colour_bar_of_the_errors_ends_at_the_given_limit(source: Source) -> None:
    bar = draw_errors(source, max_mm=1.0).axes[1]
    assert bar.get_ylabel() == "mean vertex error (mm)" and bar.get_ylim() == (0.0, 1.0)
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0", "0.5", "1"]


def test_instants_beyond_the_clip_are_refused(source: Source) -> None:
    with pytest.raises(UserError, match=r"--times 9: expected 0 to 0.20 seconds, .* of a_01"):
        next(draw_strips(source, source.pairs, times=[0.1, 9.0]))


def test_an_unknown_clip_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--clips c_01: no such clip in .*expected one of a_01, b"):
        Source.open(source.spec, tmp_path / "pred", ["c_01"])


def run(source: Source, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    """The exit code of the command for the predictions of `source`."""
    monkeypatch.setattr(figures, "locate", lambda spec: (source.spec, None))
    folder = Path(source.spec.root)
    return run_cli(figures.main, ["--pred", str(folder / "pred"), "--dataset", "synthetic",
                                  "--out", str(folder / "out"), *flags])  # fmt: skip


def test_openings_need_the_inner_lips_and_are_left_out_unless_named(
    source: Source, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "plates names no vertices of the inner lips; give --inner_lips UPPER LOWER\n"
    assert run(source, monkeypatch, "--draw", "opening") == 2
    assert capsys.readouterr().err == f"error: {reason}"
    monkeypatch.setattr(figures, "KINDS", {"opening": "only"})
    assert run(source, monkeypatch) == 0
    assert capsys.readouterr().out == f"no mouth opening: {reason}"
    assert run(source, monkeypatch, "--inner_lips", "2", "4") == 2
    assert "--inner_lips 2 4: expected vertices from 0 to 3" in capsys.readouterr().err
    assert run(source, monkeypatch, "--inner_lips", "2", "1", "0") == 2
    assert "3 vertices, expected pairs: an upper and a lower" in capsys.readouterr().err
    phones = Path(source.spec.root) / "phones.jsonl"
    phones.write_text('{"name": "a_01", "segments": [["m", 0.1, 0.2]]}\n')
    assert run(source, monkeypatch, "--inner_lips", "2", "1", "--phones", str(phones)) == 0
    assert capsys.readouterr().out.split()[0].endswith("out/a_01_opening.png")
    phones.write_text('{"name": "a_01", "segments": [["m", 0.2, 0.1]]}\n')
    assert run(source, monkeypatch, "--inner_lips", "2", "1", "--phones", str(phones)) == 2
    assert "phones.jsonl, line 1: expected a JSON object with" in capsys.readouterr().err


def test_an_error_panel_without_videos_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(figures.main, ["--pred", "x", "--dataset", "synthetic", "--error_panel"]) == 2
    assert "--error_panel: a panel of videos; add --draw video" in capsys.readouterr().err


def test_a_limit_that_is_not_positive_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--pred", "x", "--dataset", "synthetic", "--max_mm", "nan"]
    assert run_cli(figures.main, flags) == 2
    assert capsys.readouterr().err == "error: --max_mm nan: expected millimetres, more than 0\n"
