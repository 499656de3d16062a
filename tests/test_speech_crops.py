"""Crops of the pool keep audio and curves in sync, and are in several batches."""

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks import speech_crops
from benchmarks.speech_crops import CropBatches, draw_crop
from synthetic.coarticulation import CHANNEL_INDEX
from synthetic.phones import PHONE_INDEX
from synthetic.pretrain_encoder import Plan
from synthetic.speech import SpeechPool

RATE = 16_000


@pytest.fixture
def pool(tmp_path: Path) -> SpeechPool:
    """One clip: 0.5 s of silence, 1 s of a tone as "aa", 0.5 s of silence."""
    time = np.arange(2 * RATE) / RATE
    tone = np.where((time >= 0.5) & (time < 1.5), 0.5 * np.sin(2 * np.pi * 300 * time), 0)
    soundfile.write(tmp_path / "a.flac", tone.astype(np.float32), RATE, subtype="PCM_16")
    segments = [["sil", 0.0, 0.5], ["aa", 0.5, 1.5], ["sil", 1.5, 2.0]]
    row = {"name": "a", "engine": "e", "speaker": "s", "text": "ah", "segments": segments}
    (tmp_path / "index.jsonl").write_text(json.dumps(row) + "\n")
    return SpeechPool(tmp_path)


def test_a_crop_has_the_phones_of_its_audio(pool: SpeechPool) -> None:
    for seed in range(20):
        crop = draw_crop(pool, np.random.default_rng(seed), 1.0, 30, clean=True)
        assert crop.audio.shape == (RATE,) and crop.phones.shape == (49,)
        assert crop.curves.shape[0] == 29
        loud = np.abs(crop.audio.reshape(50, 320)).max(1)[:49] > 0.1
        spoken = crop.phones == PHONE_INDEX["aa"]
        assert np.mean(loud == spoken) > 0.93  # a frame at each edge
        if 20 < spoken.sum() < 40:
            jaw = crop.curves[:, CHANNEL_INDEX["jawOpen"]]
            open_frames = spoken[np.arange(29) * 50 // 30]
            assert jaw[open_frames].mean() > 3 * jaw[~open_frames].mean()


def test_speed_scales_audio_and_phones_alike(pool: SpeechPool) -> None:
    for seed in range(20):
        crop = draw_crop(pool, np.random.default_rng(seed), 2.5, 30)
        if crop.name == "silence":
            assert not crop.phones.any()
            continue
        energy = np.square(crop.audio[: 124 * 320].reshape(124, 320)).mean(1)
        spoken = crop.phones[:124] == PHONE_INDEX["aa"]
        assert energy[spoken].mean() > 1.5 * energy[~spoken].mean()


def drawn(
    monkeypatch: pytest.MonkeyPatch, uses: int, n_batches: int, batch_size: int
) -> tuple[list[int], int]:
    """The numbers of the crops in some batches, and how many crops were made for them."""
    numbers = count(1)
    monkeypatch.setattr(speech_crops, "draw_crop", lambda *_: next(numbers))
    plan = Plan(1, batch_size=batch_size)
    batches = iter(CropBatches(None, lambda number: (torch.tensor(number),), plan, uses))
    return [n for _ in range(n_batches) for n in next(batches)[0].tolist()], next(numbers) - 1


def test_a_crop_is_in_as_many_batches_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 60 batches of 8 are 480 places; with one use, no crop is in two batches."""
    assert drawn(monkeypatch, 6, 60, 8)[1] == 80
    numbers, n_drawn = drawn(monkeypatch, 1, 5, 4)
    assert sorted(numbers) == list(range(1, 21)) and n_drawn == 20
