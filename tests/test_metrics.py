"""Metrics against hand arithmetic, torchmetrics and known delays."""

import numpy as np
import pytest

from metrics import (
    closures,
    is_static,
    jitter,
    lip_sync_offset_ms,
    lip_vertex_error,
    mean_vertex_error,
    motion_std,
    motionless,
    mouth_opening,
    mouth_opening_correlation,
    pool,
    score_clip,
    stays_still,
    upper_face_dynamics_deviation,
)

T, V = 5, 7


def test_lip_vertex_error_is_the_mean_of_the_largest_squared_distances() -> None:
    truth, prediction = np.zeros((2, 3, 3)), np.zeros((2, 3, 3))
    prediction[0, 0] = [3, 0, 4]  # 25
    prediction[0, 1] = [1, 0, 0]  # 1: not the largest
    prediction[1, 1] = [0, 2, 1]  # 5
    prediction[:, 2] = 100  # no lip
    assert lip_vertex_error(prediction, truth, np.array([0, 1])) == (25 + 5) / 2


def test_mean_vertex_error_is_the_mean_distance() -> None:
    truth, prediction = np.zeros((2, 2, 3)), np.zeros((2, 2, 3))
    prediction[0, 0] = [3, 0, 4]  # 5
    prediction[1, 1] = [0, 0, 1]  # 1
    assert mean_vertex_error(prediction, truth) == (5 + 0 + 0 + 1) / 4


def test_upper_face_dynamics_deviation_by_hand() -> None:
    template = np.ones((3, 3))
    truth, prediction = motionless(template, 2).copy(), motionless(template, 2).copy()
    truth[1, 0] += [0, 0, 2]  # squared offsets 0, 4: std 2
    truth[1, 1] += [2, 2, 2]  # 0, 12: std 6
    prediction[1, 0] += [0, 4, 0]  # 0, 16: std 8
    prediction[:, 2] += 50  # not of the upper face
    upper = np.array([0, 1])
    fdd = upper_face_dynamics_deviation(prediction, truth, template, upper)
    assert fdd == pytest.approx((2 + 6) / 2 - (8 + 0) / 2) == 0.0
    still = upper_face_dynamics_deviation(motionless(template, 2), truth, template, upper)
    assert still == pytest.approx(4.0)


def test_lip_vertex_error_equals_torchmetrics(rng: np.random.Generator) -> None:
    multimodal = pytest.importorskip("torchmetrics.multimodal", reason="torchmetrics is missing")
    if not hasattr(multimodal, "LipVertexError"):
        pytest.skip("this torchmetrics has no LipVertexError")
    import torch

    lips = [1, 4, 6]
    truth = rng.normal(size=(T, V, 3)).astype(np.float32)
    prediction = truth + rng.normal(size=(T, V, 3)).astype(np.float32)
    other = multimodal.LipVertexError(mouth_map=lips)
    other.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    ours = lip_vertex_error(prediction, truth, np.array(lips))
    assert ours == pytest.approx(float(other.compute()), rel=1e-6)


def test_float32_meshes_far_from_the_origin_lose_nothing() -> None:
    truth = np.full((3, V, 3), 1000.0, np.float32)
    prediction = truth.copy()
    prediction[:, 2, 0] += 0.5
    assert lip_vertex_error(prediction, truth, np.arange(V)) == 0.25
    assert mean_vertex_error(prediction, truth) == pytest.approx(0.5 / V, rel=1e-12)


def test_meshes_of_different_length_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match=r"\(4, 7, 3\) and truth \(5, 7, 3\)"):
        lip_vertex_error(np.zeros((4, V, 3)), np.zeros((5, V, 3)), np.array([0]))


def test_pooling_weighs_frames_for_lve_and_clips_for_fdd() -> None:
    template = np.zeros((2, 3))
    region = np.array([0])
    short, long = motionless(template, 1).copy(), motionless(template, 3).copy()
    short[:, 0, 0] = 4.0  # LVE 16, MVE 2
    wave = np.zeros((3, 2, 3))
    wave[0, 0, 0] = 3.0  # squared 9, 0, 0: std sqrt(18)
    clips = [
        score_clip(short, motionless(template, 1), template, region, region),
        score_clip(long, wave, template, region, region),
    ]
    scores = pool(clips)
    assert (scores.clips, scores.frames) == (2, 4)
    assert scores.lve == pytest.approx((16 + 9) / 4)
    assert scores.mve == pytest.approx((2 * 1 + 0.5 * 3) / 4)
    assert scores.fdd == pytest.approx(np.sqrt(18) / 2)
    mirrored = pool([clips[1], score_clip(wave, long, template, region, region)])
    assert mirrored.fdd == pytest.approx(0) and mirrored.abs_fdd == pytest.approx(np.sqrt(18))
    without = pool([score_clip(short, motionless(template, 1))])
    assert without.lve is None and without.fdd is None and without.mve == 2.0


def test_jitter_is_the_mean_acceleration() -> None:
    vertices = np.zeros((4, 2, 3))
    vertices[:, 0, 1] = [0, 1, 4, 9]  # t²: second difference 2
    assert jitter(vertices, fps=10) == pytest.approx((2 + 0) / 2 * 100)
    with pytest.raises(ValueError, match="2 frames"):
        jitter(vertices[:2], fps=10)


def test_jitter_of_long_clips_is_that_of_their_frames(rng: np.random.Generator) -> None:
    vertices = rng.normal(size=(150, 3, 3))  # more than two blocks
    acceleration = vertices[2:] - 2 * vertices[1:-1] + vertices[:-2]
    expected = np.linalg.norm(acceleration, axis=2).mean() * 25**2
    assert jitter(vertices, fps=25) == pytest.approx(expected, rel=1e-12)


def test_lips_that_hardly_move_are_static() -> None:
    template = np.zeros((3, 3))
    template[1, 0] = 50.0  # lips 50 wide
    moving = motionless(template, 2).copy()
    moving[1, :, 1] += 2.0  # 1 about the mean
    assert motion_std(moving, np.array([0, 1])) == pytest.approx(1.0)
    assert not is_static(moving, np.array([0, 1]))
    assert is_static(motionless(template, 2) + (moving - template) * 0.4, np.array([0, 1]))


def test_a_prediction_of_little_motion_is_not_static_where_the_truth_hardly_moves() -> None:
    """Lips 50 wide: 0.5 is the bound of motion. The truth moves 0.6 about its mean."""
    lips = np.array([0, 1])
    truth = np.zeros((2, 2, 3))
    truth[:, 1, 0] = 50.0
    truth[1, :, 1] = 1.2
    by_share = {}
    for share in (0.0, 0.2, 0.3, 0.8):
        prediction = truth.copy()
        prediction[1, :, 1] *= share
        assert is_static(prediction, lips)
        by_share[share] = stays_still(prediction, truth, lips)
    assert by_share == {0.0: True, 0.2: True, 0.3: False, 0.8: False}
    assert not stays_still(truth[:1], truth[:1], lips)  # silence


def test_mouth_opening_is_the_height_between_the_inner_lips() -> None:
    vertices = np.zeros((2, 4, 3))
    vertices[:, 0, 1] = [1.0, 5.0]
    vertices[:, 1, 1] = [1.0, 7.0]
    vertices[:, 2, 1] = [1.0, -2.0]
    assert mouth_opening(vertices, [0, 1], 2).tolist() == [0.0, 8.0]
    assert mouth_opening(vertices, 2, 0).tolist() == [0.0, -7.0]


def test_opening_correlation_is_pearsons(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=31), rng.normal(size=31)
    assert mouth_opening_correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert mouth_opening_correlation(a, 3 * a - 2) == pytest.approx(1.0)
    assert np.isnan(mouth_opening_correlation(a, np.ones(31)))


def test_closures_are_looked_for_in_the_frames_of_each_phone() -> None:
    opening = np.array([9, 9, 0, 9, 9, 9, 9, 9, 9, 9], float)  # closed at 0.2 s
    segments = [("aa", 0.0, 0.1), ("b", 0.15, 0.25), ("m", 0.6, 0.8), ("p", 2.0, 2.1)]
    assert closures(opening, segments, 1.0, fps=10).tolist() == [True, False]
    assert closures(opening, segments, 1.0, fps=10, phones=("aa",)).tolist() == [False]
    assert closures(opening, [], 1.0, fps=10).shape == (0,)


def test_a_closure_shorter_than_a_frame_is_found_in_the_neighbouring_frames() -> None:
    opening = np.array([9, 9, 0, 9], float)
    assert closures(opening, [("p", 0.12, 0.16)], 1.0, fps=10).tolist() == [True]


@pytest.mark.parametrize("late_frames", [-4, 0, 3, 0.4, -1.3])
def test_sync_offset_finds_a_known_delay(late_frames: float) -> None:
    fps, t = 30, np.arange(90)

    def opening(at: np.ndarray) -> np.ndarray:
        return np.sin(at / 4.0) + 0.7 * np.sin(at / 2.3 + 1) + 0.3 * np.cos(at / 9.0)

    offset = lip_sync_offset_ms(opening(t - late_frames), opening(t), fps)
    assert offset == pytest.approx(late_frames * 1000 / fps, abs=2.0)


def test_sync_offset_of_a_still_face_is_nan() -> None:
    assert np.isnan(lip_sync_offset_ms(np.zeros(40), np.sin(np.arange(40)), 30))
