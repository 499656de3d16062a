"""Losses by products with the vertex head, against those of predicted meshes."""

import pytest
import torch

from layers.vertex_head import VertexHead
from training.head_products import HeadSums, head_losses, saves_time
from training.losses import mesh_losses, sizes_of

B, T, V, D = 3, 7, 11, 5
FRAMES = torch.tensor([7, 4, 1])
LIPS = torch.tensor([4, 1, 1])


def case(rank: int) -> tuple[VertexHead, torch.Tensor, dict]:
    """A head with random weights, its input (one frame longer than the truth), and a batch."""
    torch.manual_seed(0)
    head, x = VertexHead(D, V, rank), torch.randn(B, T + 1, D, requires_grad=True)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    template = torch.randn(B, V, 3)
    truth = template[:, None] + torch.randn(B, T, V, 3)
    truth[torch.arange(T) >= FRAMES[:, None]] = 1e3  # padding
    return head, x, {"vertices": truth, "template": template, "frames": FRAMES}


@pytest.mark.parametrize("units", [1.0, 3.0])
@pytest.mark.parametrize("rank", [0, 2])
def test_they_equal_those_of_predicted_meshes(rank: int, units: float) -> None:
    head, x, batch = case(rank)
    sizes = sizes_of(FRAMES, FRAMES)
    prediction = batch["template"][:, None] + head(x) * units
    *expected, lips = mesh_losses(prediction, batch["vertices"], FRAMES, sizes, LIPS, 0.3)
    expected.append(lips - batch["template"][:, None, LIPS])
    ours = head_losses(head, units, x, batch, sizes, LIPS, 0.3)
    torch.testing.assert_close(ours, tuple(expected))
    inputs = [x, *head.parameters()]
    gradients = (
        torch.autograd.grad(5 * a + 7 * b + c.square().mean(), inputs)
        for a, b, c in (ours, expected)
    )
    torch.testing.assert_close(*gradients)


def test_gradients_equal_finite_differences() -> None:
    torch.manual_seed(0)
    x, weight, bias = (
        torch.randn(size, dtype=torch.float64, requires_grad=True)
        for size in ((B, T, D), (3 * V, D), (3 * V,))
    )
    truth, template = torch.randn(B, T, V, 3).double(), torch.randn(B, V, 3).double()
    rows = torch.tensor([2, 0, 2])
    assert torch.autograd.gradcheck(
        lambda *inputs: HeadSums.apply(*inputs, truth, template, FRAMES, rows), (x, weight, bias)
    )


@pytest.mark.parametrize(("size", "exact_to"), [(3e-4, 1e-4), (3e-5, 5e-3)])
def test_errors_that_are_small_beside_the_motion(size: float, exact_to: float) -> None:
    """Errors of a tenth and a hundredth of the motion, which is a thirtieth of the face."""
    torch.manual_seed(0)
    head, x = VertexHead(8, 5_000, 0), torch.randn(1, 60, 8)
    torch.nn.init.normal_(head.offsets.weight, std=1e-3)
    template, error = 0.1 * torch.randn(1, 5_000, 3), size * torch.randn(1, 60, 5_000, 3)
    truth = (template.double()[:, None] + head(x).double() - error.double()).float()
    batch = {"vertices": truth, "template": template, "frames": torch.tensor([60])}
    sizes = sizes_of(batch["frames"], batch["frames"])
    vertex, velocity, _ = head_losses(head, 1.0, x, batch, sizes, LIPS, 1.0)
    exact_error = template.double()[:, None] + head(x).double() - truth.double()
    assert vertex.item() == pytest.approx(exact_error.square().mean().item(), rel=exact_to)
    change = (exact_error[:, 1:] - exact_error[:, :-1]).square().mean().item()
    assert velocity.item() == pytest.approx(change, rel=exact_to)


def test_they_are_used_where_frames_are_many_and_columns_few() -> None:
    x = torch.zeros(2, 20, 16)
    assert saves_time(VertexHead(16, V, 0), x, torch.tensor([44, 20]))
    assert not saves_time(VertexHead(16, V, 0), x, torch.tensor([43, 20]))
    assert saves_time(VertexHead(16, V, 8), x, torch.tensor([12, 20]))
