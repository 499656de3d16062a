"""The frozen encoder by onnxruntime: the same states, in 8-bit products or without them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import demo
from common.errors import UserError, run_cli
from config import PROJECT_ROOT
from files.packed_weights import unpack_weights
from jambatalk import load_checkpoint
from speech import onnx_encoder
from speech.bodies import build_body
from speech.clip_audio import ClipAudio
from speech.encoder_backend import check_backend
from speech.kinds import kind_of
from speech.moonshine import WINDOW_FRAMES, WINDOW_SAMPLES, Moonshine, encoder_states
from speech.onnx_encoder import Graph, OnnxEncoder, encoder_model, open_session, quantise
from speech.pretrained import load_body
from tests.toy import ENCODER, moonshine_folder


@pytest.fixture
def onnx() -> None:
    """The test is skipped where a package is missing."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture
def body(tmp_path: Path) -> nn.Module:
    """A tiny untrained encoder."""
    return load_body(moonshine_folder(tmp_path)).eval()


def windows(n: int) -> Tensor:
    return 0.08 * torch.randn(n, WINDOW_SAMPLES, generator=torch.Generator().manual_seed(1))


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def test_bytes_by_hand() -> None:
    """-1 to 0.275 in steps of 0.005: zero is level 200."""
    weight = np.array([[-1.0, 0.0, 0.0051, 0.275]], np.float32)
    levels, scale, zero = quantise(weight, signed=False)
    assert levels.tolist() == [[0, 200, 201, 255]] and zero == 200 and scale == np.float32(0.005)
    levels, scale, zero = quantise(weight, signed=True)
    assert levels.tolist() == [[-128, 72, 73, 127]] and zero == 72
    assert levels.dtype == zero.dtype == np.int8


def test_the_included_weights_are_exact_in_bytes() -> None:
    packed = load_file(PROJECT_ROOT / "synthetic/encoder/model.safetensors")
    for name, value in unpack_weights(packed).items():
        if value.ndim == 2:
            levels, scale, zero = quantise(value.numpy(), signed=True)
            error = (levels.astype(np.float32) - zero) * scale - value.numpy()
            assert np.abs(error).max() < 1e-3 * scale, name


def test_the_graph_with_float_products_equals_torch(
    onnx: None, body: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exact(graph: Graph, x: str, weight: np.ndarray, bias: np.ndarray | None, _: bool) -> str:
        y = graph.add("MatMul", x, graph.constant(weight.T))
        return y if bias is None else graph.add("Add", y, graph.constant(bias))

    monkeypatch.setattr(Graph, "linear", exact)
    session = open_session(encoder_model(body, WINDOW_SAMPLES, signed=False), 1)
    ours = torch.from_numpy(session.run(None, {"audio": windows(1).numpy()})[0])
    assert ours.shape == (1, WINDOW_FRAMES, 3 * 16)
    with torch.no_grad():
        torch.testing.assert_close(ours, encoder_states(body, windows(1)), atol=1e-4, rtol=1e-4)


def test_eight_bit_products_change_the_states_by_little(onnx: None, body: nn.Module) -> None:
    with torch.no_grad():
        theirs = encoder_states(body, windows(2))
    ours = OnnxEncoder(body, WINDOW_SAMPLES)(windows(2))
    assert 0 < relative(ours, theirs) < 0.03


def test_a_window_has_the_same_states_beside_others(onnx: None, body: nn.Module) -> None:
    encode, both = OnnxEncoder(body, WINDOW_SAMPLES), windows(2)
    both[1] *= 9
    assert torch.equal(encode(both)[:1], encode(both[:1]))


def test_signed_and_unsigned_weights_give_the_same_states(onnx: None, body: nn.Module) -> None:
    if not onnx_encoder.signed_is_exact():
        pytest.skip("this processor cuts sums of signed products off")
    audio = {"audio": windows(1).numpy()}
    signed, unsigned = (
        open_session(encoder_model(body, WINDOW_SAMPLES, s), 1).run(None, audio)[0]
        for s in (True, False)
    )
    np.testing.assert_allclose(signed, unsigned, atol=1e-6)


def test_a_clip_is_read_from_the_states_of_the_backend(
    body: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that doubles torch's states doubles the features of clip and stream."""
    monkeypatch.setattr(
        "speech.moonshine.OnnxEncoder",
        lambda body, n_samples: lambda audio: 2 * encoder_states(body, audio),
    )
    plain, doubled = (kind_of("moonshine")(body.config) for _ in range(2))
    doubled.use_onnx(body)
    audio = torch.randn(1, 40_000)
    assert torch.equal(doubled.convolve(body, audio), 2 * plain.convolve(body, audio))
    ours, theirs = (
        kind.reader(body, ClipAudio(audio[0]), 30, 2)(0, 50) for kind in (doubled, plain)
    )
    torch.testing.assert_close(ours, 2 * theirs)


def test_a_missing_package_is_reported_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    monkeypatch.setattr("speech.encoder_backend.ONNX_PACKAGES", ("json", "onnxruntime"))
    with pytest.raises(UserError, match="onnxruntime is not installed; run pip install"):
        check_backend("onnx")
    check_backend("torch")


def test_an_unknown_backend_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(demo.main, ["--encoder_backend", "tpu"]) == 2
    assert capsys.readouterr().err == "error: --encoder_backend tpu: expected torch or onnx\n"
    with pytest.raises(UserError, match="expected torch or onnx"):
        load_checkpoint(encoder_backend="tpu")


def test_encoders_that_onnx_cannot_compute_are_refused(
    body: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_encoder, "check_backend", lambda name: None)
    other = build_body(ENCODER)
    with pytest.raises(UserError, match="expected a model on a Moonshine encoder, got Wav2Vec2"):
        kind_of(other.config.model_type)(other.config).use_onnx(other)
    body.config.encoder_hidden_act = "silu"
    with pytest.raises(UserError, match="expected an encoder with gelu, got silu"):
        Moonshine(body.config).use_onnx(body)
