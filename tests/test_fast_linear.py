"""Linear layers for prediction: oneDNN's products, and weights that stay in their file."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from common.mapped_values import give_back, map_values
from config import SYNTHETIC, ModelConfig
from jambatalk import JambaTalk, load_checkpoint, save_checkpoint
from layers import fast_linear
from layers.fast_linear import FastLinear, make_fast, product
from tests.toy import DECODER, ENCODER

SPEC = dataclasses.replace(SYNTHETIC, n_vertices=7)
CONFIG = ModelConfig(
    **DECODER | dict(encoder=ENCODER | {"apply_spec_augment": False}, n_vertices=7, fps=30, fold=2)
)


def test_a_mapped_array_reads_its_file_again_after_its_memory_was_given_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "values"
    path.write_bytes(b"abc" + bytes(range(100)))
    with path.open("rb") as file:
        values, empty = map_values(file, "u1", 3, 100), map_values(file, "u1", 3, 0)
    assert values.tolist() == list(range(100)) and len(empty) == 0
    values[5] = 77
    assert path.read_bytes()[8] == 5
    give_back(values.ctypes.data)
    assert values[5] == 5
    give_back(values.ctypes.data + 1)  # no array begins here


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 53), (2, 3, 53), (0, 53)])
def test_products_equal_torchs(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(53, 29, bias), torch.randn(shape)
    with torch.no_grad():
        result = product(x, layer.weight, layer.bias)
        torch.testing.assert_close(result, layer(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_give_the_bits_of_widened_ones(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(7, 53), torch.randn(29)
    for size in (29, 11):  # the second in a part of the buffer of the first
        weight = torch.randn(size, 53).to(dtype)
        with torch.no_grad():
            expected = product(x, weight.float(), bias[:size])
            assert torch.equal(product(x, weight, bias[:size]), expected)


def test_a_fast_layer_is_torchs_where_gradients_or_other_types_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast_linear, "LARGE", 5 * 3)
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    make_fast(net)
    assert type(net[0]) is FastLinear and type(net[1]) is nn.Linear
    net(torch.randn(4, 3)).sum().backward()
    assert net[0].weight.grad.shape == (5, 3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert net[0](torch.randn(4, 3)).dtype == torch.bfloat16
    monkeypatch.setattr(fast_linear, "product", None)
    with torch.inference_mode(), pytest.raises(TypeError):
        net[0](torch.randn(4, 3))


@pytest.mark.parametrize("half", [True, False])
def test_a_loaded_model_predicts_what_one_in_memory_does(
    half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_linear, "LARGE", 100)
    torch.manual_seed(0)
    model, path = JambaTalk(CONFIG).eval(), tmp_path / "model.safetensors"
    nn.init.normal_(model.head.offsets.weight)
    audio, template = torch.randn(16_000), torch.zeros(SPEC.n_vertices, 3)
    audio = (audio - audio.mean()) / audio.std(correction=0)
    save_checkpoint(path, model, SPEC, half)
    loaded = load_checkpoint(path).model
    kept = loaded.encoder.body.encoder.layers[0].attention.q_proj.weight
    assert kept.dtype == (torch.float16 if half else torch.float32)
    assert loaded.norm.weight.dtype == torch.float32
    if half:
        model.half().float()
    make_fast(model)
    expected = model.predict(audio, template)
    for _ in range(2):  # the second reads the file again
        assert torch.equal(loaded.predict(audio, template), expected)
    with torch.no_grad():
        kept.mul_(2)  # these values are not in the file
    first = loaded.predict(audio, template)
    assert not torch.equal(first, expected)
    assert torch.equal(loaded.predict(audio, template), first)
    assert {weight.dtype for weight in loaded.float().parameters()} == {torch.float32}
