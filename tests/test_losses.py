"""Losses by hand arithmetic."""

import pytest
import torch

from config import TrainConfig
from losses import closure_weight, ctc_loss, latent_loss, total_loss, velocity_loss, vertex_loss


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


def test_closure_weight_by_hand() -> None:
    truth = torch.zeros(1, 3, 4, 3)
    truth[0, :, 2, 1] = torch.tensor([-0.5, 0.0, 2.0])  # upper minus lower inner lip
    weight = closure_weight(truth, torch.tensor([2, 0]), gain=3.0, reach=2.0)
    torch.testing.assert_close(weight[0], torch.tensor([4.0, 4.0, 1 + 3 * 0.36787944]))


def test_ctc_of_one_certain_path() -> None:
    """Two frames, text "1": paths 11, 01, 10 of uniform 3-way frames have probability 3/9."""
    logits = torch.zeros(1, 2, 3)
    loss = ctc_loss(logits, [torch.tensor([1])], torch.tensor([2]), blank=0)
    assert loss.item() == pytest.approx(-torch.log(torch.tensor(3 / 9)).item(), rel=1e-5)


def test_ctc_of_an_impossible_or_empty_text_is_zero() -> None:
    logits = torch.zeros(1, 2, 3)
    assert ctc_loss(logits, [torch.tensor([1, 1, 2])], torch.tensor([2]), 0).item() == 0
    assert ctc_loss(logits, [torch.tensor([], dtype=torch.long)], torch.tensor([2]), 0).item() == 0


def test_total_weighs_every_part() -> None:
    config = TrainConfig(w_vertex=2, w_velocity=3, w_latent=5, w_ctc=7, w_balance=11, w_lips=13)
    parts = {
        name: torch.tensor(1.0)
        for name in ("vertex", "velocity", "latent", "ctc", "balance", "lips")
    }
    assert total_loss(parts, config).item() == 2 + 3 + 5 + 7 + 11 + 13
