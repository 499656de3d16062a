"""Pictures for papers: colours of a heat map, colour scales, the command and its messages."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread

from common.errors import UserError, run_cli
from config import DatasetSpec
from evaluation import figures, pictures
from evaluation.figures import Source, draw_errors, draw_strips
from evaluation.pictures import upper_limit
from metrics import errors_by_vertex, mean_vertex_error
from rendering.heat_map import COLOUR_MAP, NO_VALUE, draw_values
from rendering.renderer import Renderer

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
    monkeypatch.setattr(figures, "SIZE", 64)
    for folder in ("vertices_npy", "pred"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "templates.npz", a=PLATE, b=PLATE)
    np.savez(tmp_path / "faces.npz", faces=FACES)
    for name in ("a_01", "b_01"):
        truth = np.repeat(PLATE[None], 14, axis=0)
        truth[..., 1] += np.arange(14)[:, None] * 1e-3
        np.save(tmp_path / f"vertices_npy/{name}.npy", truth)
        np.save(tmp_path / f"pred/{name}.npy", truth[::2] - np.float32([0, 0, 2e-3]))
    spec = DatasetSpec(
        name="plates", root=str(tmp_path), fps=30, source_fps=60, n_vertices=4,
        metres_per_unit=1.0, templates=str(tmp_path / "templates.npz"),
        topology=str(tmp_path / "faces.npz"), lips_region="", upper_region="",
    )  # fmt: skip
    return Source.open(spec, tmp_path / "pred")


def test_errors_of_a_data_set_are_in_millimetres(source: Source) -> None:
    np.testing.assert_allclose(source.errors_mm(), 2.0, rtol=1e-3)


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


def test_a_limit_that_is_not_positive_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--pred", "x", "--dataset", "synthetic", "--max_mm", "nan"]
    assert run_cli(figures.main, flags) == 2
    assert capsys.readouterr().err == "error: --max_mm nan: expected millimetres, more than 0\n"
