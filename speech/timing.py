"""Frame counts of the speech encoder and of the mesh, as integers.

wav2vec 2.0's convolutions have a window of 400 samples and a hop of 320 at 16 kHz: 50 audio frames
a second, the first centred at 12.5 ms. w2v-BERT 2.0 gets the same grid from pairs of 10 ms frames.
S samples at 16 kHz, A audio frames, T mesh frames.
"""

from typing import TYPE_CHECKING, TypeVar

from config import SAMPLE_RATE

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 400  # samples that an audio frame covers
HOP = 320  # samples between two audio frames
AUDIO_FPS = SAMPLE_RATE // HOP  # 50 Hz
MIN_SAMPLES = WINDOW + HOP  # two audio frames: the shortest clip that has a mesh frame at 25 fps

Count = TypeVar("Count", int, "Tensor")


def frame_lengths(n_samples: Count) -> Count:
    """A = (S - 400) // 320 + 1 of an integer or an integer tensor; the remainder is dropped."""
    return (n_samples - WINDOW) // HOP + 1


def audio_frames(n_samples: int) -> int:
    """`frame_lengths` of one clip; raises `ValueError` where S < 400."""
    if n_samples < WINDOW:
        raise ValueError(f"{n_samples} samples, expected at least {WINDOW} (one window)")
    return frame_lengths(n_samples)


def mesh_frames(n_samples: int, fps: int) -> int:
    """T = A * fps // 50, the mesh frames that the network predicts for S samples."""
    return audio_frames(n_samples) * fps // AUDIO_FPS


def covering_frames(n_samples: int, fps: int) -> int:
    """The smallest number of mesh frames that cover S samples; the last may reach beyond them."""
    return -(-n_samples * fps // SAMPLE_RATE)


def samples_for(frames: int, fps: int) -> int:
    """The smallest S for which `mesh_frames(S, fps) >= frames`."""
    n_audio = -(-frames * AUDIO_FPS // fps)
    return WINDOW + HOP * (n_audio - 1)
