"""Losses by hand arithmetic."""

import pytest
import torch

from config import TrainConfig
from training.losses import (
    MeshSums,
    Sizes,
    closure_weight,
    ctc_loss,
    latent_loss,
    mesh_losses,
    open_loss,
    sizes_of,
    total_loss,
    velocity_loss,
    vertex_loss,
)


def test_vertex_loss_by_hand() -> None:
    error = torch.zeros(1, 2, 3, 3)
    error[0, 1, 2] = torch.tensor([1.0, 2.0, 3.0])
    assert vertex_loss(error).item() == pytest.approx(14 / 18)


def test_velocity_loss_by_hand_and_of_one_frame() -> None:
    error = torch.zeros(1, 3, 1, 3)
    error[0, 1, 0, 0] = 2.0  # differences +2, then -2
    assert velocity_loss(error).item() == pytest.approx((4 + 4) / 6)
    assert velocity_loss(error[:, :1]).item() == 0


def test_padding_changes_no_loss() -> None:
    torch.manual_seed(0)
    error, junk = torch.randn(1, 5, 7, 3), torch.full((1, 2, 7, 3), 1e3)
    mask = torch.tensor([[True] * 5 + [False] * 2])
    for loss in (vertex_loss, velocity_loss):
        torch.testing.assert_close(loss(torch.cat([error, junk], 1), mask), loss(error))
    assert latent_loss(error[..., 0], error[..., 0]).item() == 0


def padded_clips(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Prediction (one frame longer than the truth), truth, frames of 4 clips; padding is junk."""
    torch.manual_seed(0)
    prediction = torch.randn(4, 8, 5, 3, dtype=dtype, requires_grad=True)
    truth, frames = torch.randn(4, 7, 5, 3, dtype=dtype), torch.tensor([7, 4, 1, 2])
    truth[torch.arange(7) >= frames[:, None]] = 1e3
    return prediction, truth, frames


@pytest.mark.parametrize("n_threads", [1, 3, 9])  # 9: more than a clip has frames
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mesh_losses_equal_those_of_whole_tensors(
    n_threads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    prediction, truth, frames = padded_clips(dtype)
    sizes, lips = sizes_of(frames, frames), torch.tensor([4, 1, 1])
    mask = torch.arange(7) < frames[:, None]
    error = (prediction[:, :7] - truth) * 0.3
    expected = (
        vertex_loss(error, mask, sizes.frames),
        velocity_loss(error, mask, sizes.pairs),
        prediction[:, :7, lips],
    )
    ours = mesh_losses(prediction, truth, frames, sizes, lips, 0.3)
    torch.testing.assert_close(ours, expected)
    gradients = (
        torch.autograd.grad(5 * a + 7 * b + c.square().sum(), prediction)
        for a, b, c in (ours, expected)
    )
    torch.testing.assert_close(*gradients)


def test_gradients_of_mesh_sums_equal_finite_differences() -> None:
    prediction, truth, frames = padded_clips(torch.float64)
    truth, lips = truth.clamp(max=2), torch.tensor([4, 1])
    assert torch.autograd.gradcheck(
        lambda x: MeshSums.apply(x, truth, frames.tolist(), lips), prediction
    )


def test_sums_over_millions_of_numbers_are_exact_to_1e_6() -> None:
    torch.manual_seed(0)
    truth = torch.zeros(1, 60, 15_000, 3)
    prediction, frames = torch.randn_like(truth), torch.tensor([60])
    computed = mesh_losses(prediction, truth, frames, Sizes(1, 60, 59, 0), torch.tensor([0]))
    error = prediction.double()
    assert computed[0].item() == pytest.approx(error.square().mean().item(), rel=1e-6)
    change = error[:, 1:] - error[:, :-1]
    assert computed[1].item() == pytest.approx(change.square().mean().item(), rel=1e-6)


def test_closure_weight_by_hand() -> None:
    truth = torch.zeros(1, 3, 4, 3)
    truth[0, :, 2, 1] = torch.tensor([-0.5, 0.0, 2.0])  # upper minus lower inner lip
    weight = closure_weight(truth[:, :, [2, 0]], gain=3.0, reach=2.0)
    torch.testing.assert_close(weight[0], torch.tensor([4.0, 4.0, 1 + 3 * 0.36787944]))


def test_closure_weight_with_a_gain_of_each_frame() -> None:
    truth = torch.zeros(1, 2, 2, 3)  # both touch
    weight = closure_weight(truth, torch.tensor([[3.0, 7.0]]), reach=2.0)
    torch.testing.assert_close(weight, torch.tensor([[4.0, 8.0]]))


def test_closure_weight_takes_the_mean_opening_of_several_pairs() -> None:
    truth = torch.zeros(1, 1, 4, 3)
    truth[0, 0, :, 1] = torch.tensor([3.0, 0.0, 2.0, 1.0])  # openings 3 and 1
    weight = closure_weight(truth, gain=3.0, reach=2.0)
    assert weight.item() == pytest.approx(1 + 3 * 0.36787944)


def test_open_loss_by_hand() -> None:
    """Lips touch below 1; they should be 1.5 apart, or as far as the true ones if these touch not.

    Too close by nothing (the true ones are pressed), nothing, 1.3 - 1.2 = 0.1 and 1.5 - 0.9 = 0.6;
    the last frame is padding. The gradient moves those two frames alone."""
    true = torch.tensor([[0.0, 3.0, 1.3, 5.0, 5.0]])
    predicted = torch.tensor([[0.7, 2.0, 1.2, 0.9, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True, True, False]])
    loss = open_loss(predicted, true, torch.tensor([[0.1]]), 1.0, mask, 4)
    assert loss.item() == pytest.approx((0.1**2 + 0.6**2) / 4)
    loss.backward()
    expected = torch.tensor([[0.0, 0.0, -0.05, -0.3, 0.0]])
    torch.testing.assert_close(predicted.grad, expected, rtol=1e-5, atol=1e-6)


def test_lips_that_are_too_close_count_less_in_noise_by_hand() -> None:
    """Both frames are 0.5 too close; in the second, three fourths noisy, that counts a fourth.

    The lips of the third are 0.35 too far apart at rest, which counts in noise, too."""
    true, predicted = torch.tensor([[5.0, 5.0, 0.2]]), torch.tensor([[1.0, 1.0, 0.6]])
    mask, noise = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[0.0, 0.75, 1.0]])
    loss = open_loss(predicted, true, torch.tensor([[0.2]]), 1.0, mask, 3, noise)
    assert loss.item() == pytest.approx((0.5**2 * 1.25 + 0.35**2) / 3)


def test_open_loss_shuts_lips_at_rest_by_hand() -> None:
    """The template's lips are 0.2 apart, so all but the fourth rest (within 0.05); 0.25 is free.

    Too far apart are the second (0.8 - 0.25 = 0.55) and third (0.6 - 0.25 = 0.35), not the fourth,
    which is pressed. The fifth is as far as counts, 1, and is not pulled; the last is padding."""
    true = torch.tensor([[0.2, 0.2, 0.24, 0.0, 0.2, 0.2]])
    predicted = torch.tensor([[0.25, 0.8, 0.6, 0.9, 3.0, 0.9]], requires_grad=True)
    mask = torch.tensor([[True, True, True, True, True, False]])
    loss = open_loss(predicted, true, torch.tensor([[0.2]]), 1.0, mask, 5)
    assert loss.item() == pytest.approx((0.55**2 + 0.35**2 + 1) / 5)
    loss.backward()
    expected = torch.tensor([[0.0, 0.22, 0.14, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(predicted.grad, expected, rtol=1e-5, atol=1e-6)


def test_ctc_of_one_certain_path() -> None:
    """Two frames, text "1": paths 11, 01, 10 of uniform 3-way frames have probability 3/9."""
    logits = torch.zeros(1, 2, 3)
    loss = ctc_loss(logits, [torch.tensor([1])], torch.tensor([2]), blank=0)
    assert loss.item() == pytest.approx(-torch.log(torch.tensor(3 / 9)).item(), rel=1e-5)


def test_ctc_of_an_impossible_or_empty_text_is_zero() -> None:
    logits = torch.zeros(1, 2, 3)
    assert ctc_loss(logits, [torch.tensor([1, 1, 2])], torch.tensor([2]), 0).item() == 0
    assert ctc_loss(logits, [torch.tensor([], dtype=torch.long)], torch.tensor([2]), 0).item() == 0


def test_the_total_loss_is_the_weighted_sum_of_its_parts() -> None:
    config = TrainConfig(w_vertex=2, w_velocity=3, w_latent=5, w_ctc=7, w_balance=11, w_lips=13)
    parts = {
        name: torch.tensor(1.0)
        for name in ("vertex", "velocity", "latent", "ctc", "balance", "lips")
    }
    assert total_loss(parts, config).item() == 2 + 3 + 5 + 7 + 11 + 13
