"""The mixture of experts: routing by hand, determinism, cost linear in the clip's length."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from layers.moe import MixtureOfExperts, MoEMambaLayer, TopKRouter, balance_loss

SIZES = [(2, 2), (2, 1), (5, 2), (5, 5)]  # n_experts, top_k


def make_mixture(n_experts=5, top_k=2, d_model=6, d_ff=7):
    torch.manual_seed(0)
    mixture = MixtureOfExperts(d_model, d_ff, n_experts, top_k)
    torch.nn.init.normal_(mixture.router.gate.weight)
    return mixture.double()


@pytest.mark.parametrize(("n_experts", "top_k"), SIZES)
def test_mixture_equals_a_plain_loop_over_frames(n_experts, top_k):
    mixture = make_mixture(n_experts, top_k)
    x = torch.randn(2, 11, 6, dtype=torch.float64)
    y, _ = mixture(x)
    for b in range(2):
        for t in range(11):
            p = torch.softmax(mixture.router.gate.weight @ x[b, t], 0).float()
            best = p.argsort(descending=True)[:top_k]
            total = p[best].sum() if top_k > 1 else 1
            expected = sum(p[e] / total * mixture.experts[e](x[b, t]) for e in best.tolist())
            assert_close(y[b, t], expected, rtol=1e-5, atol=1e-6)


def test_gates_of_the_chosen_experts_sum_to_one():
    gates, _ = make_mixture(5, 3).router(torch.randn(2, 11, 6, dtype=torch.float64))
    assert ((gates > 0).sum(-1) == 3).all()
    assert_close(gates.sum(-1), torch.ones(2, 11, dtype=torch.float64), rtol=1e-6, atol=0)


def test_balance_loss_by_hand():
    probabilities = torch.tensor(
        [[[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]], [[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]]]
    )
    first = torch.tensor([[0, 1], [0, 2]])
    mask = torch.tensor([[True, True], [True, False]])
    # clip 1: f = (1/2, 1/2, 0), P = (0.4, 0.4, 0.2): 3 · 0.4
    # clip 2, one real frame: f = (1, 0, 0), P = (0.7, 0.2, 0.1): 3 · 0.7
    assert balance_loss(probabilities, first, mask).tolist() == pytest.approx([1.2, 2.1])
    # clip 2 whole: f = (1/2, 0, 1/2), P = (0.35, 0.1, 0.55): 3 · 0.45
    assert balance_loss(probabilities, first).tolist() == pytest.approx([1.2, 1.35])


def test_balance_loss_is_one_when_even_and_n_experts_when_one_takes_all():
    even = torch.full((1, 4, 4), 0.25)
    assert balance_loss(even, torch.tensor([[0, 1, 2, 3]])).item() == pytest.approx(1)
    taken = torch.tensor([1.0, 0, 0, 0]).expand(1, 4, 4)
    assert balance_loss(taken, torch.zeros(1, 4, dtype=torch.long)).item() == pytest.approx(4)


@pytest.mark.parametrize(("n_experts", "top_k"), SIZES)
def test_balance_loss_and_output_both_train_the_router(n_experts, top_k):
    mixture = make_mixture(n_experts, top_k)
    y, balance = mixture(torch.randn(2, 11, 6, dtype=torch.float64))
    weight = mixture.router.gate.weight
    for loss in (y.square().sum(), balance.sum()):
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert gradient.abs().max() > 0


def test_minimising_the_balance_loss_spreads_frames_over_experts():
    torch.manual_seed(0)
    router = TopKRouter(6, 4, 1)
    x = torch.randn(1, 211, 6) + 1  # a common direction, so that one expert can take all frames
    torch.nn.init.normal_(router.gate.weight)
    weight = router.gate.weight
    start = router(x)[1].item()
    for _ in range(60):
        (gradient,) = torch.autograd.grad(router(x)[1], weight)
        weight.data -= gradient
    assert start > 1.3 and router(x)[1].item() < 1.1


@pytest.mark.parametrize(("n_experts", "top_k"), SIZES)
def test_evaluation_is_bit_equal_twice(n_experts, top_k):
    torch.manual_seed(0)
    layer = MoEMambaLayer(12, 17, n_experts, top_k, dropout=0.5).eval()
    x = torch.randn(2, 31, 12)
    (y, balance), (again, balance_again) = layer(x), layer(x)
    assert torch.equal(y, again) and torch.equal(balance, balance_again)


@pytest.mark.parametrize(("n_experts", "top_k"), SIZES)
def test_padded_batch_gives_each_clip_the_values_it_gets_alone(n_experts, top_k):
    torch.manual_seed(0)
    layer = MoEMambaLayer(12, 17, n_experts, top_k)
    x = torch.randn(2, 41, 12)
    mask = torch.ones(2, 41, dtype=torch.bool)
    mask[1, 29:] = False
    together, balance = layer(x, mask)
    assert_close(together[0], layer(x[:1])[0][0], rtol=1e-5, atol=1e-6)
    assert_close(together[1, :29], layer(x[1:, :29])[0][0], rtol=1e-5, atol=1e-6)
    noise = x.clone()
    noise[1, 29:] = 100
    assert_close(layer(noise, mask)[1], balance, rtol=1e-6, atol=0)


class CountElements(TorchDispatchMode):
    """Counts the elements that every operation writes: a measure of work and of memory."""

    total = 0
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.total += tensor.numel()
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize(("n_experts", "top_k"), SIZES)
def test_mixture_is_linear_in_the_number_of_frames(n_experts, top_k):
    mixture = make_mixture(n_experts, top_k)
    counts = []
    for frames in (500, 2000):
        with CountElements() as count:
            mixture(torch.randn(1, frames, 6, dtype=torch.float64))[0].sum().backward()
        counts.append(count)
    assert counts[1].total < 4.1 * counts[0].total
    assert counts[1].largest <= 2000 * n_experts * 7


def test_each_expert_processes_only_its_own_frames():
    mixture = make_mixture(5, 2)
    n_frames = []
    for expert in mixture.experts:
        expert.register_forward_hook(lambda module, args, out: n_frames.append(len(args[0])))
    mixture(torch.randn(3, 13, 6, dtype=torch.float64))
    assert sum(n_frames) == 3 * 13 * 2


def test_top_k_above_the_number_of_experts_is_refused():
    with pytest.raises(ValueError, match="top_k 3 is not between 1 and n_experts 2"):
        MixtureOfExperts(6, 7, n_experts=2, top_k=3)
