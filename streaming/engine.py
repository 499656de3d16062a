"""Speech in blocks of any size to frames of a face: `Stream`.

    stream = Stream(load_checkpoint(), sample_rate=48_000)
    for block in microphone:
        for frame in stream.push(block):
            show(frame.values, frame.time_s)

A frame is computed when the sound up to `look_ahead_s` after its instant has arrived, in steps of
`STEP_FRAMES` frames. It depends on this sound alone: the same sound in other blocks gives equal
frames to the bit. The speech encoder hears a window of the last seconds. The decoder's Mamba
layers keep their state, and its attention reaches `ATTENTION_S` back.
"""

import time
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError
from config import SAMPLE_RATE
from dataset.faces import choose_face
from jambatalk import Checkpoint, JambaTalk
from speech.recording import as_samples
from speech.timing import covering_frames
from streaming.curves import LiveCurves
from streaming.decoder import DecoderState, LiveDecoder
from streaming.latency import Latencies, Percentiles
from streaming.listener import Listener
from streaming.resampler import BlockResampler

STEP_FRAMES = 2  # frames that are computed together
LOOK_AHEAD_S, CONTEXT_S = 0.25, 1.0
REST_STEPS = 5  # of silence that the decoder gets before a recording, so that it begins at rest
ATTENTION_S = 2.0  # how far back the decoder's attention reaches
MAX_LOOK_AHEAD_S, CONTEXTS_S = 2.0, (0.5, 10.0)  # of context, the least and the most
OUTPUTS = ("vertices", "coefficients", "curves")


class Frame(NamedTuple):
    """A frame of the face. index: from 0; time_s: its instant in the sound.

    values: float32, vertices (V, 3) in the data set's unit, coefficients (rank,) of the vertex
    head, or curves (52,) of ARKit's units, in the order of `export.live_link.ARKIT_UNITS`.
    curves: (52,) where the stream was asked for them beside another output, else None.
    """

    index: int
    time_s: float
    values: NDArray[np.float32]
    curves: NDArray[np.float32] | None = None


class Stream:
    """A recording that goes on, and the face that speaks it.

    checkpoint: of `jambatalk.load_checkpoint`, of a model of our own; subject: whose face, by
    default the data set's first; sample_rate: Hz of the blocks; look_ahead_s: sound after its
    instant that a frame waits for, 0 to 2; context_s: sound before it that the encoder hears, 0.5
    to 10; output: of `OUTPUTS`. Raises `UserError` for a model that cannot be used live and for an
    unknown subject, `ValueError` for numbers out of range.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        subject: str | None = None,
        sample_rate: int = SAMPLE_RATE,
        look_ahead_s: float = LOOK_AHEAD_S,
        context_s: float = CONTEXT_S,
        output: str = "vertices",
        with_curves: bool = False,
    ) -> None:
        model = checkpoint.model
        if not isinstance(model, JambaTalk):
            raise UserError("live: published weights attend to the whole clip; use another model")
        if not all(hasattr(layer, "step") for layer in model.layers):
            raise UserError(
                f"live: {model.config.model} has no steps of a few frames; use jambatalk"
            )
        if not 0 <= look_ahead_s <= MAX_LOOK_AHEAD_S:
            raise ValueError(f"look_ahead_s {look_ahead_s}: expected 0 to {MAX_LOOK_AHEAD_S:g}")
        if not CONTEXTS_S[0] <= context_s <= CONTEXTS_S[1]:
            raise ValueError(f"context_s {context_s}: expected {CONTEXTS_S[0]} to {CONTEXTS_S[1]}")
        if output not in OUTPUTS:
            raise ValueError(f"output {output!r}: expected one of {', '.join(OUTPUTS)}")
        if output == "coefficients" and model.head.coefficients is None:
            raise UserError("live: the model's vertex head has no components; use output vertices")
        self.model, self.output, self.fps = model, output, model.config.fps
        self.subject, template = choose_face(checkpoint.spec, subject, None)
        self.template = torch.from_numpy(template)
        needs_curves = with_curves or output == "curves"
        units = model.config.units_per_metre
        self.curves = (
            LiveCurves(checkpoint.spec, template, model.head, units) if needs_curves else None
        )
        self.resampler = BlockResampler(sample_rate)
        self.look_ahead = round(look_ahead_s * SAMPLE_RATE)
        self.ahead_frames = int(look_ahead_s * self.fps)
        self.listener = Listener(model.encoder, self.look_ahead, round(context_s * SAMPLE_RATE))
        self.decoder = LiveDecoder(model, round(ATTENTION_S * self.fps))
        self.at_rest = self._state_at_rest()
        self.reset()

    def reset(self) -> None:
        """Begin a new recording."""
        self.resampler.reset()
        self.listener.reset()
        self.state, self.next_frame = self.at_rest, 0
        self.latencies, self.n_pushed = Latencies(), 0

    def push(self, block: NDArray) -> list[Frame]:
        """The frames that became due; block: (n,) int16, or floating with full scale 1, any n.

        Raises `ValueError` for other blocks, for NaN and for samples beyond full scale by far; the
        stream goes on without that block.
        """
        samples = as_samples(block)
        if samples.ndim != 1:
            raise ValueError(f"block: expected one channel (n,), got {samples.shape}")
        self.n_pushed += len(samples)
        self.latencies.arrived(time.monotonic(), self.n_pushed / self.resampler.rate)
        self.listener.hear(self.resampler.push(samples))
        frames = []
        while self._end(self.next_frame + STEP_FRAMES) <= self.listener.end:
            frames += self._step(STEP_FRAMES)
        return frames

    def flush(self) -> list[Frame]:
        """The frames up to the end of the sound, as if silence followed; then the stream ends.

        Call `reset` before the next `push`.
        """
        self.listener.hear(self.resampler.flush())
        n_frames = covering_frames(self.listener.end, self.fps) if self.listener.end else 0
        frames = []
        while (left := n_frames - self.next_frame) > 0:
            n = min(STEP_FRAMES, left)
            missing = self._end(self.next_frame + n) - self.listener.end
            self.listener.hear(np.zeros(max(missing, 0), np.float32))
            frames += self._step(n)
        return frames

    def latency(self) -> Percentiles:
        """From the instant of a frame in the sound to its return by `push`, in milliseconds.

        Meaningful where blocks are pushed as they are recorded.
        """
        return self.latencies.percentiles()

    def _end(self, stop: int) -> int:
        """Samples that the frames before `stop` need."""
        return (stop - 1) * SAMPLE_RATE // self.fps + self.look_ahead + 1

    def _state_at_rest(self) -> DecoderState:
        """The decoder's state after `REST_STEPS` steps of silence."""
        n = REST_STEPS * STEP_FRAMES
        silence = self.listener.silence.expand(1, n + self.ahead_frames, -1)
        return self.decoder.step(silence, self.decoder.start(), n)[1]

    @torch.inference_mode()
    def _step(self, n: int) -> list[Frame]:
        start, stop = self.next_frame, self.next_frame + n
        features = self.listener.features(start, stop + self.ahead_frames, self._end(stop))
        hidden, self.state = self.decoder.step(features, self.state, n)
        values, curves = self._values(hidden)
        self.next_frame, now = stop, time.monotonic()
        for index in range(start, stop):
            self.latencies.returned(now, index / self.fps)
        return [
            Frame(i, i / self.fps, values[i - start], None if curves is None else curves[i - start])
            for i in range(start, stop)
        ]

    def _values(self, hidden: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Output (n, ...) and curves (n, 52) or None, of the head's input (1, n, D)."""
        head = self.model.head
        curves = None if self.curves is None else self.curves(head.motion(hidden)[0].numpy())
        if self.output == "curves":
            return curves, None
        if self.output == "coefficients":
            return head.low_rank(hidden)[0].numpy(), curves
        return (self.template + self.model.offsets(hidden)[0]).numpy(), curves
