"""The live step as an ONNX graph, for programs without Python: sound and states in, frames out.

One graph holds encoder, decoder and vertex head. The caller keeps the states and the window of
sound; docs/streaming.md says how. The graph is checked against torch when it is written.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.whole_file import whole_file
from jambatalk import Checkpoint
from layers.mamba import MambaState
from layers.transformer import TransformerLayer
from speech.features import fold
from speech.moonshine import LEVEL, Moonshine, encoder_states, mesh_instants, read_at
from streaming.decoder import JOIN, joined
from streaming.engine import ATTENTION_S, CONTEXT_S, REST_STEPS, STEP_FRAMES, Stream

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPSET = 23  # the first with RMSNormalization
TOLERANCE = 1e-4  # of the largest coefficient
TRIED_PASTS = (0, 1, 7, 60)  # frames of the past of attention, at which the graph is checked


class LiveStep(nn.Module):
    """A step of `streaming.engine` with its states as inputs and outputs.

    forward(window, instants, *states) returns coefficients (1, STEP_FRAMES, rank) of the vertex
    head, or offsets (1, STEP_FRAMES, V, 3) in metres of a head without components, and the states.

    window: (1, W) float32, sound with a mean absolute amplitude of 1; instants: (frames · k,)
    float64, of the encoder frames in samples from the window's start. states: for each Mamba layer
    its last inputs and its scan, for an attention layer its past frames; with a look-ahead, what
    the step before expected of this step's frames (`first_states`).
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.model = stream.model
        self.reach = round(ATTENTION_S * stream.fps)
        self.n_expected = min(stream.ahead_frames, len(JOIN))

    def forward(self, window: Tensor, instants: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """As the class says."""
        model = self.model
        heard = read_at(encoder_states(model.encoder.body, window * LEVEL), instants)
        x = model.project(fold(model.encoder.transform(heard), model.encoder.k))
        given, after = iter(states), []
        for layer in model.layers:
            if isinstance(layer, TransformerLayer):
                x, past = layer.step(x, next(given), STEP_FRAMES, self.reach)
                after.append(past)
            else:
                x, state = layer.step(x, MambaState(next(given), next(given)), STEP_FRAMES)
                after += state
        hidden, head = model.norm(x[:, : STEP_FRAMES + self.n_expected]), model.head
        if self.n_expected:
            after.append(hidden[:, STEP_FRAMES:])
            hidden = joined(hidden[:, :STEP_FRAMES], next(given))
        result = head(hidden) if head.coefficients is None else head.low_rank(hidden)
        return result, *after

    def first_states(self, past: int = 0) -> Iterator[tuple[str, Tensor]]:
        """(name, zeros) of all states; past: frames that attention has, 0 before the first step."""
        for index, layer in enumerate(self.model.layers):
            if isinstance(layer, TransformerLayer):
                yield f"past_{index}", torch.zeros(1, past, self.model.config.d_model)
            else:
                mamba = layer.mamba
                yield f"inputs_{index}", torch.zeros(1, mamba.d_conv - 1, mamba.d_inner)
                yield f"scan_{index}", torch.zeros(1, mamba.d_inner, mamba.d_state)
        if self.n_expected:
            yield "expected", torch.zeros(1, self.n_expected, self.model.config.d_model)


def write_live_step(checkpoint: Checkpoint, folder: Path, look_ahead_s: float) -> list[Path]:
    """Write `live_step.onnx` and `live_step.json`, which describes it; returns their paths.

    look_ahead_s: as of `Stream`. Raises `UserError` where onnx, onnxscript or onnxruntime are
    missing, for an encoder other than Moonshine, and where onnxruntime's results differ from
    torch's.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"export onnx: package {error.name} is missing; pip install onnx onnxscript onnxruntime"
        ) from error
    stream = Stream(checkpoint, look_ahead_s=look_ahead_s)
    if not isinstance(stream.model.encoder.kind, Moonshine):
        raise UserError("export onnx: expected a model on a Moonshine encoder, such as the bundled")
    step = LiveStep(stream).eval()
    inputs = example(stream, step, past=7)
    path = folder / "live_step.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        export(step, inputs, partial)
        session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        error = max(difference(session, step, example(stream, step, n)) for n in TRIED_PASTS)
        if not error <= TOLERANCE:
            raise UserError(
                f"export onnx: results differ from torch's by {error:.2g} of the largest"
            )
    description = folder / "live_step.json"
    with whole_file(description) as partial:
        Path(partial).write_text(json.dumps(describe(stream, inputs, error), indent=1) + "\n")
    return [path, description]


def example(stream: Stream, step: LiveStep, past: int) -> dict[str, Tensor]:
    """Inputs by name: noise, instants of the first frames and random states."""
    generator = torch.Generator().manual_seed(past)
    window = stream.listener.window
    k, n = stream.model.encoder.k, STEP_FRAMES + stream.ahead_frames
    start = window - round(n * 16_000 / stream.fps)
    inputs = {
        "window": torch.randn(1, window, generator=generator),
        "instants": mesh_instants(0, n * k, stream.fps, k) + start,
    }
    for name, zeros in step.first_states(past):
        inputs[name] = torch.randn(zeros.shape, generator=generator)
    return inputs


def export(step: LiveStep, inputs: dict[str, Tensor], path: str | Path) -> None:
    """Write the graph of a step; its pasts may have any number of frames up to the reach.

    torch.export wants at least 1 for a size that varies; the graph takes 0 as well.
    """
    frames = torch.export.Dim("past", min=1, max=step.reach)
    states = list(inputs)[2:]
    shapes = tuple({1: frames} if name.startswith("past") else None for name in states)
    program = torch.onnx.export(
        step, tuple(inputs.values()), dynamo=True, opset_version=OPSET, verbose=False,
        input_names=list(inputs), output_names=["result", *(f"next_{name}" for name in states)],
        dynamic_shapes={"window": None, "instants": None, "states": shapes},
    )  # fmt: skip
    program.save(str(path))


@torch.inference_mode()
def difference(session: "InferenceSession", step: LiveStep, inputs: dict[str, Tensor]) -> float:
    """Largest difference between onnxruntime's and torch's results, over the largest of each."""
    given = {name: value.numpy() for name, value in inputs.items()}
    expected = [value.numpy() for value in step(*inputs.values())]
    pairs = zip(session.run(None, given), expected, strict=True)
    return max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs)


def describe(stream: Stream, inputs: dict[str, Tensor], error: float) -> dict[str, Any]:
    """What a program needs to know to run the graph."""
    return {
        "fps": stream.fps, "step_frames": STEP_FRAMES, "ahead_frames": stream.ahead_frames,
        "rest_steps": REST_STEPS,
        "encoder_frames_per_frame": stream.model.encoder.k, "sample_rate": 16_000,
        "window_samples": stream.listener.window,
        "look_ahead_samples": stream.look_ahead, "context_s": CONTEXT_S,
        "attention_frames": round(ATTENTION_S * stream.fps),
        "states": {name: list(value.shape) for name, value in list(inputs.items())[2:]},
        "error": error,
    }  # fmt: skip
