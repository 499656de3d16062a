"""Captures at 28, 29.97, 59.94 frames a second: their rates, and motion resampled in time."""

import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.errors import UserError
from common.frame_rates import parse_rate, rate_text, stored_rate
from config import RECIPES
from data_loader import MeshSpeechDataset
from dataset.motion import resample_in_time, resampled_frames
from dataset.own_folder import read_folder
from dataset.own_rates import network_fps
from dataset.prepared import locate
from speech.timing import mesh_frames

V = 13
FILM, NTSC, NTSC_2 = (Fraction(n * 1000, 1001) for n in (24, 30, 60))
RATES = (Fraction(28), NTSC, NTSC_2, FILM)
TEMPLATE = np.random.default_rng(0).uniform(-0.1, 0.1, (V, 3))
AMPLITUDE, HZ = 0.01, 1.9  # metres, of a sine of the jaw; vertex 0 does not move


def sine(instants: np.ndarray, hz: float = HZ) -> np.ndarray:
    """The moving face (T, V, 3) at `instants`, in seconds."""
    meshes = np.tile(TEMPLATE, (len(instants), 1, 1))
    meshes[:, 1:, 1] += AMPLITUDE * np.sin(2 * np.pi * hz * instants + 0.4)[:, None]
    return meshes


def capture(root: Path, rate: Fraction, lengths: tuple[int, ...], sound: Callable = round) -> Path:
    """A folder with one clip for each of `lengths` in frames; `sound` rounds to 16 kHz samples."""
    for kind in ("wav", "vertices_npy"):
        (root / kind).mkdir(parents=True)
    np.savez(root / "templates.npz", face=TEMPLATE.astype(np.float32))
    (root / "lips.txt").write_text("1 2 3")
    (root / "upper.txt").write_text("4 5")
    for i, frames in enumerate(lengths):
        meshes = sine(np.arange(frames) / float(rate)).astype(np.float32)
        np.save(root / f"vertices_npy/c{i}.npy", meshes.reshape(frames, -1))
        samples = sound(frames / rate * 16_000)
        soundfile.write(root / f"wav/c{i}.wav", np.full(samples, 0.1), 16_000)
    return root


def settings(root: Path, **content: object) -> None:
    (root / "dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize("rate", RATES, ids=rate_text)
def test_motion_of_a_capture_is_resampled_to_the_analytic_sine(
    rate: Fraction, tmp_path: Path
) -> None:
    """The rate is inferred from clips of 3 to 8 s, exactly; frame t is the instant t / fps."""
    lengths = tuple(round(s * rate) for s in (3.1, 8.3, 5.2, 4.4))
    recipe, facts = read_folder(capture(tmp_path / "mine", rate, lengths))
    spec = recipe.dataset
    assert (Fraction(spec.source_fps), spec.fps) == (rate, network_fps(rate))
    assert rate_text(rate) in facts["frames"] and "by the clips' lengths" in facts["frames"]
    for split in spec.splits:
        data = MeshSpeechDataset(spec, split)
        for item, stored in zip(data, data.lengths(), strict=True):
            frames = lengths[int(item["name"][1:])]
            n = (frames - 1) * spec.fps * rate.denominator // rate.numerator + 1
            assert stored == n == resampled_frames(frames, rate, spec.fps)
            assert item["frames"] == min(n, mesh_frames(round(frames / rate * 16_000), spec.fps))
            expected = sine(np.arange(item["frames"]) / spec.fps)
            np.testing.assert_allclose(item["vertices"], expected, atol=0.01 * AMPLITUDE)
            inner = slice(16, -16)
            np.testing.assert_allclose(item["vertices"][inner], expected[inner], atol=3e-5)
            still = item["vertices"][:, 0]
            np.testing.assert_array_equal(still, np.tile(item["template"][0], (len(still), 1)))


def test_a_crop_has_the_motion_of_the_whole_clip(tmp_path: Path) -> None:
    spec = read_folder(capture(tmp_path / "mine", NTSC, (200, 201, 203)))[0].dataset
    whole = MeshSpeechDataset(spec, "train")[0]["vertices"]
    crop = MeshSpeechDataset(spec, "train", crop_s=2.0, seed=1)[0]["vertices"]
    heights, wanted = whole[:, 1, 1], crop[:, 1, 1]
    starts = [i for i in range(len(whole) - len(crop) + 1)
              if np.allclose(heights[i : i + len(crop)], wanted, atol=1e-7)]  # fmt: skip
    assert len(starts) == 1 and len(crop) == mesh_frames(32_000, 30)


@pytest.mark.parametrize("source", [25, 30, 50, 60, 120])
def test_frames_of_whole_multiples_keep_their_bits(source: int) -> None:
    captured = np.random.default_rng(1).normal(size=(61, V, 3)).astype(np.float32)
    fps = network_fps(Fraction(source))
    step = source // fps
    resampled = resample_in_time(captured, Fraction(source), fps)
    np.testing.assert_array_equal(resampled, captured[::step])
    assert resampled_frames(61, Fraction(source), fps) == -(-61 // step)
    part = resample_in_time(captured, Fraction(source), fps, 3, 9)
    np.testing.assert_array_equal(part, captured[::step][3:9])


@pytest.mark.parametrize("source", [*RATES, Fraction(12), Fraction(1000)], ids=rate_text)
def test_steady_motion_is_exact_up_to_the_ends_of_clips_of_any_length(source: Fraction) -> None:
    for n in range(1, 25):
        captured = np.arange(n)[:, None, None] / float(source) * np.ones((1, 2, 3))
        resampled = resample_in_time(captured, source, 30)
        assert len(resampled) == resampled_frames(n, source, 30)
        expected = np.arange(len(resampled)) / 30
        np.testing.assert_allclose(resampled[:, 0, 0], expected, atol=1e-5)
    assert resampled_frames(0, source, 30) == 0


def test_what_is_above_half_the_lower_rate_is_removed() -> None:
    """22 Hz at 59.94 fps would be aliased to 8 Hz by taking every second frame."""
    captured = sine(np.arange(600) / float(NTSC_2), hz=22.0)
    resampled = resample_in_time(captured, NTSC_2, 30)[20:-20, 1, 1]
    assert np.abs(resampled - TEMPLATE[1, 1]).max() < 0.005 * AMPLITUDE
    every_second = captured[::2][20:-20, 1, 1]
    assert np.abs(every_second - TEMPLATE[1, 1]).max() > 0.9 * AMPLITUDE


def test_a_prediction_returns_to_the_rate_of_the_capture() -> None:
    predicted = sine(np.arange(300) / 30)
    back = resample_in_time(predicted, Fraction(30), NTSC)
    assert len(back) == 299 * 1000 // 1001 + 1
    expected = sine(np.arange(len(back)) / float(NTSC))
    np.testing.assert_allclose(back, expected, atol=0.01 * AMPLITUDE)


@pytest.mark.parametrize(
    ("text", "rate"),
    [(30, 30), (29.97, NTSC), ("29.97", NTSC), ("30000/1001", NTSC), (23.98, FILM), (23.976, FILM),
     (59.94, NTSC_2), (12.5, Fraction(25, 2)), ("25/1", 25), (119.88, Fraction(120_000, 1001))],
)  # fmt: skip
def test_rates_are_read_exactly(text: object, rate: Fraction) -> None:
    assert parse_rate(text, "x") == rate
    assert Fraction(stored_rate(parse_rate(text, "x"))) == rate


@pytest.mark.parametrize("text", [0, -30, 2000, "30/0", "1e9", "1e999999999", True, float("nan"),
                                  "abc", "", [30], "9" * 5000, "1/3"])  # fmt: skip
def test_what_is_no_rate_is_refused(text: object) -> None:
    with pytest.raises(UserError, match="^here: expected frames a second from 1 to 1000"):
        parse_rate(text, "here")


@pytest.mark.parametrize("rate", [24, 25, 30, 48, 60])
def test_whole_rates_stay_where_29_97_would_fit_as_well(rate: int, tmp_path: Path) -> None:
    """Sound that is cut to tenths of a second fits 30 and 29.97; both are within a frame."""
    lengths = tuple(rate * s + s for s in range(2, 9))

    def tenths(samples: Fraction) -> int:
        return int(samples / 1600) * 1600

    folder = capture(tmp_path / "mine", Fraction(rate), lengths, tenths)
    settings(folder, source_fps=rate, max_drift_s=0.1)
    assert read_folder(folder)[0].dataset.source_fps == rate
    short = capture(tmp_path / "short", Fraction(rate), (rate, rate + 1, rate + 2))
    assert read_folder(short)[0].dataset.source_fps == rate


def test_lengths_that_fit_two_rates_are_said_to(tmp_path: Path) -> None:
    """Sound in blocks of 20 ms: clips of 2 to 5 s are within a frame of 30 and of 29.97."""

    def blocks(samples: Fraction) -> int:
        return int(samples / 320) * 320

    recipe, facts = read_folder(
        capture(tmp_path / "mine", Fraction(30), (62, 95, 130, 151), blocks)
    )
    assert recipe.dataset.source_fps == 30
    assert "(by the clips' lengths; 29.97 fits as well, at most 0.0" in facts["frames"]
    exact = capture(tmp_path / "exact", Fraction(30), (62, 95, 130, 151))
    assert "fits as well" not in read_folder(exact)[1]["frames"]


def test_a_rate_that_is_not_standard_is_taken_from_dataset_json(tmp_path: Path) -> None:
    folder = capture(tmp_path / "mine", Fraction(35), (140, 141, 160))
    with pytest.raises(UserError, match=r'mine: 35.0 frames .* set "source_fps"'):
        read_folder(folder)
    settings(folder, source_fps=35)
    spec = read_folder(folder)[0].dataset
    assert (spec.source_fps, spec.fps) == (35, 30)
    settings(folder, source_fps=35, fps=24)
    assert read_folder(folder)[0].dataset.fps == 24


def test_a_rate_of_dataset_json_that_contradicts_the_clips_is_refused(tmp_path: Path) -> None:
    folder = capture(tmp_path / "mine", Fraction(28), (140, 280, 200))
    settings(folder, source_fps=30)
    with pytest.raises(UserError) as caught:
        read_folder(folder)
    assert "source_fps 30, but the clips have 28.0 frames per second of audio" in str(caught.value)
    assert "(c1: 280 frames, 10.00 s)" in str(caught.value)
    settings(folder, source_fps="28/1")
    assert read_folder(folder)[0].dataset.source_fps == 28
    long = capture(tmp_path / "long", NTSC, (1200, 1201, 1202))  # 40 s: 1.2 frames of drift
    settings(long, source_fps=30)
    with pytest.raises(UserError, match="source_fps 30, but the clips have 29.970 frames"):
        read_folder(long)


def test_drift_of_more_than_a_frame_names_the_clip_with_its_numbers(tmp_path: Path) -> None:
    folder = capture(tmp_path / "mine", Fraction(30), (90, 100, 110, 120))
    soundfile.write(folder / "wav/c2.wav", np.full(110 * 1600 // 3 + 480, 0.1), 16_000)  # + 0.03 s
    assert read_folder(folder)[0].dataset.source_fps == 30
    soundfile.write(folder / "wav/c2.wav", np.full(110 * 1600 // 3 + 640, 0.1), 16_000)  # + 0.04 s
    with pytest.raises(UserError) as caught:
        read_folder(folder)
    message = str(caught.value)
    assert "vertices_npy/c2.npy: 29.7 frames per second of its audio, expected 30: " in message
    assert "110 frames last 3.667 s, wav/c2.wav lasts 3.707 s; 0.040 s apart" in message
    assert "expected at most 0.033 s; cut both" in message
    settings(folder, source_fps=30, max_drift_s=0.05)
    assert "at most 0.040 s of drift" in read_folder(folder)[1]["frames"]


def test_a_drift_that_is_allowed_hides_no_wrong_rate(tmp_path: Path) -> None:
    folder = capture(tmp_path / "mine", Fraction(28), (140, 280, 200))
    settings(folder, source_fps=30, max_drift_s=1.0)
    with pytest.raises(UserError, match="source_fps 30, but the clips have 28.0"):
        read_folder(folder)


def test_a_recorded_rate_that_contradicts_the_clips_is_refused(tmp_path: Path) -> None:
    """A checkpoint's own data set, and --set dataset.source_fps."""
    folder = capture(tmp_path / "mine", Fraction(28), (140, 280, 200))
    spec = read_folder(folder)[0].dataset
    assert locate(spec) == (spec, [])
    with pytest.raises(
        UserError, match=r"c1.npy: 28.0 frames .*, expected 30: .* \(3 clips differ"
    ):
        locate(dataclasses.replace(spec, source_fps=30))
    settings(folder, source_fps=28, max_drift_s=0.7)
    located, _ = locate(dataclasses.replace(read_folder(folder)[0].dataset, source_fps=30))
    assert located.source_fps == 30


def test_the_network_runs_at_a_rate_near_the_capture_and_at_most_30() -> None:
    cases = {24: 24, 25: 25, 28: 28, 30: 30, 48: 24, 50: 25, 60: 30, 100: 25, 120: 30, 35: 30,
             NTSC: 30, NTSC_2: 30, FILM: 24, Fraction(48_000, 1001): 24}  # fmt: skip
    assert {rate: network_fps(Fraction(rate)) for rate in cases} == cases
    assert RECIPES["vocaset"].dataset.source_fps == 60  # every second frame, as the field does
