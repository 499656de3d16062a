"""Metrics against hand arithmetic, torchmetrics, and shifts of known size."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from evaluation.score_folders import main
from files.meshes import load_region
from metrics import (
    closure_rate,
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
    assert jitter(vertices, fps=10, region=np.array([0])) == pytest.approx(200)
    with pytest.raises(ValueError, match="2 frames"):
        jitter(vertices[:2], fps=10)


def test_the_static_alarm_rings_for_lips_that_hardly_move() -> None:
    template = np.zeros((3, 3))
    template[1, 0] = 50.0  # lips 50 wide
    moving = motionless(template, 2).copy()
    moving[1, :, 1] += 2.0  # 1 about the mean
    assert motion_std(moving, np.array([0, 1])) == pytest.approx(1.0)
    assert not is_static(moving, np.array([0, 1]))
    assert is_static(motionless(template, 2) + (moving - template) * 0.4, np.array([0, 1]))


def test_a_soft_voice_in_a_quiet_clip_is_no_static_face() -> None:
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


def test_closures_are_sought_in_the_frames_of_the_phone() -> None:
    opening = np.array([9, 9, 0, 9, 9, 9, 9, 9, 9, 9], float)  # closed at 0.2 s
    segments = [("aa", 0.0, 0.1), ("b", 0.15, 0.25), ("m", 0.6, 0.8), ("p", 2.0, 2.1)]
    assert closures(opening, segments, 1.0, fps=10).tolist() == [True, False]
    assert closure_rate(opening, segments, 1.0, fps=10) == 0.5
    assert closure_rate(opening, segments, 1.0, fps=10, phones=("aa",)) == 0.0
    assert np.isnan(closure_rate(opening, [], 1.0, fps=10))


def test_a_closure_shorter_than_a_frame_still_has_its_neighbours() -> None:
    opening = np.array([9, 9, 0, 9], float)
    assert closures(opening, [("p", 0.12, 0.16)], 1.0, fps=10).tolist() == [True]


@pytest.mark.parametrize("late_frames", [-4, 0, 3, 0.4, -1.3])
def test_sync_offset_finds_a_known_delay(late_frames: float) -> None:
    fps, t = 30, np.arange(90)

    def opening(at: np.ndarray) -> np.ndarray:
        return np.sin(at / 4.0) + 0.7 * np.sin(at / 2.3 + 1) + 0.3 * np.cos(at / 9.0)

    found = lip_sync_offset_ms(opening(t - late_frames), opening(t), fps)
    assert found == pytest.approx(late_frames * 1000 / fps, abs=2.0)


def test_sync_offset_of_a_still_face_is_not_a_number() -> None:
    assert np.isnan(lip_sync_offset_ms(np.zeros(40), np.sin(np.arange(40)), 30))


SUBJECTS = ("F1_TA", "F1")  # one name is the beginning of the other


@pytest.fixture
def folders(tmp_path: Path, rng: np.random.Generator) -> Path:
    """truth/ of two clips at 60 fps, pred/ of the same at 30 fps, regions and templates."""
    templates = {subject: rng.normal(size=(V, 3)) for subject in SUBJECTS}
    np.savez(tmp_path / "templates.npz", **templates)
    (tmp_path / "lips.txt").write_text("1, 4")
    np.save(tmp_path / "upper.npy", np.array([0, 2, 6]))
    for name in ("truth", "pred"):
        (tmp_path / name).mkdir()
    for i, subject in enumerate(SUBJECTS):
        frames = 12 + 6 * i
        truth = (templates[subject] + 0.1 * rng.normal(size=(frames, V, 3))).astype(np.float32)
        np.save(tmp_path / "truth" / f"{subject}_sentence01.npy", truth.reshape(frames, -1))
        prediction = truth[::2] + 0.05 * rng.normal(size=truth[::2].shape).astype(np.float32)
        np.save(tmp_path / "pred" / f"{subject}_sentence01.npy", prediction)
    return tmp_path


def run(folder: Path, capsys: pytest.CaptureFixture, *more: str) -> dict:
    main(
        ["--pred", f"{folder}/pred", "--truth", f"{folder}/truth", "--json", *more]
        + ["--regions", f"lips={folder}/lips.txt", f"upper={folder}/upper.npy"]
    )
    return json.loads(capsys.readouterr().out)


def test_the_command_scores_folders_by_the_formulas(
    folders: Path, capsys: pytest.CaptureFixture
) -> None:
    """The field's scripts, written out: pooled frames, and one FDD a clip."""
    scores = run(folders, capsys, "--templates", f"{folders}/templates.npz")
    templates = np.load(folders / "templates.npz")
    largest, distances, fdds = [], [], []
    for subject in SUBJECTS:
        truth = np.load(folders / "truth" / f"{subject}_sentence01.npy").reshape(-1, V, 3)[::2]
        prediction = np.load(folders / "pred" / f"{subject}_sentence01.npy")
        for t in range(len(truth)):
            squared = [sum((prediction[t, v] - truth[t, v]) ** 2.0) for v in range(V)]
            largest.append(max(squared[1], squared[4]))
            distances += [s**0.5 for s in squared]
        stds = [
            np.mean([np.std(np.sum((m[:, v] - templates[subject][v]) ** 2, 1)) for v in (0, 2, 6)])
            for m in (truth, prediction)
        ]
        fdds.append(stds[0] - stds[1])
    assert scores["lve"] == pytest.approx(np.mean(largest), rel=1e-5)
    assert scores["mve"] == pytest.approx(np.mean(distances), rel=1e-5)
    assert scores["fdd"] == pytest.approx(np.mean(fdds), rel=1e-5)
    assert scores["abs_fdd"] == pytest.approx(np.mean(np.abs(fdds)), rel=1e-5)
    assert (scores["frames"], scores["clips"]) == (6 + 9, 2)


FULL_SIZE = {  # data set -> vertices, lips, upper face, fps of truth and prediction
    "vocaset": (5_023, "vocaset/FLAME_masks.pkl", "vocaset/regions/fdd.txt", 2),
    "BIWI": (23_370, "biwi/lve.txt", "biwi/fdd.txt", 1),
    "BIWI_6": (3_895, "biwi6/masks/mouth_indices.npy", "biwi6/masks/upper_indices.npy", 1),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_scores_equal_the_formulas_of_codetalker_and_facediffuser(
    name: str,
    tmp_path: Path,
    shared_data: Path,
    rng: np.random.Generator,
    capsys: pytest.CaptureFixture,
) -> None:
    """Fabricated predictions, real regions; the formulas vertex by vertex, with Python's math."""
    n, lips_file, upper_file, step = FULL_SIZE[name]
    for folder in ("truth", "pred"):
        (tmp_path / folder).mkdir()
    lips = np.unique(load_region(shared_data / lips_file, n, key="lips"))
    upper = load_region(shared_data / upper_file, n)
    templates, largest, distances, fdds = {}, [], [], []
    for subject, frames in (("F2", 4), ("M3", 6)):
        templates[subject] = rng.normal(0, 0.1, (n, 3)).astype(np.float32)
        truth = templates[subject] + rng.normal(0, 0.004, (frames * step, n, 3)).astype("f4")
        kept = truth[::step]
        prediction = kept + rng.normal(0, 0.003, kept.shape).astype(np.float32)
        np.save(tmp_path / f"truth/{subject}_e37.npy", truth.reshape(len(truth), -1))
        np.save(tmp_path / f"pred/{subject}_e37_condition_{subject}.npy", prediction[None])
        for t in range(frames):
            errors = [math.dist(a, b) for a, b in zip(prediction[t].tolist(), kept[t].tolist(),
                                                      strict=True)]  # fmt: skip
            distances += errors
            largest.append(max(errors[v] for v in lips) ** 2)
        dynamics = []
        for meshes in (kept, prediction):
            squared = ((meshes[:, upper].astype(float) - templates[subject][upper]) ** 2).sum(2)
            variance = (squared**2).mean(0) - squared.mean(0) ** 2
            dynamics.append(float(np.sqrt(variance).mean()))
        fdds.append(dynamics[0] - dynamics[1])
    np.savez(tmp_path / "templates.npz", **templates)
    main(
        ["--pred", f"{tmp_path}/pred", "--truth", f"{tmp_path}/truth", "--json"]
        + ["--regions", f"lips={shared_data / lips_file}", f"upper={shared_data / upper_file}"]
        + ["--templates", f"{tmp_path}/templates.npz"]
    )
    scores = json.loads(capsys.readouterr().out)
    assert set(scores) == {"lve", "fdd", "abs_fdd", "mve", "frames", "clips"}
    assert (scores["frames"], scores["clips"]) == (10, 2)
    assert scores["lve"] == pytest.approx(math.fsum(largest) / 10, rel=1e-6)
    assert scores["mve"] == pytest.approx(math.fsum(distances) / (10 * n), rel=1e-6)
    assert scores["fdd"] == pytest.approx(sum(fdds) / 2, rel=1e-5)
    assert scores["abs_fdd"] == pytest.approx(sum(map(abs, fdds)) / 2, rel=1e-5)


@pytest.mark.parametrize("layout", [(-1, V, 3), (-1, V * 3), (1, -1, V * 3), (1, -1, V, 3)])
@pytest.mark.parametrize("name", ["{}", "{}_condition_M3", "model_{}_condition_M3", "sub/{}"])
def test_layouts_and_names_of_the_peers_score_the_same(
    layout: tuple[int, ...], name: str, folders: Path, capsys: pytest.CaptureFixture
) -> None:
    before = run(folders, capsys)
    for path in sorted((folders / "pred").glob("*.npy")):
        prediction = np.load(path).reshape(layout)
        path.unlink()
        renamed = folders / "pred" / f"{name.format(path.stem)}.npy"
        renamed.parent.mkdir(exist_ok=True)
        np.save(renamed, prediction)
    assert run(folders, capsys) == before


def test_of_several_styles_the_subjects_own_is_scored(
    folders: Path, capsys: pytest.CaptureFixture
) -> None:
    before = run(folders, capsys)
    for path in sorted((folders / "pred").glob("*.npy")):
        subject = path.stem.removesuffix("_sentence01")
        np.save(path.with_name(f"{path.stem}_condition_M3.npy"), np.load(path) + 1)
        path.rename(path.with_name(f"{path.stem}_condition_{subject}.npy"))
    assert run(folders, capsys) == before


def test_where_no_style_is_the_subjects_own_all_are_scored(
    folders: Path, capsys: pytest.CaptureFixture
) -> None:
    """FaceFormer predicts an unseen speaker in the style of every speaker that it knows."""
    for path in sorted((folders / "pred").glob("*.npy")):
        for style in ("M3", "M4"):
            np.save(path.with_name(f"{path.stem}_condition_{style}.npy"), np.load(path))
        path.unlink()
    assert run(folders, capsys)["clips"] == 4


def test_two_predictions_of_one_clip_are_refused(
    folders: Path, capsys: pytest.CaptureFixture
) -> None:
    (folders / "pred/other").mkdir()
    np.save(folders / "pred/other/F1_sentence01.npy", np.load(folders / "pred/F1_sentence01.npy"))
    with pytest.raises(UserError, match="both predict F1_sentence01; --pred wants .* one method"):
        run(folders, capsys)


def test_jitter_of_long_clips_is_that_of_their_frames(rng: np.random.Generator) -> None:
    vertices = rng.normal(size=(150, 3, 3))  # more than two blocks
    acceleration = vertices[2:] - 2 * vertices[1:-1] + vertices[:-2]
    expected = np.linalg.norm(acceleration, axis=2).mean() * 25**2
    assert jitter(vertices, fps=25) == pytest.approx(expected, rel=1e-12)


def test_what_lacks_its_template_is_null(folders: Path, capsys: pytest.CaptureFixture) -> None:
    scores = run(folders, capsys)
    assert scores["fdd"] is None and scores["abs_fdd"] is None and scores["lve"] > 0


def test_the_table_names_the_regions(folders: Path, capsys: pytest.CaptureFixture) -> None:
    main(["--pred", f"{folders}/pred", "--truth", f"{folders}/truth"]
         + ["--regions", f"lips={folders}/lips.txt"])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("LVE") and lines[0].endswith("lips.txt")
    assert lines[1].split()[:2] == ["FDD", "-"]
    assert lines[-1] == "2 clips, 15 frames; one frame in 2 of the truth compared"
    (folders / "pred/F1_sentence01.npy").unlink()
    main(["--pred", f"{folders}/pred", "--truth", f"{folders}/truth"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("1 clips, 6 frames")
    assert lines[-1] == "1 clips of --truth have no prediction (F1_sentence01, ...)"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("F1_sentence01", lambda p: p[:, :-1], "6 vertices; its truth has 7"),
        ("F1_sentence01", lambda p: p * 1000, "another unit"),
        ("F1_sentence01", lambda p: p[:4], "4 frames; its truth has 18, 9 at every frame in 2"),
        ("F1_sentence01", lambda p: p * np.nan, "F1_.*NaN or infinite .* frame 0; wanted numbers"),
        ("F9_sentence01", lambda p: p, "F9_sentence01.npy: no truth of that name"),
        ("F1_sentence01", lambda p: p[:, :, :2], "6 vertices|wanted .T, V.3."),
    ],
)
def test_predictions_that_do_not_fit_are_named(
    name: str,
    change: Callable[[np.ndarray], np.ndarray],
    message: str,
    folders: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    prediction = change(np.load(folders / "pred/F1_sentence01.npy"))
    np.save(folders / "pred" / f"{name}.npy", prediction)
    with pytest.raises(UserError, match=message):
        run(folders, capsys)


def talk(folders: Path, change: Callable[[np.ndarray], np.ndarray]) -> list[str]:
    """Truths of 60 frames of smooth random motion, predictions `change` of them; the flags."""
    rng = np.random.default_rng(3)
    for subject in SUBJECTS:
        steps = rng.normal(size=(60, V, 3)).cumsum(0).astype(np.float32)
        truth = rng.normal(0, 100, (V, 3)).astype(np.float32) + 0.1 * steps
        np.save(folders / f"truth/{subject}_sentence01.npy", truth)
        np.save(folders / f"pred/{subject}_sentence01.npy", change(truth))
    return ["--pred", f"{folders}/pred", "--truth", f"{folders}/truth"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:30], "30 frames; its truth has 60, and the motion fits .* cut short"),
        (lambda v: v[:20], "20 frames; its truth has 60: cut short, or at another frame rate"),
        (lambda v: v[::3], "20 frames; its truth has 60: cut short, or at another frame rate"),
    ],
)
def test_predictions_cut_short_are_no_lower_frame_rate(
    change: Callable[[np.ndarray], np.ndarray], message: str, folders: Path
) -> None:
    with pytest.raises(UserError, match=message):
        main(talk(folders, change))


def test_half_the_frame_rate_is_taken_where_the_motion_fits(
    folders: Path, capsys: pytest.CaptureFixture
) -> None:
    main(talk(folders, lambda v: v[::2]))
    shown = capsys.readouterr()
    assert "one frame in 2 of the truth" in shown.out and not shown.err
    main(talk(folders, lambda v: np.tile(v[:1], (30, 1, 1))))  # no motion to tell by
    shown = capsys.readouterr()
    assert "one frame in 2 of the truth" in shown.out
    assert shown.err.startswith("warning: ") and "30 frames; its truth has 60:" in shown.err
    assert "if these were cut short, this is wrong" in shown.err


def test_frames_behind_a_predictions_end_are_counted(
    folders: Path, capsys: pytest.CaptureFixture
) -> None:
    main(talk(folders, lambda v: v[:57]))  # 3 of 60 in each of two clips
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "2 clips, 114 frames; every frame of the truth compared"
    assert lines[-1].startswith("6 frames of the truth are behind the end of their prediction")


@pytest.mark.parametrize("change", [lambda v: v[:, ::-1], lambda v: v[:, :, [1, 2, 0]]])
def test_another_order_of_vertices_or_axes_is_warned_of(
    change: Callable[[np.ndarray], np.ndarray], folders: Path, capsys: pytest.CaptureFixture
) -> None:
    main([*talk(folders, change), "--json"])
    shown = capsys.readouterr()
    assert json.loads(shown.out)["clips"] == 2
    assert shown.err.startswith("warning: 2 of 2 clips (F1_TA_sentence01, ...) are off by more")
    main(talk(folders, lambda v: v + 1))
    assert not capsys.readouterr().err


def test_wrong_flags_are_one_clear_line(folders: Path, tmp_path: Path) -> None:
    good = ["--pred", f"{folders}/pred", "--truth", f"{folders}/truth"]
    with pytest.raises(UserError, match="mouth=x: wanted lips=FILE"):
        main([*good, "--regions", "mouth=x"])
    with pytest.raises(UserError, match="--pred .*nowhere: no such folder"):
        main(["--pred", f"{folders}/nowhere", "--truth", f"{folders}/truth"])
    (folders / "empty").mkdir()
    with pytest.raises(UserError, match="--truth .*empty: no .npy files"):
        main(["--pred", f"{folders}/pred", "--truth", f"{folders}/empty"])
    np.savez(folders / "few.npz", M9=np.zeros((V, 3)))
    with pytest.raises(UserError, match="no template of its subject; they are .'M9'"):
        main([*good, "--templates", f"{folders}/few.npz"])
