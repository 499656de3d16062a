"""Mean temporal misalignment: known shifts, alignment by hand, curves without extrema."""

import math

import numpy as np
import pytest

from evaluation import misalignment
from evaluation.misalignment import extrema, smooth, temporal_misalignment, warping_path

T = np.arange(240)


def wave(late_frames: float) -> np.ndarray:
    """Ten periods of 24 frames: 20 extrema."""
    return np.sin(2 * np.pi * (T - late_frames) / 24)


@pytest.mark.parametrize("late_frames", [-3, -1, 0, 1, 2, 4])
def test_a_shifted_wave_gives_its_shift_in_milliseconds(late_frames: int) -> None:
    result = temporal_misalignment(wave(late_frames), wave(0), fps=30)
    assert result.ms == pytest.approx(abs(late_frames) * 1000 / 30, rel=1e-12)
    assert result.extrema in (19, 20)  # one may leave the clip


def test_a_frame_lasts_longer_at_a_lower_rate() -> None:
    assert temporal_misalignment(wave(2), wave(0), fps=25).ms == pytest.approx(80.0)


def test_a_curve_has_no_misalignment_to_itself(rng: np.random.Generator) -> None:
    curve = rng.normal(size=157).cumsum()
    result = temporal_misalignment(curve, curve, fps=30)
    assert result.ms == 0.0 and result.extrema == len(extrema(smooth(curve))) > 5


@pytest.mark.parametrize("curve", [np.arange(40.0), np.zeros(40), np.zeros(1)])
def test_without_extrema_there_is_no_misalignment(curve: np.ndarray) -> None:
    assert math.isnan(temporal_misalignment(curve, curve, fps=30).ms)
    assert temporal_misalignment(curve, np.sin(curve), fps=30).extrema == 0


def test_a_maximum_does_not_match_a_minimum() -> None:
    one = np.exp(-((np.arange(60) - 30.0) ** 2) / 20)
    assert temporal_misalignment(-one, one, fps=30).extrema == 0


def test_extrema_of_a_curve_by_hand() -> None:
    assert extrema(np.array([0.0, 2, 1, 1, 3, 3, 3, 0])) == {1: 1, 2: -1, 5: 1}  # plateaus: middle
    assert extrema(np.array([5.0, 4, 4, 1])) == {}


def test_the_cheapest_path_by_hand() -> None:
    """The second curve waits in its first frame and skips nothing; all pairs cost 0."""
    path = warping_path(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0]))
    assert path == [(0, 0), (1, 0), (2, 1)]


def test_the_cheapest_path_costs_what_all_paths_say(rng: np.random.Generator) -> None:
    one, other = rng.normal(size=5), rng.normal(size=4)

    def cheapest(i: int, j: int) -> float:
        if min(i, j) < 0:
            return math.inf
        before = (cheapest(i - 1, j - 1), cheapest(i - 1, j), cheapest(i, j - 1))
        return abs(one[i] - other[j]) + (0.0 if i == j == 0 else min(before))

    cost = sum(abs(one[i] - other[j]) for i, j in warping_path(one, other))
    assert cost == pytest.approx(cheapest(4, 3), rel=1e-12)


def test_smoothing_is_scipys_gaussian(rng: np.random.Generator) -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is missing")
    curve = rng.normal(size=50)
    np.testing.assert_allclose(smooth(curve), ndimage.gaussian_filter1d(curve, 2.0), atol=1e-12)


def test_parts_of_a_long_clip_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(misalignment, "PART_FRAMES", 96)  # 96, 96 and 48 frames
    result = temporal_misalignment(wave(0), wave(0), fps=30)
    assert result.ms == 0.0 and result.extrema >= 18
    with pytest.raises(ValueError, match=r"openings \(0,\), \(240,\)"):
        temporal_misalignment(wave(0)[:0], wave(0), fps=30)
