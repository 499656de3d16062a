"""The speech pool on disk: clips, index, growth."""

import numpy as np
import pytest

from common.errors import UserError
from synthetic import speech_pool
from tests.spoken import utterance


def test_pool_clip_is_read_back_as_written(tmp_path):
    clip = speech_pool.append_clip(tmp_path, "a", utterance())
    assert clip == speech_pool.read_index(tmp_path)["a"]
    audio, segments = speech_pool.read_clip(tmp_path, clip)
    np.testing.assert_allclose(audio, utterance().audio, atol=2**-15)
    assert segments == utterance().segments and clip["duration_s"] == 0.5


def test_incomplete_index_line_is_ignored_and_replaced(tmp_path):
    for name in "ab":
        speech_pool.append_clip(tmp_path, name, utterance())
    index = tmp_path / speech_pool.INDEX_NAME
    index.write_text(index.read_text()[:-9])  # as after a kill during the write
    assert list(speech_pool.read_index(tmp_path)) == ["a"]
    speech_pool.append_clip(tmp_path, "b", utterance(text="again"))
    assert speech_pool.read_index(tmp_path)["b"]["text"] == "again"


def test_invalid_index_line_is_reported_by_number(tmp_path):
    (tmp_path / speech_pool.INDEX_NAME).write_text('{"name": "a"}\n{"nom": 1}\n')
    with pytest.raises(UserError, match="line 2"):
        speech_pool.read_index(tmp_path)


def test_pool_grows_to_its_minutes_and_continues(tmp_path, monkeypatch):
    numbers = []

    def fake(engine, seed, number):
        numbers.append(number)
        return utterance(1.0)

    monkeypatch.setattr(speech_pool, "speak_pool_clip", fake)
    monkeypatch.setattr(speech_pool, "require_engine", lambda name: None)
    assert speech_pool.grow_pool(tmp_path, "fake", 2.5 / 60, 1, 1) == pytest.approx(3 / 60)
    assert speech_pool.grow_pool(tmp_path, "fake", 4.5 / 60, 1, 1) == pytest.approx(5 / 60)
    assert numbers == [0, 1, 2, 3, 4]
    assert len(speech_pool.read_index(tmp_path)) == 5
