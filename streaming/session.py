"""One live session: sound waits in a bounded queue, steps run in a pool, frames go out in order."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import SAMPLE_RATE
from speech.recording import as_samples
from streaming.engine import Frame, Stream

QUEUE_S = 2.0  # of sound that may wait; older sound is replaced by silence
BLOCK_S = 0.1  # of sound that is computed before its frames go out
REPORT_S = 1.0  # between two reports of a session
LATE_S = 0.1  # a frame is late when it comes this long after its look-ahead


@dataclass
class Counts:
    """Totals of a session or of a server."""

    frames: int = 0
    late: int = 0
    dropped_ms: float = 0.0  # of sound that came faster than it could be computed
    busy_s: float = 0.0  # of computing


class Queue:
    """Samples of one recording that wait, at most `limit` of them.

    Beyond that the oldest become silence, so that frames keep their instants.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.dropped = limit, 0
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self.blocks: list[NDArray] = []
        self.n_waiting = self.n_silent = 0

    def put(self, samples: NDArray) -> None:
        """Append samples (n,)."""
        self.blocks.append(samples)
        self.n_waiting += len(samples)
        while (excess := self.n_waiting - self.limit) > 0:
            oldest = self.blocks.pop(0)
            if len(oldest) > excess:
                self.blocks.insert(0, oldest[excess:].copy())  # frees the rest of the message
            n = min(excess, len(oldest))
            self.n_waiting -= n
            self.n_silent += n
            self.dropped += n

    def take(self, n: int) -> NDArray[np.float32]:
        """Up to n samples, float32, the oldest first."""
        if self.n_silent:
            n = min(n, self.n_silent)
            self.n_silent -= n
            return np.zeros(n, np.float32)
        taken, length = [], 0
        while self.blocks and length < n:
            block = self.blocks.pop(0)
            if length + len(block) > n:
                self.blocks.insert(0, block[n - length :])
                block = block[: n - length]
            taken.append(as_samples(block))
            length += len(block)
        self.n_waiting -= length
        return np.concatenate(taken) if taken else np.zeros(0, np.float32)


@dataclass
class Session:
    """Feeds one `Stream` and hands out what it returns.

    send_frames, report: coroutines that bring frames, and a message as a dict, to the client. A
    slow client slows down only its own session.
    """

    stream: Stream
    pool: Executor
    send_frames: Callable[[list[Frame]], Awaitable[None]]
    report: Callable[[dict[str, Any]], Awaitable[None]]
    total: Counts  # of the server
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.rate = self.stream.resampler.rate
        self.queue = Queue(round(QUEUE_S * self.rate))
        self.changed = asyncio.Event()
        self.obeyed = asyncio.Event()
        self.pending: str | None = None  # the command that waits
        self.late_s = self.stream.look_ahead / SAMPLE_RATE + LATE_S

    def hear(self, samples: NDArray) -> None:
        """Queue samples (n,), int16 or float32. Raises `ValueError` for NaN."""
        dropped = self.queue.dropped
        self.queue.put(as_samples(samples))
        self._count(dropped_ms=1000.0 * (self.queue.dropped - dropped) / self.rate)
        self.changed.set()

    async def command(self, name: str) -> None:
        """Return once a command is done: "end" flushes the recording's frames, "reset" forgets it.

        What a client sends after a command belongs to the next recording, so it is read afterwards.
        """
        if name == "reset":
            self.queue.reset()
        self.pending = name
        self.obeyed.clear()
        self.changed.set()
        await self.obeyed.wait()

    async def run(self) -> None:
        """Compute and send until cancelled."""
        reported = time.monotonic()
        while True:
            await self.changed.wait()
            block = self.queue.take(round(BLOCK_S * self.rate))
            if len(block):
                await self._compute(self.stream.push, block)
            elif self.pending is not None:
                await self._obey(self.pending)
                self.pending = None
                self.obeyed.set()
            else:
                self.changed.clear()
            if time.monotonic() - reported > REPORT_S:
                reported = time.monotonic()
                await self.report(self.state())

    def state(self) -> dict[str, Any]:
        """The report of a session."""
        latency = self.stream.latency()._asdict()
        waiting = self.queue.n_waiting + self.queue.n_silent
        return {
            "type": "stats",
            "frames": self.counts.frames,
            "late": self.counts.late,
            "queued_ms": round(1000.0 * waiting / self.rate, 1),
            "dropped_ms": round(self.counts.dropped_ms, 1),
            **{name: round(value, 1) for name, value in latency.items() if not np.isnan(value)},
        }

    async def _obey(self, name: str) -> None:
        if name == "end":
            await self._compute(self.stream.flush)
            await self.report({"type": "ended", "frames": self.stream.next_frame})
        self.stream.reset()

    async def _compute(self, function: Callable, *args: Any) -> None:
        """Run a call of the stream in the pool and send its frames."""

        def timed() -> tuple[list[Frame], float]:
            begin = time.thread_time()
            return function(*args), time.thread_time() - begin

        frames, busy = await asyncio.get_running_loop().run_in_executor(self.pool, timed)
        late = int((self.stream.latencies.last(len(frames)) > self.late_s).sum())
        self._count(frames=len(frames), late=late, busy_s=busy)
        if frames:
            await self.send_frames(frames)

    def _count(self, **more: float) -> None:
        for counts in (self.counts, self.total):
            for name, value in more.items():
                setattr(counts, name, getattr(counts, name) + value)
