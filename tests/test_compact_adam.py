"""AdamW with bfloat16 moments against torch's own, by hand, and through a stop."""

import io

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layers.lean_linear import GRAD_DTYPE
from training.adam_kernels import rounded, widened
from training.compact_adam import CompactAdamW, clip_gradients

BETAS, RATE = (0.9, 0.98), 1e-2
SHAPES = ((37, 53), (11,), (5, 7, 3))


def weights(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def compact(params: list[nn.Parameter], **settings: float) -> CompactAdamW:
    return CompactAdamW(params, lr=RATE, betas=BETAS, **settings)


def torchs(params: list[nn.Parameter], **settings: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(params, lr=RATE, betas=BETAS, fused=True, **settings)


def give_gradients(params: list[nn.Parameter], step: int, dtype: torch.dtype | None = None) -> None:
    """Gradients of a step, with values that bfloat16 has, of many sizes."""
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        scale = torch.logspace(-6, 2, p.numel()).view_as(p)
        gradient = (torch.randn(p.shape, generator=generator) * scale).bfloat16()
        if dtype is not None and dtype != p.dtype:
            if not GRAD_DTYPE:
                pytest.skip("this torch has no Tensor.grad_dtype: gradients are float32")
            p.grad_dtype = dtype
        p.grad = gradient.to(dtype or p.dtype)


def test_first_step_by_hand() -> None:
    """Corrected moments are the gradient and its square: w · (1 - rate · decay) - rate · sign."""
    weight = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5]]))
    weight.grad = torch.tensor([[0.5, -0.25, 0.0]])
    optimizer = CompactAdamW([weight], lr=0.1, betas=BETAS, weight_decay=0.2)
    optimizer.step()
    expected = torch.tensor([[0.98 - 0.1, -1.96 + 0.1, 0.49]])
    torch.testing.assert_close(weight.data, expected, rtol=0, atol=1e-6)
    mean, square = (optimizer.state[weight][name] for name in ("exp_avg", "exp_avg_sq"))
    assert mean.dtype == square.dtype == torch.bfloat16
    assert torch.equal(mean, torch.tensor([[0.05, -0.025, 0.0]]).bfloat16())
    assert torch.equal(square, torch.tensor([[0.005, 0.00125, 0.0]]).bfloat16())


def test_weights_stay_close_to_those_of_torchs_adamw() -> None:
    """No further from it than rounding explains, of the way that a weight has gone.

    First moment: errors of 2^-8 of it, forgotten at 0.9 a step, so 2^-8 / 0.1 of its size over
    time; root of the second: half of 2^-8 / 0.02. Together 4 + 10 % of the way at the worst; they
    have random signs, so 2 % is already wide for the mean.
    """
    ours, theirs = weights(), weights()
    compacted, plain = compact(ours), torchs(theirs)
    way = [torch.zeros_like(p) for p in theirs]
    for step in range(60):
        before = [p.detach().clone() for p in theirs]
        for params, optimizer in ((ours, compacted), (theirs, plain)):
            give_gradients(params, step)
            optimizer.step()
        for total, p, old in zip(way, theirs, before, strict=True):
            total += (p.detach() - old).abs()
    for one, other, total in zip(ours, theirs, way, strict=True):
        apart = (one - other).detach().abs() / total
        assert apart.max() < 0.14 and apart.mean() < 0.02
    vector = [p for p in ours if p.ndim == 1][0]
    torch.testing.assert_close(vector, theirs[1], rtol=1e-5, atol=1e-6)  # float32 moments


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_and_torchs_step_agree(dtype: torch.dtype) -> None:
    """As on a device without kernels: weights to float32's rounding, moments to bfloat16's."""
    ours, theirs = weights(), weights()
    ours[0].data = ours[0].data.contiguous()
    compacted, plain = compact(ours), compact(theirs)
    for step in range(3):
        for params in (ours, theirs):
            give_gradients(params, step, dtype)
        compacted.step()
        with torch.no_grad():
            for p in theirs:
                state = plain.state[p]
                for name in ("exp_avg", "exp_avg_sq"):
                    kind = torch.bfloat16 if p.ndim > 1 else torch.float32
                    state.setdefault(name, torch.zeros_like(p, dtype=kind))
                state["step"] = torch.tensor(step + 1.0)
                plain._change(p, plain.param_groups[0])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)
        for name in ("exp_avg", "exp_avg_sq"):
            mine, its = (o.state[p][name] for o, p in ((compacted, one), (plain, other)))
            torch.testing.assert_close(mine, its, rtol=2**-7, atol=0)


def test_kernels_round_as_torch_does() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 5_000, dtype=np.uint32)
    ties = (np.arange(2**8, dtype=np.uint32) << 16) + 0x3F80_8000
    edges = np.array([0.0, -0.0, 1e-45, 3.4e38, np.inf, -np.inf, np.nan], np.float32)
    for x in np.concatenate([bits.view(np.float32), ties.view(np.float32), edges]):
        expected = torch.tensor(x).bfloat16()
        value = widened(rounded(x))
        assert value == expected.item() or (np.isnan(value) and np.isnan(expected.item()))


def test_moments_follow_gradients_of_one_size() -> None:
    """Up from nothing and down from a hundred times as much, to within 2^-8 / 0.02 of the goal."""
    weight = nn.Parameter(torch.zeros(4, 25))
    optimizer = compact([weight])
    sizes = torch.linspace(0.5, 2.0, 100).view(4, 25)
    for factor in (1.0, 10.0, 1.0):
        for _ in range(400):
            weight.grad = factor * sizes
            optimizer.step()
        goal = (factor * sizes) ** 2
        apart = (optimizer.state[weight]["exp_avg_sq"].float() - goal).abs() / goal
        assert apart.max() < 2**-8 / 0.02 / (1 - 2**-8 / 0.02)


def test_a_second_beta_too_large_for_bfloat16_is_refused() -> None:
    with pytest.raises(ValueError, match="0.999"):
        CompactAdamW(weights(), betas=(0.9, 0.999))


def test_a_small_network_trains_as_well_as_with_float32_moments() -> None:
    def last_loss(make: type) -> float:
        torch.manual_seed(0)
        x = torch.randn(200, 17)
        y = torch.tanh(x @ torch.randn(17, 5))
        net = nn.Sequential(nn.Linear(17, 32), nn.Tanh(), nn.Linear(32, 5))
        optimizer = make(list(net.parameters()))
        for _ in range(200):
            loss = (net(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            clip_gradients(optimizer, 1.0)
            optimizer.step()
        return loss.item()

    expected = last_loss(torchs)
    assert expected < 0.01  # it began near 0.8
    assert last_loss(compact) == pytest.approx(expected, rel=0.1)


def test_training_continues_bit_for_bit_from_a_saved_state() -> None:
    def steps(params: list[nn.Parameter], optimizer: CompactAdamW, numbers: range) -> None:
        for step in numbers:
            give_gradients(params, step)
            optimizer.step()

    whole, cut, later = weights(), weights(), weights(1)
    steps(whole, first := compact(whole), range(9))
    steps(cut, before := compact(cut), range(4))
    file = io.BytesIO()
    torch.save([before.state_dict(), [p.data for p in cut]], file)
    file.seek(0)
    state, values = torch.load(file, weights_only=True)
    for p, value in zip(later, values, strict=True):
        p.data.copy_(value)
    after = compact(later)
    after.load_state_dict(state)
    state = after.state[later[0]]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16
    steps(later, after, range(4, 9))
    for one, other in zip(whole, later, strict=True):
        assert torch.equal(one, other)
        for name, value in first.state[one].items():
            assert torch.equal(value, after.state[other][name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clipping_gives_the_step_of_scaled_gradients(dtype: torch.dtype) -> None:
    """And stay as they are: bfloat16 ones would be rounded once more."""
    ours, theirs = weights(), weights()
    give_gradients(ours, 0, dtype)
    give_gradients(theirs, 0)
    first = ours[0].grad.clone()
    compacted, plain = compact(ours), compact(theirs)
    norm = clip_gradients(compacted, 0.5)
    expected = nn.utils.clip_grad_norm_(theirs, 0.5)
    assert norm.item() == pytest.approx(expected.item(), rel=2**-8)  # of rows in bfloat16
    compacted.step()
    plain.step()
    assert torch.equal(ours[0].grad, first)
    for one, other in zip(ours, theirs, strict=True):
        a, b = (o.state[p]["exp_avg"].float() for o, p in ((compacted, one), (plain, other)))
        torch.testing.assert_close(a, b, rtol=2**-7, atol=0)
    give_gradients(ours, 1, dtype)
    compacted.step()  # the next one is not clipped
    assert compacted.factor is None


def test_gradients_below_the_largest_norm_are_not_clipped() -> None:
    params = weights()
    give_gradients(params, 0)
    optimizer = compact(params)
    clip_gradients(optimizer, 1e9)
    assert optimizer.factor == 1.0


def test_other_optimizers_are_clipped_by_torch() -> None:
    def clipped(clip) -> list[Tensor]:
        params = weights()
        give_gradients(params, 0)
        clip(params)
        return [p.grad for p in params]

    ours = clipped(lambda params: clip_gradients(torchs(params), 0.5))
    theirs = clipped(lambda params: nn.utils.clip_grad_norm_(params, 0.5))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
