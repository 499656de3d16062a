"""Decoded audio cached on disk: the same bits, decoded once, never those of another file."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from common.errors import UserError
from config import DatasetSpec, Split
from data_loader import MeshSpeechDataset, collate
from dataset.batch_loader import PlannedLoader
from dataset.batch_plan import BucketedBatches
from files import cache as cache_module
from files import content_index
from speech import decoded_audio
from speech.audio import read_audio
from speech.decoded_audio import DecodedAudio, is_plain

V = 7


@pytest.fixture(autouse=True)
def allow_full_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "KEEP_FREE_BYTES", 0)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npy"))


def sound(path: Path, rate: int, seed: int = 0, channels: int = 1, **how: str) -> Path:
    """Half a second of noise in a file."""
    noise = np.random.default_rng(seed).normal(0, 0.1, (rate // 2, channels))
    soundfile.write(path, noise, rate, **how)
    return path


def test_audio_is_decoded_once_for_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    kinds = {22_000: "wav", 48_000: "wav", 16_000: "flac", 44_100: "mp3", 24_000: "ogg"}
    paths = [sound(tmp_path / f"x.{rate}.{kind}", rate) for rate, kind in kinds.items()]
    expected = [read_audio(path) for path in paths]
    first = [DecodedAudio(folder).read(path) for path in paths]
    monkeypatch.setattr(decoded_audio, "read_audio", None)  # not to be called
    again = [DecodedAudio(folder).read(path) for path in paths]
    for right, *cached in zip(expected, first, again, strict=True):
        for audio in cached:
            assert audio.dtype == np.float32 and audio.tobytes() == right.tobytes()
            audio += 1  # a copy of its own: the cache stays as it is
    assert DecodedAudio(folder).read(paths[0]).tobytes() == expected[0].tobytes()


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_plain_wav_is_not_cached(subtype: str, tmp_path: Path) -> None:
    path = sound(tmp_path / "x.wav", 16_000, subtype=subtype)
    assert is_plain(path)
    assert np.array_equal(DecodedAudio(tmp_path / "cache").read(path), read_audio(path))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("name", "rate", "how"),
    [
        ("x.wav", 22_050, {}),
        ("x.wav", 16_000, {"channels": 2}),
        ("x.wav", 16_000, {"subtype": "IMA_ADPCM"}),
        ("x.flac", 16_000, {}),
    ],
)
def test_files_that_must_be_decoded_are_not_plain(
    name: str, rate: int, how: dict, tmp_path: Path
) -> None:
    assert not is_plain(sound(tmp_path / name, rate, **how))


def test_damaged_files_raise_the_error_of_read_audio(tmp_path: Path) -> None:
    (tmp_path / "short.wav").write_bytes(b"RIFF")
    (tmp_path / "empty.wav").write_bytes(b"")
    for name in ("none.wav", "short.wav", "empty.wav"):
        messages = []
        for read in (read_audio, DecodedAudio(tmp_path / "cache").read):
            with pytest.raises(UserError, match=name) as caught:
                read(tmp_path / name)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
    assert not entries(tmp_path / "cache")


def test_a_file_that_changed_is_decoded_again(tmp_path: Path) -> None:
    """Same size and, set back, same time: as an archive may restore it."""
    audio = DecodedAudio(tmp_path / "cache")
    path = sound(tmp_path / "x.wav", 22_000, seed=1)
    stamp = os.stat(path).st_mtime_ns
    before = audio.read(path)
    sound(path, 22_000, seed=2)
    os.utime(path, ns=(stamp, stamp))
    after = audio.read(path)
    assert np.array_equal(after, read_audio(path)) and not np.array_equal(before, after)


def test_a_file_that_changes_while_it_is_read_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sound(tmp_path / "x.wav", 22_000, seed=1)

    def read(name: Path) -> np.ndarray:
        return read_audio(sound(name, 22_000, seed=2))

    monkeypatch.setattr(decoded_audio, "read_audio", read)
    with pytest.raises(UserError, match=r"x\.wav: changed while it was read"):
        DecodedAudio(tmp_path / "cache").read(path)
    assert not entries(tmp_path / "cache")


def test_other_code_or_packages_decode_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sound(tmp_path / "x.wav", 22_000)
    DecodedAudio(tmp_path / "cache").read(path)
    code = Path(decoded_audio.audio.__file__).read_text()
    (tmp_path / "other.py").write_text(f"{code}\nKAISER_BETA = 9.0\n")
    monkeypatch.setattr(decoded_audio.audio, "__file__", str(tmp_path / "other.py"))
    DecodedAudio(tmp_path / "cache").read(path)
    monkeypatch.setattr(decoded_audio, "version", lambda package: "99")
    DecodedAudio(tmp_path / "cache").read(path)
    assert len(entries(tmp_path / "cache")) == 3


def test_all_modules_that_decode_are_part_of_the_key() -> None:
    code = {module.__name__ for module in decoded_audio.CODE}
    values = [value for module in decoded_audio.CODE for value in vars(module).values()]
    used = {getattr(value, "__module__", None) or "" for value in values}
    assert {name for name in used if name.startswith("speech.")} <= code


@pytest.fixture
def spec(tmp_path: Path, rng: np.random.Generator) -> DatasetSpec:
    """One subject, 6 clips of 0.6 to 1.1 s at 22 kHz, as VOCASET's."""
    (tmp_path / "wav").mkdir()
    (tmp_path / "vertices_npy").mkdir()
    template = rng.normal(size=(V, 3))
    (tmp_path / "templates.pkl").write_bytes(pickle.dumps({"F1": template}))
    for number in range(1, 7):
        frames = 30 + 6 * number
        motion = np.arange(frames)[:, None, None] * 1e-3
        vertices = (template + motion).astype(np.float32)
        np.save(tmp_path / f"vertices_npy/F1_{number:02d}.npy", vertices.reshape(frames, -1))
        audio = rng.normal(0, 0.1, frames * 22_000 // 60)
        soundfile.write(tmp_path / f"wav/F1_{number:02d}.wav", audio, 22_000)
    return DatasetSpec(
        name="toy", root=str(tmp_path), fps=30, source_fps=60, n_vertices=V, metres_per_unit=1.0,
        templates=str(tmp_path / "templates.pkl"), topology="", lips_region="", upper_region="",
        splits={"train": Split(("F1",), tuple(range(1, 7)))},
    )  # fmt: skip


def louder(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    audio *= np.float32(rng.uniform(1, 2))
    audio += np.float32(0.1)
    return audio


@pytest.mark.parametrize("changes", [{}, {"crop_s": 0.5, "augment": louder}])
def test_batches_with_and_without_a_cache_are_the_same_bits(
    changes: dict, spec: DatasetSpec, tmp_path: Path
) -> None:
    """Two workers and two epochs, the second from the cache alone."""
    folder = tmp_path / "cache"

    def batches(cache: Path | None, workers: int) -> list[dict]:
        data = MeshSpeechDataset(spec, "train", seed=1, cache=cache, **changes)
        loader = PlannedLoader(data, BucketedBatches(data.lengths(), 2, 1), collate, workers)
        collected = []
        for epoch in (1, 2):
            loader.set_epoch(epoch)
            collected += list(loader)
        return collected

    without, within = batches(None, 0), batches(folder, 2)
    assert len(without) == len(within) == 6 and len(entries(folder)) == 6
    for one, other in zip(without, within, strict=True):
        assert one.keys() == other.keys() and one.get("keys") == other.get("keys")
        for name, value in one.items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert same(value, other[name]), name


def test_workers_hash_no_file_that_another_has_hashed(
    spec: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers start in every epoch with the state of the first process, which hashed nothing."""
    monkeypatch.setattr(content_index, "FRESH_NS", 0)
    early, late = (MeshSpeechDataset(spec, "train", cache=tmp_path / "cache") for _ in range(2))
    list(early)
    monkeypatch.setattr(content_index, "hash_file", None)  # not to be called
    assert len(list(late)) == 6
    lines = (tmp_path / "cache" / "contents.jsonl").read_text().splitlines()
    assert len(lines) == 6


def test_a_data_set_without_a_cache_writes_none(spec: DatasetSpec, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    list(MeshSpeechDataset(replace(spec, name="other"), "train"))
    assert sorted(tmp_path.rglob("*")) == before
