"""Animations: frames and rates, arrays and files, results, and the page docs/python.md."""

import numpy as np
import pytest

from rendering.animation import count_frames, resample_motion


@pytest.mark.parametrize(
    ("samples", "fps", "frames"), [(16_000, 30, 30), (16_001, 30, 31), (1_600, 25, 3), (1, 60, 1)]
)
def test_frames_cover_the_sound(samples, fps, frames):
    assert count_frames(samples, fps) == frames


def test_other_rates_interpolate_linearly_and_hold_the_end():
    ramp = np.arange(4, dtype=np.float32).reshape(4, 1, 1)  # frame t is at t
    double = np.ravel(list(resample_motion(iter(ramp), 30, 60, 9)))
    np.testing.assert_allclose(double, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3, 3])
    slower = np.ravel(list(resample_motion(iter(ramp), 30, 20, 3)))
    np.testing.assert_allclose(slower, [0, 1.5, 3])
    np.testing.assert_array_equal(list(resample_motion(iter(ramp), 30, 30, 4)), ramp)
