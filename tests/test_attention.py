"""Attention on a CPU under bfloat16 autocast, against the definition and torch's own kernel."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from layers import attention
from layers.attention import attend
from layers.fast_dropout import dropout as drop

B, H, T, D = 2, 3, 11, 8


def inputs(dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, H, T, D, generator=generator).to(dtype).requires_grad_()
            for _ in range(3)]  # fmt: skip


def padding(kind: str) -> Tensor | None:
    """Mask of the keys: all allowed, or only the first seven of the second clip."""
    if kind == "none":
        return None
    allowed = torch.arange(T) < torch.tensor([T, 7])[:, None]
    allowed = allowed[:, None, None]  # (B, 1, 1, T)
    return allowed if kind == "bool" else torch.where(allowed, 0.0, -1e9).expand(B, 1, T, T)


def by_definition(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, factors: Tensor) -> Tensor:
    """In float64; factors: of dropout on the attention map, 0 or 1 / (1 - dropout)."""
    q, k, v = (x.double() for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / D**0.5
    if mask is not None:
        added = mask if mask.dtype != torch.bool else torch.where(mask, 0.0, -torch.inf)
        scores = scores + added
    return (scores.softmax(-1) * factors.double()) @ v


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["none", "bool", "added"])
def test_bfloat16_attention_equals_the_definition(kind: str, dropout: float) -> None:
    """Result and gradients agree to bfloat16 rounding, 2^-8 for each of a few terms."""
    mask = padding(kind)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        actual = attend(*(mine := inputs()), mask, dropout)
    torch.manual_seed(3)
    factors = drop(torch.ones(B, H, T, T, requires_grad=True), dropout).detach()
    expected = by_definition(*(theirs := inputs()), mask, factors)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.double(), expected, rtol=2**-6, atol=2**-6)
    weight = torch.randn(B, H, T, D, generator=torch.Generator().manual_seed(1))
    (actual * weight).sum().backward()
    (expected * weight).sum().backward()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad.double(), rtol=2**-5, atol=2**-5)


def test_float32_attention_with_dropout_equals_the_definition() -> None:
    mask, dropout = padding("bool"), 0.3
    torch.manual_seed(3)
    actual = attend(*(mine := inputs(torch.float32)), mask, dropout)
    torch.manual_seed(3)
    factors = drop(torch.ones(B, H, T, T, requires_grad=True), dropout).detach()
    expected = by_definition(*(theirs := inputs(torch.float32)), mask, factors)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)
    for y in (actual, expected):
        (y**2).sum().backward()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_its_error_is_not_larger_than_that_of_torchs_bfloat16_kernel() -> None:
    q, k, v = inputs()
    expected = by_definition(q, k, v, None, torch.ones(()))
    theirs = F.scaled_dot_product_attention(q, k, v)
    for dropout in (0.0, 1e-9):  # one for each branch of the code
        ours = attend(q, k, v, dropout=dropout)
        assert (ours - expected).abs().max() <= 1.01 * (theirs - expected).abs().max()


def test_masked_frames_change_nothing() -> None:
    for dropout in (0.0, 1e-9):
        q, k, v = (x.detach() for x in inputs())
        with torch.autocast("cpu", torch.bfloat16):
            before = attend(q, k, v, padding("bool"), dropout)
            k[1, :, 7:], v[1, :, 7:] = 1e3, -1e3
            assert torch.equal(attend(q, k, v, padding("bool"), dropout), before)


def test_float32_uses_torchs_kernel() -> None:
    q, k, v = inputs(torch.float32)
    for kind in ("none", "bool", "added"):
        expected = F.scaled_dot_product_attention(q, k, v, padding(kind), scale=0.2)
        assert torch.equal(attend(q, k, v, padding(kind), scale=0.2), expected)


def test_a_teacher_gives_the_results_of_transformers_sdpa() -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    body = Wav2Vec2Model(Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        conv_dim=(16,) * 7, num_conv_pos_embedding_groups=2,
    )).eval()  # fmt: skip
    attention.use_in(body)
    other = copy.deepcopy(body)
    other.set_attn_implementation("sdpa")
    assert body.config._attn_implementation == attention.NAME
    assert body.config.to_json_string() == other.config.to_json_string()  # so saved files are equal
    hidden = torch.randn(2, 13, 32)
    for mask in (None, torch.arange(13) < torch.tensor([13, 7])[:, None]):
        ours, theirs = (b.encoder(hidden.clone(), attention_mask=mask)[0] for b in (body, other))
        assert torch.equal(ours, theirs)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = body.encoder(hidden.clone(), attention_mask=mask)[0]
        torch.testing.assert_close(coarse, theirs, rtol=0.05, atol=0.05)
