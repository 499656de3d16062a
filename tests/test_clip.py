"""A clip whose parts disagree is refused in one line that names the numbers."""

import mmap
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from export.clip import Clip
from export.frames import blocks

T, V = 3, 5
GOOD = {
    "vertices": np.zeros((T, V, 3), np.float32),
    "template": np.zeros((V, 3), np.float32),
    "faces": np.array([[0, 1, 4]], np.int32),
    "fps": Fraction(30),
    "metres_per_unit": 1.0,
    "name": "a",
}


def test_parts_that_agree_make_a_clip():
    assert Clip(**GOOD).vertices.shape == (T, V, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vertices": np.zeros((T, 7, 3), np.float32)}, "7 vertices, expected 5 as in its neutral"),
        ({"vertices": np.zeros((0, V, 3), np.float32)}, r"shape \(0, 5, 3\), expected \(frames"),
        ({"vertices": np.zeros((T, V * 3), np.float32)}, r"shape \(3, 15\), expected \(frames"),
        ({"faces": np.array([[0, 1, 5]])}, "a face has vertex 5, expected less than 5"),
        ({"colors": np.zeros((4, 3), np.float32)}, "4 colours, expected 5"),
    ],
)
def test_parts_that_disagree_are_refused(wrong, message):
    with pytest.raises(UserError, match=f"clip a: {message}"):
        Clip(**{**GOOD, **wrong})


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_reading_a_mapped_clip_block_by_block_holds_few_of_its_pages(tmp_path):
    shape = 1_500, 4_000, 3  # 72 MB
    np.memmap(tmp_path / "a", np.float32, "w+", shape=shape)
    vertices = np.memmap(tmp_path / "a", np.float32, "r", shape=shape)
    template = np.zeros(shape[1:], np.float32)
    clip = Clip(**{**GOOD, "vertices": vertices, "template": template})

    def mapped_bytes():
        return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE

    before = mapped_bytes()
    most = max(mapped_bytes() - before for _ in blocks(clip))
    assert most < 40e6
