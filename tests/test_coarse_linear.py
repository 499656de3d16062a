"""Linear layers in bfloat16 and with 8-bit products, against the float32 ones that they replace."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.paths import PROJECT_ROOT
from config import MODELS, RECIPES
from jambatalk import JambaTalk, load_checkpoint, save_checkpoint
from layers.coarse_linear import BfloatLinear, ByteConvolution, ByteLinear, use_precision
from speech.audio import read_audio
from speech.moonshine import LEVEL
from speech.precision import coarsen
from tests.toy import synthetic_checkpoint

CPU = torch.device("cpu")
SPEECH = PROJECT_ROOT / "demo/wav/sense_and_sensibility.wav"
# Relative rms errors. bfloat16: three roundings to 8 bits. int8: activations of -4.5 to 4.5 times
# their rms in 127 steps, of which a rounding misses 1 / sqrt(12): 0.02.
MOST = {"bf16": 3 * 2**-9, "int8": 0.025}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", MOST)
def test_products_differ_by_the_rounding_of_their_numbers(name: str, bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Linear(37, 53, bias)), torch.randn(2, 29, 37)
    expected = layer(x)
    use_precision(layer, name, CPU)
    assert isinstance(layer[0], BfloatLinear if name == "bf16" else ByteLinear)
    with torch.no_grad():
        result = layer(x)
    assert result.dtype == torch.float32
    assert 0 < (result - expected).norm() / expected.norm() < MOST[name]


def test_8_bit_products_of_whole_numbers_are_exact() -> None:
    """Weights of -127 to 127 with 127 in every row have scale 1, activations of 0 to 127, too."""
    layer = nn.Sequential(nn.Linear(3, 2, bias=False))
    weight = torch.tensor([[127.0, -5.0, 0.0], [3.0, -127.0, 9.0]])
    layer[0].weight = nn.Parameter(weight)
    x = torch.tensor([[127.0, 0.0, 64.0], [1.0, 2.0, 3.0]])
    use_precision(layer, "int8", CPU)
    torch.testing.assert_close(layer(x), x @ weight.T)


def test_large_layers_of_many_frames_have_another_kernel_and_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("layers.coarse_linear.MANY", 64 * 48)
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48), torch.randn(1, 300, 64)
    engine = torch.backends.quantized.engine
    few, many = ByteLinear(linear), ByteLinear(linear, many_frames=True)
    assert torch.backends.quantized.engine == engine
    torch.testing.assert_close(few(x), many(x))
    x = x.transpose(0, 1).requires_grad_()  # as of norms in front, where gradients are not off
    torch.testing.assert_close(few(x.detach()), many(x))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (7, 3), (1, 1)])
def test_8_bit_convolutions_differ_by_the_rounding_of_their_numbers(
    kernel: int, stride: int
) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv1d(31, 53, kernel, stride), torch.randn(2, 31, 60)
    with torch.no_grad():
        expected, result = layer(x), ByteConvolution(layer)(x)
    assert result.shape == expected.shape and result.dtype == torch.float32
    assert 0 < (result - expected).norm() / expected.norm() < MOST["int8"]


def test_an_8_bit_convolution_of_whole_numbers_is_exact() -> None:
    layer = nn.Conv1d(2, 1, 2, 2, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[[127.0, -5.0], [3.0, 9.0]]]))
    x = torch.tensor([[[127.0, 0.0, 64.0, 1.0], [1.0, 2.0, 3.0, 0.0]]])
    # 127·127 - 5·0 + 3·1 + 9·2 = 16,150; 127·64 - 5·1 + 3·3 + 9·0 = 8,132
    torch.testing.assert_close(ByteConvolution(layer)(x), torch.tensor([[[16_150.0, 8_132.0]]]))


def test_auto_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_units in (True, False):
        monkeypatch.setattr("layers.coarse_linear.fast_bfloat16", lambda _, has=has_units: has)
        layer = nn.Sequential(nn.Linear(3, 2))
        use_precision(layer, "auto", CPU)
        assert isinstance(layer[0], BfloatLinear) == has_units


def test_only_the_encoder_of_a_loaded_model_is_coarse(tmp_path: Path) -> None:
    path = synthetic_checkpoint(tmp_path)
    model, spec = load_checkpoint(path, precision="int8")
    coarse = [name for name, layer in model.named_modules() if isinstance(layer, ByteLinear)]
    assert len(coarse) == 7 and all(name.startswith("encoder.body.") for name in coarse)
    audio, template = torch.randn(16_000), torch.zeros(spec.n_vertices, 3)
    audio = (audio - audio.mean()) / audio.std(correction=0)
    exact = load_checkpoint(path).model.predict(audio, template)
    error = (model.predict(audio, template) - exact).norm() / exact.norm()
    assert 0 < error < 0.05


def test_of_moonshines_convolutions_the_second_is_8_bit() -> None:
    """The third is not: outliers in its input would make the states of speech useless."""
    exact, coarse = (load_checkpoint(precision=p).model.encoder.body for p in ("fp32", "int8"))
    kinds = [type(getattr(coarse, name)) for name in ("conv1", "conv2", "conv3")]
    assert kinds == [nn.Conv1d, ByteConvolution, nn.Conv1d]
    audio = torch.from_numpy(read_audio(SPEECH)[16_000:48_000])[None]
    audio = audio / audio.abs().mean() * LEVEL
    with torch.no_grad():
        for before, after in zip(exact(audio), coarse(audio), strict=True):
            assert 0 < (after - before).norm() / before.norm() < 0.1


@pytest.mark.parametrize("has_units", [False, True])
def test_coarse_products_reach_large_layers_of_the_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_units: bool
) -> None:
    """8-bit ones everywhere, bfloat16 ones where the processor has units for them."""
    monkeypatch.setattr("speech.precision.LARGE", 200)
    monkeypatch.setattr("speech.precision.fast_bfloat16", lambda _: has_units)
    path = synthetic_checkpoint(tmp_path)
    for name, kind in (("int8", ByteLinear), ("bf16", BfloatLinear)):
        model = load_checkpoint(path, precision=name).model
        reached = [type(layer) is kind for layer in model.layers.modules()]
        assert any(reached) == (name == "int8" or has_units)
    exact = load_checkpoint(path).model
    for name, layer in load_checkpoint(path, precision="int8").model.layers.named_modules():
        before = exact.layers.get_submodule(name)
        if isinstance(before, nn.Linear):
            assert isinstance(layer, ByteLinear) == (before.weight.numel() >= 200), name


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_decoders_of_all_systems_predict_with_coarse_products(
    monkeypatch: pytest.MonkeyPatch, name: str, precision: str
) -> None:
    monkeypatch.setattr("speech.precision.LARGE", 32 * 64)  # the layers of the feed-forward
    monkeypatch.setattr("speech.precision.fast_bfloat16", lambda _: True)
    torch.manual_seed(0)
    network = JambaTalk(replace(
        RECIPES["vocaset"].model, model=name, n_vertices=40, d_model=32, d_ff=64,
        encoder=dict(model_type="wav2vec2", hidden_size=32, num_hidden_layers=1,
                     num_attention_heads=2, intermediate_size=64, conv_dim=(16,) * 7,
                     num_conv_pos_embedding_groups=2, feat_extract_norm="layer",
                     do_stable_layer_norm=True),
    )).eval()  # fmt: skip
    nn.init.normal_(network.head.offsets.weight)
    audio, template = torch.randn(16_000), torch.zeros(40, 3)
    torch.manual_seed(1)
    exact = network.predict(audio, template)
    head = network.head.offsets
    parts = [network.layers] if network.head.coefficients else [network.layers, network.head]
    coarsen(network.encoder.body, parts, network.head, precision, torch.device("cpu"))
    assert precision == "int8" or network.head.offsets is head  # bfloat16 would move in steps
    torch.manual_seed(1)
    coarse = network.predict(audio, template)
    assert coarse.isfinite().all() and not torch.equal(coarse, exact)


def test_the_components_of_a_vertex_head_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their weights are read as shapes of the face. A whole head is a product like others."""
    monkeypatch.setattr("speech.precision.LARGE", 1)
    path = synthetic_checkpoint(tmp_path)
    low_rank, spec = load_checkpoint(path)
    assert type(load_checkpoint(path, precision="int8").model.head.offsets) is not ByteLinear
    whole = JambaTalk(replace(low_rank.config, vertex_rank=0))
    save_checkpoint(path, whole, spec)
    assert type(load_checkpoint(path, precision="int8").model.head.offsets) is ByteLinear


def test_precisions_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="--precision fp8: expected fp32, auto, bf16, int8"):
        use_precision(nn.Linear(2, 2), "fp8", CPU)
    with pytest.raises(UserError, match="--precision int8: works on a CPU only"):
        use_precision(nn.Linear(2, 2), "int8", torch.device("cuda"))
    with pytest.raises(UserError, match="--precision int8: needs --encoder_backend torch"):
        load_checkpoint(encoder_backend="onnx", precision="int8")


def test_the_precision_is_chosen_for_the_device_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """live.py computes on the processor where there is a GPU, too."""
    gpu = torch.device("cuda")
    monkeypatch.setattr("jambatalk.pick_device", lambda: (gpu, torch.float32, "a GPU"))
    path = synthetic_checkpoint(tmp_path)
    with pytest.raises(UserError, match="works on a CPU only"):
        load_checkpoint(path, precision="int8")
    model = load_checkpoint(path, precision="int8", device=CPU).model
    assert any(isinstance(layer, ByteLinear) for layer in model.modules())
