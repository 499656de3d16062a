"""Grouped-query attention against PyTorch's and a plain loop; the rotary table's invariants."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from layers.transformer import (
    GroupedQueryAttention,
    LowRankRotary,
    TransformerLayer,
    attend_grouped,
)


def make_rotary(d_head=8, rank=3, learnt=False):
    torch.manual_seed(0)
    rotary = LowRankRotary(d_head, rank).double()
    if learnt:
        torch.nn.init.normal_(rotary.w2.weight)
    return rotary


def test_rotary_table_starts_as_plain_rope():
    sin, cos = make_rotary(d_head=4).table(3, torch.device("cpu"))
    angles = torch.tensor([[0, 0], [1, 0.01], [2, 0.02]]).double()  # pos · 10000^(-2i/4)
    assert_close(sin, angles.sin(), rtol=1e-6, atol=1e-6)
    assert_close(cos, angles.cos(), rtol=1e-6, atol=1e-6)


def test_rank_0_is_plain_rope():
    plain, start = LowRankRotary(8, 0), LowRankRotary(8, 3)
    assert not list(plain.parameters())
    tables = [rotary.table(50, torch.device("cpu")) for rotary in (plain, start)]
    for ours, other in zip(*tables, strict=True):
        assert_close(ours, other, rtol=0, atol=0)


def test_plain_rotary_keeps_norms():
    q = torch.randn(2, 3, 11, 8, dtype=torch.float64)
    turned, _ = make_rotary()(q, q)
    assert_close(turned.norm(dim=-1), q.norm(dim=-1), rtol=1e-6, atol=0)
    assert_close(turned[:, :, 0], q[:, :, 0], rtol=0, atol=0)


def test_plain_rotary_scores_depend_on_relative_position_alone():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).expand(2, 1, 1, 13, 8)
    turned_q, turned_k = make_rotary()(q, k)
    scores = (turned_q @ turned_k.transpose(-1, -2))[0, 0]  # (13, 13)
    for lag in range(-12, 13):
        diagonal = scores.diagonal(lag)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-5, atol=1e-5)
    assert scores[0].std() > 0.1


def test_learnt_rotary_follows_algorithm_1_by_hand():
    rotary = make_rotary(d_head=4, rank=2, learnt=True)
    w1, w2 = rotary.w1.weight.tolist(), rotary.w2.weight.tolist()  # (2, 4), (4, 2)
    x = torch.randn(1, 1, 6, 4, dtype=torch.float64)
    turned = rotary(x, x)[0][0, 0].tolist()
    for pos, (x0, x1, x2, x3) in enumerate(x[0, 0].tolist()):
        base = [math.sin(pos), math.sin(pos / 100), math.cos(pos), math.cos(pos / 100)]
        low = [sum(w * b for w, b in zip(row, base, strict=True)) for row in w1]
        sin_a, sin_b, cos_a, cos_b = (
            b + sum(w * v for w, v in zip(row, low, strict=True))
            for b, row in zip(base, w2, strict=True)
        )
        expected = [
            x0 * cos_a - x1 * sin_a,
            x0 * sin_a + x1 * cos_a,
            x2 * cos_b - x3 * sin_b,
            x2 * sin_b + x3 * cos_b,
        ]
        assert turned[pos] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_low_rank_correction_gets_a_gradient_from_the_start():
    layer = TransformerLayer(16, 23, n_heads=4, n_kv_heads=2, rope_rank=3)
    layer(torch.randn(1, 7, 16)).square().sum().backward()
    assert layer.attention.rotary.w2.weight.grad.abs().max() > 0


@pytest.mark.parametrize("n_kv_heads", [1, 2, 3, 6])
def test_grouped_attention_equals_pytorch_with_repeated_heads(n_kv_heads):
    torch.manual_seed(0)
    q = torch.randn(2, 6, 11, 4)
    k, v = torch.randn(2, 2, n_kv_heads, 11, 4)
    k_all, v_all = (torch.cat([x[:, h // (6 // n_kv_heads), None] for h in range(6)], 1)
                    for x in (k, v))  # fmt: skip
    expected = F.scaled_dot_product_attention(q, k_all, v_all)
    assert_close(attend_grouped(q, k, v), expected, rtol=1e-6, atol=1e-6)


def test_grouped_attention_equals_a_plain_loop_under_a_mask():
    torch.manual_seed(0)
    q = torch.randn(2, 4, 7, 3, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, 7, 3, dtype=torch.float64)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 5:] = False
    y = attend_grouped(q, k, v, mask)
    for b, real_frames in enumerate((7, 5)):
        for h in range(4):
            for t in range(7):
                scores = [q[b, h, t] @ k[b, h // 2, s] / math.sqrt(3) for s in range(real_frames)]
                weights = torch.stack(scores).exp()
                expected = (weights / weights.sum()) @ v[b, h // 2, :real_frames]
                assert_close(y[b, h, t], expected, rtol=1e-12, atol=1e-12)


def test_fewer_key_heads_mean_fewer_parameters():
    attention = GroupedQueryAttention(24, n_heads=6, n_kv_heads=2)
    assert attention.q_proj.weight.shape == (24, 24)
    assert attention.k_proj.weight.shape == attention.v_proj.weight.shape == (8, 24)
    assert attention(torch.randn(2, 5, 24)).shape == (2, 5, 24)


def test_attention_covers_the_whole_clip():
    layer = TransformerLayer(16, 23, n_heads=4, n_kv_heads=2)
    x = torch.randn(1, 9, 16, requires_grad=True)
    layer(x)[0, 4].sum().backward()
    assert (x.grad[0].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("frames", [1, 2, 29])
def test_padded_batch_gives_each_clip_the_values_it_gets_alone(frames):
    torch.manual_seed(0)
    layer = TransformerLayer(16, 23, n_heads=4, n_kv_heads=2)
    torch.nn.init.normal_(layer.attention.rotary.w2.weight)
    x = torch.randn(2, 41, 16)
    mask = torch.ones(2, 41, dtype=torch.bool)
    mask[1, frames:] = False
    together = layer(x, mask)
    assert_close(together[1, :frames], layer(x[1:, :frames])[0], rtol=1e-5, atol=1e-5)
    assert_close(together[:1], layer(x[:1]), rtol=1e-5, atol=1e-5)
    assert torch.isfinite(together).all()


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="d_model 20 is not a multiple of n_heads 6"):
        GroupedQueryAttention(20, n_heads=6, n_kv_heads=2)
    with pytest.raises(ValueError, match="n_heads 6 is not a multiple of n_kv_heads 4"):
        GroupedQueryAttention(24, n_heads=6, n_kv_heads=4)
    with pytest.raises(ValueError, match="d_head 3 is odd"):
        GroupedQueryAttention(12, n_heads=4, n_kv_heads=2)
