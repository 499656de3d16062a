"""Speech as it arrives, and its features in a window that moves with it.

The features of a step are computed anew from the last `context_s` of sound, so they depend on this
sound alone, not on the blocks in which it arrived.
"""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speech.level import BLOCK, REACH, between_blocks
from wav2vec import SpeechEncoder

FAST = 15  # blocks on each side over which a sudden rise of the level is noticed
ATTACK = 0.5  # share of the level of these blocks that the level is at least
FLOOR = 0.0015  # least level; full scale is 1. Room noise stays below, soft speech above
PRIOR, PRIOR_LEVEL = 0.15, 0.02  # weight and level of the blocks assumed before the first
SILENT = 2e-4  # amplitude of a block that counts as silence
SLOW, RECENT = np.hanning(2 * REACH + 3)[1:-1], np.ones(2 * FAST + 1)  # windows of the level


class Listener:
    """The last seconds of a recording that goes on, and features of its frames.

    encoder: of the model; look_ahead, context: samples at 16 kHz after and before an instant.
    """

    def __init__(self, encoder: SpeechEncoder, look_ahead: int, context: int) -> None:
        self.encoder = encoder
        self.step = encoder.kind.window_step(encoder.fps, encoder.k)
        self.window = encoder.kind.window_samples(context + look_ahead)
        self.kept_samples = self.window + self.step + (REACH + 1) * BLOCK
        with torch.inference_mode():
            self.silence = encoder.window(torch.zeros(1, self.window), 0, 0, 1)
        self.reset()

    def reset(self) -> None:
        """Forget all sound."""
        self.sound, self.first = np.zeros(0, np.float32), 0
        self.end = 0  # samples that have arrived
        self.arrived: list[NDArray[np.float32]] = []  # those behind `sound`

    def hear(self, samples: NDArray[np.float32]) -> None:
        """Append samples (n,) float32 at 16 kHz."""
        self.arrived.append(samples)
        self.end += len(samples)

    @torch.inference_mode()
    def features(self, start: int, stop: int, end: int) -> Tensor:
        """Features (1, stop - start, k·C) of mesh frames start to stop - 1.

        end: samples that may be used, as of `window_at`.
        """
        window, begin = self.window_at(end)
        if window is None:
            return self.silence.expand(1, stop - start, -1)
        return self.encoder.window(torch.from_numpy(window)[None], begin, start, stop)

    def window_at(self, end: int) -> tuple[NDArray[np.float32] | None, int]:
        """The sound (n,) before sample `end` at level 1, or None for silence; its first sample.

        `end` must not fall from call to call: what lies too long before it is forgotten. Before the
        first sample there is silence.
        """
        sound = np.concatenate([self.sound, *self.arrived])
        drop = max((end - self.kept_samples) // BLOCK * BLOCK - self.first, 0)
        self.sound, self.first, self.arrived = sound[drop:], self.first + drop, []
        sound = self.sound[: end - self.first]
        begin = (end - self.window) // self.step * self.step
        amplitude = self._amplitudes(sound)
        if not len(amplitude) or amplitude[-(self.window // BLOCK) :].max() < SILENT:
            return None, begin
        window = np.zeros(end - begin, np.float32)
        source = self._even(sound, amplitude, max(begin - self.first, 0))
        window[len(window) - len(source) :] = source
        return window, begin

    @staticmethod
    def _amplitudes(sound: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean absolute amplitude of each complete block of the sound."""
        blocks = sound[: len(sound) // BLOCK * BLOCK].reshape(-1, BLOCK)
        return np.abs(blocks - sound.mean()).mean(axis=1) if len(blocks) else np.zeros(0)

    def _even(self, sound: NDArray, amplitude: NDArray, start: int) -> NDArray[np.float32]:
        """The sound (n,) from `start` on, at a mean absolute amplitude of about 1.

        Its level is that of the past, of which `amplitude` is known.
        """
        level = running_level(amplitude)
        level = np.append(level, level[-1:])  # of the incomplete last block
        first = max(start // BLOCK - 1, 0)  # interpolation reaches one block back
        level = between_blocks(torch.from_numpy(level[first:]).float()[None])[0].flatten()
        return (sound[start:] - sound.mean()) / level.numpy()[start - first * BLOCK :][
            : len(sound) - start
        ]


def running_level(amplitude: NDArray) -> NDArray[np.float64]:
    """The level (n,) at each block of amplitudes (n,), of all blocks within 2 s that are there.

    As `speech.level`, a mean under a Hann window of 4 s, but over the blocks that have arrived. A
    sudden rise counts at once, a fall after 2 s. Before the first block, a level typical of speech
    is assumed, with little weight.
    """
    slow_weight, fast_weight = _weights(len(amplitude))
    before = np.full(REACH, PRIOR * PRIOR_LEVEL)
    mean = (_centred(np.append(before, amplitude), SLOW) / slow_weight)[REACH:]
    recent = _centred(amplitude, RECENT) / fast_weight
    return np.maximum(np.maximum(mean, ATTACK * recent), FLOOR)


@functools.lru_cache(maxsize=64)
def _weights(n: int) -> tuple[NDArray, NDArray]:
    """Sums of the windows of `running_level` over the prior and n blocks, and over n blocks."""
    there = np.ones(n)
    return _centred(np.append(np.full(REACH, PRIOR), there), SLOW), _centred(there, RECENT)


def _centred(values: NDArray, window: NDArray) -> NDArray:
    """The convolution of values (n,) with a window of odd length, at the n values."""
    return np.convolve(values, window)[len(window) // 2 :][: len(values)]
