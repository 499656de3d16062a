"""Attention with bfloat16 products, against the definition in float64."""

import math

import pytest
import torch
from torch import Tensor

from layers import coarse_attention, softmax_kernels
from layers.coarse_attention import attend_coarse
from layers.coarse_linear import BfloatLinear
from speech.bodies import build_body
from speech.precision import coarsen

ROUNDING = 2.0**-8  # of a bfloat16 number, relative to it


def inputs(*shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(3)]


def error(actual: Tensor, q: Tensor, k: Tensor, v: Tensor) -> float:
    """Largest difference from the definition."""
    q, k, v = (x.double() for x in (q, k, v))
    expected = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    return (actual - expected).abs().max().item()


@pytest.mark.parametrize("shape", [(2, 3, 11, 8), (1, 16, 130, 64), (1, 1, 1, 4)])
def test_it_equals_the_definition_to_the_rounding_of_bfloat16(shape: tuple[int, ...]) -> None:
    q, k, v = inputs(*shape)
    actual = attend_coarse(q, k, v)
    assert actual.shape == shape and actual.dtype == torch.float32
    # scores are below 8 here, so their rounding changes each share by 8 times as much at most
    assert error(actual, q, k, v) < 12 * ROUNDING * v.abs().max().item()
    assert (actual - attend_coarse(q, k, v)).abs().max() == 0


def test_what_all_keys_share_is_not_rounded() -> None:
    q, k, v = inputs(1, 2, 40, 16)
    common = 200 * torch.ones(16)  # scores of hundreds, which bfloat16 would round by 1
    assert error(attend_coarse(q, k + common, v), q, k, v) < 4 * ROUNDING


def test_scores_of_any_size_and_missing_numbers() -> None:
    q, k, v = inputs(1, 1, 6, 4)
    sharp = attend_coarse(1e6 * q, 1e6 * k, v)  # one share is 1, the others are 0
    best = (q.double() @ k.double().mT).argmax(-1)[0, 0]
    torch.testing.assert_close(sharp[0, 0], v[0, 0, best].bfloat16().float())
    q[0, 0, 2] = torch.nan
    frames = attend_coarse(q, k, v).isnan().any(-1)[0, 0]
    assert frames.tolist() == [False, False, True, False, False, False]


def test_shares_are_rounded_to_the_nearest() -> None:
    q, k, _ = inputs(1, 2, 300, 8)
    sums = attend_coarse(q, k, torch.ones(1, 2, 300, 8))
    assert (sums.mean() - 1).abs() < 1e-3  # cut off, they would miss half of 2^-8


def test_softmax_of_scores_below_zero() -> None:
    scores = torch.tensor([[-200.0, -70, -71], [-1, -3, 2]]).bfloat16()
    expected = torch.softmax(scores.double() * math.log(2), -1)
    softmax_kernels.softmax2(scores.view(torch.uint16).numpy(), 0, 2)
    torch.testing.assert_close(scores.double(), expected, rtol=ROUNDING, atol=1e-6)


def test_blocks_of_frames_do_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(2, 3, 50, 8)
    whole = attend_coarse(q, k, v)
    for scores in (1, 50 * 7, 4 * 50 * 50):  # one frame at a time, seven, four heads of six
        monkeypatch.setattr("layers.coarse_attention.SCORES", scores)
        torch.testing.assert_close(attend_coarse(q, k, v), whole, rtol=ROUNDING, atol=ROUNDING)


def test_scores_of_a_long_clip_are_never_there_at_once() -> None:
    attend_coarse(*inputs(1, 2, 3_000, 4))
    assert coarse_attention._SPACE.blocks[torch.bfloat16].numel() <= coarse_attention.SCORES


def test_threads_do_not_change_it() -> None:
    q, k, v = inputs(1, 4, 50, 8)
    before, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(attend_coarse(q, k, v))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("has_units", [False, True])
def test_precisions_use_it_where_the_processor_multiplies_bfloat16(
    monkeypatch: pytest.MonkeyPatch, has_units: bool
) -> None:
    monkeypatch.setattr("speech.precision.fast_bfloat16", lambda _: has_units)
    body = build_body(
        dict(
            model_type="wav2vec2", hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=8, conv_dim=(8,) * 7, num_conv_pos_embedding_groups=2,
            feat_extract_norm="layer", do_stable_layer_norm=True,
        )
    )  # fmt: skip
    attention = body.eval().encoder.layers[0].attention
    x, everything = torch.randn(2, 30, 16), torch.ones(2, 1, 1, 30, dtype=torch.bool)
    head = torch.nn.Linear(512, 1024)
    decoder = torch.nn.Sequential(torch.nn.Linear(1024, 512), torch.nn.Linear(8, 8), head)
    coarsen(body, [decoder], head, "bf16", torch.device("cpu"))
    kinds = [BfloatLinear if has_units else torch.nn.Linear, torch.nn.Linear, torch.nn.Linear]
    assert [type(part) for part in decoder] == kinds  # the large one that does not write vertices
    with torch.inference_mode():
        one, masked = attention(x), attention(x, everything)  # with a mask it stays float32
    torch.testing.assert_close(one, masked, rtol=0, atol=8 * ROUNDING)
    assert torch.equal(one, masked) is not has_units
    assert torch.equal(attention(x), masked)  # and where a gradient is needed
