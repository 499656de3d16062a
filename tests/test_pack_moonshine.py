"""Packed weights: bytes and floats, and the included encoder against the file it is made from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from config import PROJECT_ROOT
from files.packed_weights import unpack_weights
from speech.bodies import body_of
from speech.moonshine import LEVEL, encoder_states
from speech.pretrained import load_pretrained
from synthetic import pack_moonshine
from synthetic.pack_moonshine import quantise


def test_a_byte_is_a_step_count_from_the_offset() -> None:
    packed = {
        "w": torch.tensor([[0, 1], [2, 255]], dtype=torch.uint8),
        "w.scale": torch.tensor([0.5, -1.0]),
        "b": torch.tensor([3.0], dtype=torch.float16),
    }
    weights = unpack_weights(packed)
    assert weights.keys() == {"w", "b"}
    assert weights["w"].tolist() == [[-1.0, -0.5], [0.0, 126.5]]
    assert weights["b"].dtype == torch.float32 and weights["b"].item() == 3


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        ({"w": torch.zeros(2, dtype=torch.uint8)}, "w: torch.uint8 without w.scale"),
        ({"w.scale": torch.ones(2)}, "w.scale: no tensor w"),
    ],
)
def test_a_tensor_without_its_scale_is_refused(packed: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        unpack_weights(packed)


def test_quantised_values_are_restored(rng: np.random.Generator) -> None:
    steps = rng.integers(0, 256, (9, 40)).astype(np.float64)
    steps[0, :2] = 0, 1
    weight = (steps * 0.0123 - 0.7).astype(np.float32)
    levels, scale = quantise(weight)
    packed = {"w": torch.from_numpy(levels), "w.scale": torch.from_numpy(scale)}
    np.testing.assert_allclose(unpack_weights(packed)["w"], weight, atol=2e-6)


def test_more_than_256_values_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="levels"):
        quantise(rng.standard_normal((30, 30)).astype(np.float32))


def test_a_file_that_is_no_wheel_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"no zip")
    with pytest.raises(UserError, match="pip download --no-deps moonshine-voice==0.0.49"):
        pack_moonshine.main(["--wheel", str(tmp_path / "x.whl"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.fixture
def wheel() -> Path:
    """The wheel in the project's folder; the test is skipped without it or ONNX Runtime."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    found = sorted(PROJECT_ROOT.glob("moonshine_voice-0.0.49-*.whl"))
    if not found:
        pytest.skip("no moonshine_voice-0.0.49-*.whl here (pip download --no-deps)")
    return found[0]


def test_the_included_folder_is_made_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    pack_moonshine.main(["--wheel", str(wheel), "--out", str(tmp_path)])
    included = PROJECT_ROOT / "synthetic/encoder"
    for file in ("model.safetensors", "LICENSE"):
        assert (tmp_path / file).read_bytes() == (included / file).read_bytes()
    made, config = (json.loads((f / "config.json").read_text()) for f in (tmp_path, included))
    assert made.items() <= config.items()  # a phone head adds fields of its own


def test_torch_equals_the_onnx_graph_with_dequantised_weights(wheel: Path) -> None:
    """Products of quantised activations are replaced by products of float32 activations."""
    import onnxruntime

    model = dequantised(pack_moonshine.read_wheel(wheel)[0])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    audio = torch.randn(1, 24_000, generator=torch.Generator().manual_seed(0))
    mask = np.ones(audio.shape, np.int64)
    inputs = {"input_values": (audio * LEVEL).numpy(), "attention_mask": mask}
    theirs = session.run(None, inputs)[0]
    with torch.no_grad():
        ours = encoder_states(body_of(load_pretrained("synthetic/encoder")).eval(), audio)
    np.testing.assert_allclose(ours[..., -288:], theirs, atol=2e-4)


def dequantised(content: bytes) -> bytes:
    """The ONNX graph of `content` whose quantised products are float32 products."""
    from onnx import helper, numpy_helper

    model = pack_moonshine.read_model(content)
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    quantised_from = {n.output[0]: n.input[0] for n in model.graph.node
                      if n.op_type == "DynamicQuantizeLinear"}  # fmt: skip
    nodes = []
    for node in model.graph.node:
        if node.op_type not in pack_moonshine.QUANTISED:
            nodes.append(node)
            continue
        inputs = [*node.input, "", ""]
        levels, scale, zero, bias = (inputs[i] for i in pack_moonshine.QUANTISED[node.op_type])
        weight = (constants[levels].astype(np.float32) - constants[zero]) * constants[scale]
        name, out = f"{node.output[0]}_w", node.output[0]
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), name))
        source = quantised_from.get(node.input[0], node.input[0])
        product = f"{out}_product" if bias else out
        nodes.append(helper.make_node("MatMul", [source, name], [product]))
        if bias:
            nodes.append(helper.make_node("Add", [product, bias], [out]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()
