"""What tests share: an utterance and a speech pool of one clip, without any engine."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from config import SAMPLE_RATE
from synthetic.phones import Segment
from synthetic.voices import Utterance, missing_engines


def utterance(duration_s: float = 0.5, text: str = "ma") -> Utterance:
    """A tone with the phones of "ma", as if spoken by an engine."""
    n_samples = round(duration_s * SAMPLE_RATE)
    audio = 0.1 * np.sin(np.arange(n_samples) / 20).astype(np.float32)
    segments = [Segment("sil", 0, 0.1), Segment("m", 0.1, 0.2), Segment("aa", 0.2, duration_s)]
    return Utterance(audio, segments, text, "fake", "{}")


def needs_engine(name: str) -> None:
    """Skip the test where this speech engine cannot run."""
    reason = missing_engines().get(name)
    if reason:
        pytest.skip(f"{name}: {reason}")


def write_pool(folder: Path) -> Path:
    """A speech pool of one clip in `folder`: 4 s of a tone with three phones; returns `folder`."""
    folder.mkdir(exist_ok=True)
    tone = np.sin(np.arange(64_000) * 0.1).astype(np.float32) * 0.5
    soundfile.write(folder / "a.flac", tone, SAMPLE_RATE, subtype="PCM_16")
    clip = {
        "name": "a", "engine": "e", "speaker": "s", "text": "ah",
        "segments": [["sil", 0.0, 1.0], ["aa", 1.0, 3.0], ["m", 3.0, 4.0]],
    }  # fmt: skip
    (folder / "index.jsonl").write_text(json.dumps(clip) + "\n")
    return folder
