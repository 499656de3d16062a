"""TensorBoard reads what a run writes, and a full disk is an `OSError` of the call."""

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.toy import full_disk
from training.event_file import EventFile


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_scalars_and_pictures_are_read_back(tmp_path: Path) -> None:
    events = EventFile(tmp_path, first_step=1)
    for step in (1, 2):
        events.add_scalars({"loss": 0.5 / step, "steps": 7 * step}, step)
    events.add_picture("preview", np.full((4, 6, 3), 9, np.uint8), 2)
    found = read(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [e.value for e in found.Scalars("steps")] == [7, 14]
    (picture,) = found.Images("preview")
    assert (picture.step, picture.width, picture.height) == (2, 6, 4)


def test_steps_after_the_resumed_state_are_hidden(tmp_path: Path) -> None:
    events = EventFile(tmp_path, first_step=1)
    for step in (1, 2, 3):
        events.add_scalars({"loss": float(step)}, step)
    EventFile(tmp_path, first_step=3).add_scalars({"loss": 9.0}, 3)
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("loss")] == [(1, 1), (2, 2), (3, 9)]


def test_a_full_disk_leaves_the_records_before(tmp_path: Path) -> None:
    events = EventFile(tmp_path, first_step=1)
    events.add_scalars({"loss": 0.5}, 1)
    with full_disk(events.path.stat().st_size + 10), pytest.raises(OSError):
        events.add_scalars({"loss": 0.25}, 2)
    assert [e.value for e in read(tmp_path).Scalars("loss")] == [0.5]
