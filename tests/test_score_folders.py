"""The command `python metrics.py`: formulas, layouts, file names and error messages."""

import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from evaluation.score_folders import main
from files.meshes import load_region

V = 7
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
        sampled = truth[::step]
        prediction = sampled + rng.normal(0, 0.003, sampled.shape).astype(np.float32)
        np.save(tmp_path / f"truth/{subject}_e37.npy", truth.reshape(len(truth), -1))
        np.save(tmp_path / f"pred/{subject}_e37_condition_{subject}.npy", prediction[None])
        for t in range(frames):
            errors = [math.dist(a, b) for a, b in zip(prediction[t].tolist(), sampled[t].tolist(),
                                                      strict=True)]  # fmt: skip
            distances += errors
            largest.append(max(errors[v] for v in lips) ** 2)
        dynamics = []
        for meshes in (sampled, prediction):
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
    figures = {"lve", "fdd", "abs_fdd", "mve", "frames", "clips"}
    assert figures | {"opening_r", "mtm_ms", "mtm_extrema", "units"} == set(scores)
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


def test_only_the_subjects_own_style_is_scored_if_predicted(
    folders: Path, capsys: pytest.CaptureFixture
) -> None:
    before = run(folders, capsys)
    for path in sorted((folders / "pred").glob("*.npy")):
        subject = path.stem.removesuffix("_sentence01")
        np.save(path.with_name(f"{path.stem}_condition_M3.npy"), np.load(path) + 1)
        path.rename(path.with_name(f"{path.stem}_condition_{subject}.npy"))
    assert run(folders, capsys) == before


def test_all_styles_are_scored_if_none_is_the_subjects_own(
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
    with pytest.raises(UserError, match="both predict F1_sentence01; give --pred .* one method"):
        run(folders, capsys)


def test_a_metric_without_its_template_is_null(
    folders: Path, capsys: pytest.CaptureFixture
) -> None:
    scores = run(folders, capsys)
    assert scores["fdd"] is None and scores["abs_fdd"] is None and scores["lve"] > 0


def test_the_table_names_the_regions(folders: Path, capsys: pytest.CaptureFixture) -> None:
    main(["--pred", f"{folders}/pred", "--truth", f"{folders}/truth"]
         + ["--regions", f"lips={folders}/lips.txt"])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("LVE") and lines[0].endswith(f"vertices of {folders}/lips.txt")
    assert lines[1].split()[:2] == ["FDD", "-"]
    assert lines[1].endswith("needs --regions upper=FILE; needs --templates FILE")
    assert lines[3].startswith("MVE") and lines[3].endswith("all vertices")
    assert lines[-1] == "2 clips, 15 frames; one frame in 2 of the truth is used"
    (folders / "pred/F1_sentence01.npy").unlink()
    main(["--pred", f"{folders}/pred", "--truth", f"{folders}/truth"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("1 clips, 6 frames")
    assert lines[-1] == "clips of --truth without a prediction: 1 (F1_sentence01, ...)"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("F1_sentence01", lambda p: p[:, :-1], "6 vertices, expected 7"),
        ("F1_sentence01", lambda p: p * 1000, "bring both to one unit"),
        (
            "F1_sentence01",
            lambda p: p[:4],
            "4 frames, expected 9, one for every 2 of the truth's 18",
        ),
        ("F1_sentence01", lambda p: p * np.nan, "F1_.*NaN or infinite .* frame 0; predict"),
        ("F9_sentence01", lambda p: p, "F9_sentence01.npy: its name contains no clip name"),
        ("F1_sentence01", lambda p: p[:, :, :2], "6 vertices|expected .T, V.3."),
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
        (lambda v: v[:30], "30 frames, its truth has 60; the motion fits .* cut short"),
        (lambda v: v[:20], "20 frames, its truth has 60: cut short, or of another frame rate"),
        (lambda v: v[::3], "20 frames, its truth has 60: cut short, or of another frame rate"),
        (lambda v: v[:45], "45 frames, expected 60, as in its truth; is it another clip"),
    ],
)
def test_predictions_cut_short_are_not_taken_for_a_lower_frame_rate(
    change: Callable[[np.ndarray], np.ndarray], message: str, folders: Path
) -> None:
    with pytest.raises(UserError, match=message):
        main(talk(folders, change))


def test_half_the_frame_rate_is_accepted_where_the_motion_fits(
    folders: Path, capsys: pytest.CaptureFixture
) -> None:
    main(talk(folders, lambda v: v[::2]))
    printed = capsys.readouterr()
    assert "one frame in 2 of the truth" in printed.out and not printed.err
    main(talk(folders, lambda v: np.tile(v[:1], (30, 1, 1))))  # no motion to tell by
    printed = capsys.readouterr()
    assert "one frame in 2 of the truth" in printed.out
    assert printed.err.startswith("warning: ") and "30 frames, its truth has 60;" in printed.err
    assert "cut short instead" in printed.err


@pytest.mark.parametrize("seed", range(4))
def test_a_prediction_at_half_the_rate_is_never_taken_for_one_cut_short(
    seed: int, folders: Path, capsys: pytest.CaptureFixture
) -> None:
    """Motion of its own, which by chance may follow the beginning of the truth better."""
    rng = np.random.default_rng(seed)

    def other_motion(truth: np.ndarray) -> np.ndarray:
        return truth[:1] + 0.1 * rng.normal(size=(30, V, 3)).cumsum(0)

    main(talk(folders, other_motion))
    assert "one frame in 2 of the truth" in capsys.readouterr().out


def test_clips_of_several_lengths_with_half_the_frames_need_no_motion(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The predictions have the motion of the truth's first half, but its whole length."""
    for name in ("truth", "pred"):
        (tmp_path / name).mkdir()
    for i, frames in enumerate((60, 71, 90)):
        truth = np.random.default_rng(i).normal(size=(frames, V, 3)).cumsum(0).astype("f4")
        np.save(tmp_path / f"truth/c_{i}.npy", truth)
        np.save(tmp_path / f"pred/c_{i}.npy", truth[: (frames + 1) // 2])
    main(["--pred", f"{tmp_path}/pred", "--truth", f"{tmp_path}/truth"])
    printed = capsys.readouterr()
    assert "one frame in 2 of the truth" in printed.out and "cut short" not in printed.err


def opening_clips(folder: Path, late_frames: int, metres_per_unit: float) -> list[str]:
    """A face 0.2 m across that opens and closes its mouth, predicted late; the flags."""
    for name, late in (("truth", 0), ("pred", late_frames)):
        (folder / name).mkdir()
        meshes = np.zeros((120, V, 3))
        meshes[:, 0, 0] = 0.2
        meshes[:, 1, 1] = 0.01 * (1 + np.sin(2 * np.pi * (np.arange(120) - late) / 24))
        np.save(folder / name / "c_1.npy", (meshes / metres_per_unit).astype(np.float32))
    return ["--pred", f"{folder}/pred", "--truth", f"{folder}/truth"]


@pytest.mark.parametrize(("metres_per_unit", "unit"), [(1.0, "m"), (1e-3, "mm"), (0.1856, "unit")])
def test_units_are_named(
    metres_per_unit: float, unit: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = opening_clips(tmp_path, 0, metres_per_unit)
    main([*flags, "--json"])
    units = json.loads(capsys.readouterr().out)["units"]
    assert units["lve"] == f"{unit}²" and units["mve"] == unit and units["mtm_ms"] == "ms"
    main(flags)
    lines = capsys.readouterr().out.splitlines()
    assert f" {unit}² " in lines[0] and lines[4].startswith("unit: ")
    main([*flags, "--unit", "ell"])
    assert " ell² " in capsys.readouterr().out


def test_misalignment_of_folders_is_in_milliseconds(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = opening_clips(tmp_path, 2, 1.0)
    with pytest.raises(UserError, match="--inner_lips: MTM is in milliseconds; add --pred_fps"):
        main([*flags, "--inner_lips", "1", "2"])
    flags += ["--inner_lips", "1", "2", "1", "3", "--pred_fps", "25", "--truth_fps", "25"]
    main([*flags, "--json"])
    scores = json.loads(capsys.readouterr().out)
    assert scores["mtm_ms"] == pytest.approx(80.0) and scores["mtm_extrema"] >= 8
    assert scores["opening_r"] == pytest.approx(np.cos(2 * np.pi * 2 / 24), abs=0.02)
    main(flags)
    assert "MTM     8.0000e+01 ms     inner lips 1 2 1 3; " in capsys.readouterr().out


def test_frames_after_a_predictions_end_are_counted(
    folders: Path, capsys: pytest.CaptureFixture
) -> None:
    main(talk(folders, lambda v: v[:57]))  # 3 of 60 in each of two clips
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "2 clips, 114 frames; every frame of the truth is used"
    assert lines[-1].endswith("after the end of their prediction, not scored: 6")


@pytest.mark.parametrize("change", [lambda v: v[:, ::-1], lambda v: v[:, :, [1, 2, 0]]])
def test_another_order_of_vertices_or_axes_gives_a_warning(
    change: Callable[[np.ndarray], np.ndarray], folders: Path, capsys: pytest.CaptureFixture
) -> None:
    main([*talk(folders, change), "--json"])
    printed = capsys.readouterr()
    assert json.loads(printed.out)["clips"] == 2
    assert printed.err.startswith(
        "warning: 2 of 2 clips (F1_TA_sentence01, ...) differ from the truth by"
    )
    main(talk(folders, lambda v: v + 1))
    assert not capsys.readouterr().err


def test_wrong_flags_are_reported_in_one_line(folders: Path, tmp_path: Path) -> None:
    good = ["--pred", f"{folders}/pred", "--truth", f"{folders}/truth"]
    with pytest.raises(UserError, match="mouth=x: expected lips=FILE"):
        main([*good, "--regions", "mouth=x"])
    with pytest.raises(UserError, match="--pred .*nowhere: no such folder"):
        main(["--pred", f"{folders}/nowhere", "--truth", f"{folders}/truth"])
    (folders / "empty").mkdir()
    with pytest.raises(UserError, match="--truth .*empty: no .npy files"):
        main(["--pred", f"{folders}/pred", "--truth", f"{folders}/empty"])
    np.savez(folders / "few.npz", M9=np.zeros((V, 3)))
    with pytest.raises(UserError, match="no template for its subject, --templates has M9; exp"):
        main([*good, "--templates", f"{folders}/few.npz"])


def write_moving(folder: Path, rate: Fraction, seconds: tuple[float, ...]) -> None:
    """Clips of one sine motion at `rate` frames a second, (T, V, 3)."""
    folder.mkdir(exist_ok=True)
    for i, duration in enumerate(seconds):
        instants = np.arange(int(duration * rate)) / float(rate)
        meshes = np.tile(np.arange(3.0 * V).reshape(V, 3), (len(instants), 1, 1))
        meshes[:, :, 1] += np.sin(2 * np.pi * 1.5 * instants)[:, None]
        np.save(folder / f"c_{i}.npy", meshes.astype(np.float32))


def test_truth_of_another_rate_is_resampled_in_time(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """One motion at 30 and 28 frames a second: no error but that of resampling."""
    write_moving(tmp_path / "pred", Fraction(30), (3.0, 4.1, 5.3))
    write_moving(tmp_path / "truth", Fraction(28), (3.0, 4.1, 5.3))
    flags = ["--pred", f"{tmp_path}/pred", "--truth", f"{tmp_path}/truth"]
    with pytest.raises(UserError, match=r"--pred: 1.07\d times .* every clip .* give --pred_fps"):
        main(flags)
    main([*flags, "--pred_fps", "30", "--truth_fps", "28", "--json"])
    scores = json.loads(capsys.readouterr().out)
    assert scores["mve"] < 2e-3 and scores["clips"] == 3
    main([*flags, "--pred_fps", "30", "--truth_fps", "28"])
    assert "the truth is resampled to the predictions' rate" in capsys.readouterr().out
    with pytest.raises(UserError, match="--pred_fps and --truth_fps: expected both or neither"):
        main([*flags, "--pred_fps", "30"])
    with pytest.raises(UserError, match="c_0.npy: 90 frames, expected 45, one for every 1.867 of"):
        main([*flags, "--pred_fps", "15", "--truth_fps", "28"])
