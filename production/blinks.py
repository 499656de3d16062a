"""Blinks of the synthetic head, at random times."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from synthetic.head import channel_basis, load_head

BLINK_CLOSE_S, BLINK_HOLD_S, BLINK_OPEN_S = 0.08, 0.03, 0.16
BLINK_PAUSE_S = (2.0, 5.5)  # between the blinks of a relaxed person
BLINK_SEED = 1


def blink_curve(n_frames: int, fps: float) -> NDArray[np.float32]:
    """(n_frames,) lid closure, 0 open to 1 shut, of a relaxed person who blinks now and then."""
    generator = np.random.default_rng(BLINK_SEED)
    time = np.arange(n_frames) / fps
    closure = np.zeros(n_frames)
    start = generator.uniform(0.4, 2.0)
    while start < n_frames / fps:
        after = time - start
        closing = np.clip(after / BLINK_CLOSE_S, 0.0, 1.0)
        opening = np.clip((after - BLINK_CLOSE_S - BLINK_HOLD_S) / BLINK_OPEN_S, 0.0, 1.0)
        closure = np.maximum(closure, closing * (1.0 - opening * opening * (3.0 - 2.0 * opening)))
        start += generator.uniform(*BLINK_PAUSE_S)
    return closure.astype(np.float32)


def with_blinks(meshes: Iterator[NDArray], n_frames: int, fps: float) -> Iterator[NDArray]:
    """The meshes of the synthetic head, with blinks added."""
    shut = channel_basis(load_head(), ["eyeBlink"])[0]
    for mesh, closure in zip(meshes, blink_curve(n_frames, fps), strict=True):
        yield mesh + closure * shut
