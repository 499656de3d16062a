"""The live step as an ONNX graph: run by onnxruntime over a recording, it is the engine."""

import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from speech.moonshine import mesh_instants
from streaming.engine import REST_STEPS, STEP_FRAMES, Stream
from tests.streams import MOONSHINE, checkpoint


def test_the_graph_gives_the_frames_of_the_engine(tmp_path: Path, rng: np.random.Generator) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    import onnxruntime

    from streaming.onnx_step import LiveStep, write_live_step

    model = checkpoint(tmp_path, MOONSHINE)
    path, _ = write_live_step(model, tmp_path, look_ahead_s=0.1)
    session = onnxruntime.InferenceSession(str(path))
    stream = Stream(model, look_ahead_s=0.1, output="coefficients")
    sound = (0.1 * rng.standard_normal(20_000)).astype(np.float32)
    expected = np.stack([frame.values for frame in stream.push(sound)])

    listener, k = stream.listener, model.model.encoder.k
    listener.reset()
    listener.hear(sound)
    states = [value.numpy() for _, value in LiveStep(stream).first_states()]
    names, results = [i.name for i in session.get_inputs()], []
    silence = np.zeros((1, listener.window), np.float32)
    for _ in range(REST_STEPS):
        frame_0 = np.tile(mesh_instants(0, k, 30, k).numpy(), STEP_FRAMES + 3)
        _, *states = session.run(None, dict(zip(names, [silence, frame_0, *states], strict=True)))
    for start in range(0, len(expected), STEP_FRAMES):
        stop = start + STEP_FRAMES
        window, begin = listener.window_at((stop - 1) * 16_000 // 30 + 1_600 + 1)
        instants = mesh_instants(start * k, (stop + 3) * k, 30, k).numpy() - begin
        inputs = [window[None], instants, *states]
        result, *states = session.run(None, dict(zip(names, inputs, strict=True)))
        results.append(result[0])
    np.testing.assert_allclose(np.concatenate(results), expected, atol=1e-4 * abs(expected).max())


def test_without_its_packages_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streaming.onnx_step import write_live_step

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime"):
        write_live_step(checkpoint(tmp_path, MOONSHINE), tmp_path, look_ahead_s=0.1)
    assert not list(tmp_path.glob("*.onnx"))
