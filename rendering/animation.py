"""A finished animation, and the frames that a recording needs."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from config import SAMPLE_RATE


def count_frames(n_samples: int, fps: int) -> int:
    """Frames that cover `n_samples` of audio at 16 kHz; the last one may be covered in part."""
    return -(-n_samples * fps // SAMPLE_RATE)


def resample_motion(
    predicted: Iterator[NDArray], model_fps: int, fps: int, n_frames: int
) -> Iterator[NDArray]:
    """Yield `n_frames` meshes (V, 3) at `fps` from `predicted` meshes (V, 3) at `model_fps`.

    Vertices are interpolated linearly between the predicted frames. After the last of them its
    pose is held. One mesh is read ahead, so memory does not grow with the clip.
    """
    current = next(predicted)
    following, index = next(predicted, current), 0
    for frame in range(n_frames):
        whole, rest = divmod(frame * model_fps, fps)
        while index < whole:
            current, following, index = following, next(predicted, following), index + 1
        yield current if rest == 0 else current + np.float32(rest / fps) * (following - current)
