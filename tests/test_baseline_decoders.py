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
from baselines.codetalker import Quantiser
from baselines.conditioning import Given, style_weights
from baselines.diffusion import cosine_alpha_bar, ddim, fixed_noise, noised, sampling_times
from baselines.facexhubert import FaceXHuBERTDecoder
from baselines.registry import make_layers
from baselines.voca import VOCADecoder
from config import ModelConfig
from layers.vertex_head import VertexHead

D, V, RANK, T = 8, 5, 3, 23
CONFIG = ModelConfig(
    {}, V, fps=4, fold=1, d_model=D, n_heads=2, d_ff=16, vertex_rank=RANK, subjects=("a", "b")
)
CAUSAL = ("faceformer", "facexhubert", "facediffuser")


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


def test_the_cosine_schedule_of_two_steps() -> None:
    half, start = math.cos(0.508 / 1.008 * math.pi / 2), math.cos(0.008 / 1.008 * math.pi / 2)
    expected = torch.tensor([1.0, (half / start) ** 2, 1e-5])
    torch.testing.assert_close(cosine_alpha_bar(2), expected)


def test_noise_keeps_the_variance() -> None:
    alpha_bar = cosine_alpha_bar(10)
    noisy = noised(torch.tensor([[[2.0]]]), torch.tensor([[[3.0]]]), alpha_bar[4:5])
    a = float(alpha_bar[4])
    assert abs(float(noisy) - (2 * math.sqrt(a) + 3 * math.sqrt(1 - a))) < 1e-6


def test_ddim_with_a_perfect_denoiser_gives_the_truth() -> None:
    truth, noise, alpha_bar = torch.randn(2, 5, 3), torch.randn(2, 5, 3), cosine_alpha_bar(100)
    times = sampling_times(100, 4)
    assert times == [100, 75, 50, 25, 0]
    torch.testing.assert_close(ddim(lambda x, t: truth, noise, alpha_bar, times), truth)
    # on the way: the truth with the noise that it started from
    at_25 = ddim(lambda x, t: truth, noise, alpha_bar, times[:-1])
    start = (noise - alpha_bar[100].sqrt() * truth) / (1 - alpha_bar[100]).sqrt()
    expected = noised(truth, start, alpha_bar[25].expand(2))
    torch.testing.assert_close(at_25, expected, rtol=1e-4, atol=1e-4)


def test_the_noise_of_a_longer_clip_begins_with_the_same_frames() -> None:
    long, short = fixed_noise(29, RANK, 0), fixed_noise(11, RANK, 0)
    assert torch.equal(long[:11], short) and abs(float(fixed_noise(999, 9, 0).std()) - 1) < 0.05


def test_vectors_become_the_nearest_codes() -> None:
    quantiser = Quantiser(4)  # four parts of one number
    codes = torch.linspace(-1, 1, 256)
    quantiser.codes.data = codes[:, None]
    z = torch.tensor([[[-3.0, 0.0039, 1.0, 0.5]]])
    expected = torch.tensor([[[codes[0], codes[128], codes[255], codes[191]]]])
    torch.testing.assert_close(quantiser.nearest(z), expected)
    _, loss = quantiser(z)  # 1 + beta times the mean square of the distance
    torch.testing.assert_close(loss, 1.25 * (z - expected).square().mean(2))


def test_the_gradient_passes_the_quantiser_unchanged() -> None:
    torch.manual_seed(0)
    quantiser, z = Quantiser(D), torch.randn(1, 5, D, requires_grad=True)
    codes, _ = quantiser(z)
    torch.testing.assert_close(codes, quantiser.nearest(z))
    weight = torch.randn(1, 5, D)
    (codes * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)
    assert quantiser.codes.grad is None


def test_codetalker_keeps_its_prior_in_the_second_stage() -> None:
    decoder, _ = decoder_of("codetalker")
    x, given = (
        torch.randn(1, T, D),
        given_to(CONFIG, ["a"])._replace(motion=torch.randn(1, T, RANK)),
    )

    def moved() -> set[str]:
        decoder.zero_grad()
        y, loss = decoder(x, None, given)
        (y.sum() + loss.sum()).backward()
        return {name.split(".")[0] for name, p in decoder.named_parameters() if p.grad is not None}

    decoder.set_progress(0.39)
    assert moved() == {"prior"}
    decoder.set_progress(0.4)
    assert moved() == {"style", "code", "layer", "feature"}


def test_codetalker_predicts_what_it_was_taught_where_its_codes_are_right() -> None:
    """Teacher forcing with the codes that it predicts gives the prediction."""
    decoder, _ = decoder_of("codetalker")
    x, given = torch.randn(1, T, D), given_to(CONFIG, ["a"])
    codes = decoder.predicted_codes(x, given.styles)
    seen: list[int] = []
    nearest = type(decoder.prior["quantise"]).nearest.__get__(decoder.prior["quantise"])

    def once(z: Tensor) -> Tensor:
        seen.append(1)
        return codes if len(seen) == 1 else nearest(z)  # first: the true codes

    decoder.prior["quantise"].nearest = once
    forced, _ = decoder.forced(x, None, given._replace(motion=torch.zeros(1, T, RANK)))
    torch.testing.assert_close(forced, decoder.prior["decode"](codes, None), rtol=1e-4, atol=1e-5)
