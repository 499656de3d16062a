"""What the papers of other systems say about their decoders, by hand arithmetic or an invariant."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from baselines.biased_attention import (
    BiasedDecoderLayer,
    head_slopes,
    periodic_positions,
    temporal_bias,
)
from baselines.conditioning import Given, style_weights
from baselines.facexhubert import FaceXHuBERTDecoder
from baselines.registry import make_layers
from baselines.voca import VOCADecoder
from config import ModelConfig
from layers.vertex_head import VertexHead

D, V, RANK, T = 8, 5, 3, 23
CONFIG = ModelConfig(
    {}, V, fps=4, fold=1, d_model=D, n_heads=2, d_ff=16, vertex_rank=RANK, subjects=("a", "b")
)
CAUSAL = ("faceformer", "facexhubert")


def given_to(config: ModelConfig, names: list[str], seed: int = 1) -> Given:
    """What a decoder is given for some subjects; its motion is a fixed linear map of its output."""
    torch.manual_seed(seed)
    head = torch.nn.Linear(config.d_model, config.vertex_rank)
    return Given(style_weights(names, config), head)


def decoder_of(name: str) -> tuple[torch.nn.Module, Callable[[Tensor], Tensor]]:
    """An untrained decoder, and its outputs (1, T, D) of speech for the subject a."""
    torch.manual_seed(0)
    decoder = make_layers(dataclasses.replace(CONFIG, model=name))[0].eval()
    given = given_to(CONFIG, ["a"])
    return decoder, lambda x: decoder(x, None, given)


@pytest.mark.parametrize("name", CAUSAL)
def test_later_speech_does_not_change_earlier_frames(name: str) -> None:
    _, run = decoder_of(name)
    x = torch.randn(1, T, D)
    changed = torch.cat([x[:, :11], torch.randn(1, T - 11, D)], dim=1)
    before, after = run(x), run(changed)
    torch.testing.assert_close(after[:, :11], before[:, :11])
    assert (after[:, 11:] - before[:, 11:]).abs().amax(2).gt(1e-4).all()


def test_the_bias_counts_whole_periods_back() -> None:
    low = -math.inf
    counted = torch.tensor([  # period 2, frames 0 to 3
        [0.0, low, low, low], [0.0, 0.0, low, low], [-1.0, 0.0, 0.0, low], [-1.0, -1.0, 0.0, 0.0],
    ])  # fmt: skip
    bias = temporal_bias(4, 2, 2)
    torch.testing.assert_close(bias[0], counted / 16)  # slopes 2^-4 and 2^-8
    torch.testing.assert_close(bias[1], counted / 256)
    torch.testing.assert_close(head_slopes(4), torch.tensor([2**-2, 2**-4, 2**-6, 2**-8]))


def test_positions_repeat_with_the_period() -> None:
    positions = periodic_positions(9, 6, 4)
    torch.testing.assert_close(positions[4:8], positions[:4])
    torch.testing.assert_close(positions[8], positions[0])
    torch.testing.assert_close(positions[0], torch.tensor([0.0, 1, 0, 1, 0, 1]))
    assert abs(float(positions[1, 2]) - math.sin(10_000 ** (-2 / 6))) < 1e-6


def test_the_biased_layer_gives_frame_by_frame_what_it_gives_at_once() -> None:
    torch.manual_seed(0)
    layer = BiasedDecoderLayer(D, 2, 16, period=3).eval()
    x, speech, bias = torch.randn(2, 7, D), torch.randn(2, 7, D), temporal_bias(7, 3, 2)
    whole, _ = layer(x, speech, bias)
    parts, past = [], None
    for t in range(7):
        rows = bias[:, t : t + 1, : t + 1]
        y, past = layer(x[:, t : t + 1], speech[:, t : t + 1], rows, past)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_faceformer_is_fed_with_its_own_motion() -> None:
    decoder, run = decoder_of("faceformer")
    x = torch.randn(1, T, D)
    given = given_to(CONFIG, ["a"], seed=2)  # another map from output to motion
    before, after = run(x), decoder(x, None, given)
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert (after[:, 1:] - before[:, 1:]).abs().amax(2).gt(1e-4).all()


def test_a_frame_of_voca_sees_8_frames_before_and_7_behind() -> None:
    decoder = VOCADecoder(CONFIG)
    x = torch.randn(1, T, D, requires_grad=True)
    decoder(x, None, given_to(CONFIG, ["a"]))[0, 11].sum().backward()
    reached = x.grad[0].abs().amax(1) > 0
    assert reached.nonzero().flatten().tolist() == list(range(3, 19))


def test_the_state_of_the_gru_carries_over() -> None:
    decoder = FaceXHuBERTDecoder(CONFIG).eval()
    x, styles = torch.randn(2, T, D), style_weights(["a", "b"], CONFIG)
    whole, _ = decoder.advance(x, styles)
    first, state = decoder.advance(x[:, :9], styles)
    second, _ = decoder.advance(x[:, 9:], styles, state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


def test_an_unknown_subject_has_the_mean_of_all_styles() -> None:
    weights = style_weights(["b", "someone", None], CONFIG)
    assert weights.tolist() == [[0, 1], [0.5, 0.5], [0.5, 0.5]]
    assert style_weights(["a"], dataclasses.replace(CONFIG, subjects=())).tolist() == [[1]]


def test_the_motion_of_offsets_gives_their_coefficients() -> None:
    torch.manual_seed(0)
    head, units = VertexHead(D, V, RANK), torch.tensor([1.0, 10.0, 100.0])
    torch.nn.init.normal_(head.offsets.weight)
    torch.nn.init.normal_(head.offsets.bias)
    coefficients = torch.randn(2, 4, RANK) * units
    offsets = head.offsets(coefficients).unflatten(-1, (V, 3))
    torch.testing.assert_close(head.motion_of_offsets(offsets), coefficients, rtol=1e-3, atol=1e-2)
    basis, curves = torch.randn(6, V, 3), torch.randn(2, 4, 6)
    torch.testing.assert_close(
        head.motion_of_curves(curves, basis),
        head.motion_of_offsets(torch.tensordot(curves, basis, dims=1)),
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    flat = VertexHead(D, V, 0)
    x = torch.randn(2, 4, D)
    torch.testing.assert_close(flat.motion_of_offsets(flat(x)), flat.motion(x))
