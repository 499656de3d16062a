"""How late the frames of a live stream are, in percentiles; how long its steps take."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

KEPT = 20_000  # last frames that count: 11 minutes at 30 fps
TRIED = 5  # runs of `least_time`


class Percentiles(NamedTuple):
    """Milliseconds from an instant of the sound to its frame; NaN before the first frame."""

    p50_ms: float
    p95_ms: float
    worst_ms: float


class Latencies:
    """A sound that arrives in time, and the frames made from it."""

    def __init__(self) -> None:
        self.delays = np.full(KEPT, np.nan, np.float32)  # s; a ring
        self.n_frames = 0
        self.begin: float | None = None  # clock time of the sound's first sample

    def arrived(self, now: float, sound_s: float) -> None:
        """All sound up to `sound_s` has arrived, at clock time `now` in seconds.

        A sample cannot arrive before it sounds, so the earliest of these times says when the sound
        began. What comes later than that waited somewhere.
        """
        begin = now - sound_s
        self.begin = begin if self.begin is None else min(self.begin, begin)

    def returned(self, now: float, instant_s: float) -> None:
        """The frame of an instant of the sound is returned at clock time `now`."""
        if self.begin is not None:
            self.delays[self.n_frames % KEPT] = now - self.begin - instant_s
            self.n_frames += 1

    def last(self, n: int) -> NDArray[np.float32]:
        """Delays (n,) in seconds of the last n frames, in any order."""
        n = min(n, self.n_frames, KEPT)
        return self.delays[np.arange(self.n_frames - n, self.n_frames) % KEPT]

    def percentiles(self) -> Percentiles:
        """Of the last `KEPT` frames."""
        delays = 1000.0 * self.delays[: min(self.n_frames, KEPT)]
        if not len(delays):
            return Percentiles(*[float("nan")] * 3)
        return Percentiles(*(float(np.percentile(delays, q)) for q in (50, 95, 100)))


def least_time(work: Callable[[], object]) -> float:
    """Processor seconds of this thread that the fastest of a few calls takes."""

    def timed() -> float:
        begin = time.thread_time()
        work()
        return time.thread_time() - begin

    return min(timed() for _ in range(TRIED))
