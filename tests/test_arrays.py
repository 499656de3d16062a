"""Arrays written piece by piece."""

from pathlib import Path

import numpy as np
import pytest

from files.arrays import stream_npy


def test_a_streamed_array_is_the_saved_one(tmp_path: Path, rng: np.random.Generator) -> None:
    array = rng.standard_normal((5, 7, 3))
    stream_npy(tmp_path / "streamed.npy", array.shape, iter([array[:2], array[2], array[3:]]))
    np.save(tmp_path / "saved.npy", array.astype(np.float32))
    assert (tmp_path / "streamed.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()


@pytest.mark.parametrize("n_frames", [4, 6])
def test_frames_that_do_not_fill_the_shape_are_refused(tmp_path: Path, n_frames: int) -> None:
    with pytest.raises(ValueError, match=f"expected 105 values, got {21 * n_frames}"):
        stream_npy(tmp_path / "a.npy", (5, 7, 3), [np.zeros((7, 3))] * n_frames)
