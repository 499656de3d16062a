"""Convolutions as matrix products, against torch's."""

import pytest
import torch

from speech import fast_convolutions
from speech.bodies import build_body
from speech.fast_convolutions import can_convolve, convolve, round_weights
from tests.toy import ENCODERS

WIDE = dict(conv_dim=[8] * 4, conv_kernel=[11, 5, 4, 3], conv_stride=[8, 4, 10, 1], conv_bias=True)


@pytest.mark.parametrize("n_samples", [800, 1_119, 20_000])
@pytest.mark.parametrize("shape", [{}, {"conv_bias": False}, WIDE])
def test_they_equal_torchs_for_every_kernel_and_stride(
    shape: dict, n_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_convolutions, "FRAMES", 7)
    torch.manual_seed(0)
    body = build_body(ENCODERS["layer"] | shape | {"model_type": "wav2vec2"})
    layers, audio = body.feature_extractor.conv_layers, torch.randn(2, n_samples)
    with torch.no_grad():
        expected = body.feature_extractor(audio)
        assert can_convolve(layers, audio[:, None])
        torch.testing.assert_close(convolve(layers, audio[:, None]), expected)


def test_of_a_group_norm_the_layers_behind_it_are_products() -> None:
    torch.manual_seed(0)
    layers = build_body(
        ENCODERS["group"] | {"model_type": "wav2vec2"}
    ).feature_extractor.conv_layers
    audio = torch.randn(1, 1, 9_000)
    assert not can_convolve(layers, audio)
    with torch.no_grad():
        x = expected = layers[0](audio)
        for layer in layers[1:]:
            expected = layer(expected)
        assert can_convolve(layers[1:], x)
        torch.testing.assert_close(convolve(layers[1:], x), expected)


def test_rounded_weights_differ_by_the_rounding_of_bfloat16() -> None:
    torch.manual_seed(0)
    body = build_body(ENCODERS["layer"] | {"model_type": "wav2vec2"})
    layers, audio = body.feature_extractor.conv_layers, torch.randn(1, 1, 9_000)
    with torch.no_grad():
        expected = convolve(layers, audio)
        round_weights(layers)
        assert can_convolve(layers, audio) and layers[0].conv.weight.dtype == torch.float32
        error = (convolve(layers, audio) - expected).norm() / expected.norm()
    assert 0 < error < 6 * 3 * 2**-9  # six layers, three roundings to 8 bits in each
