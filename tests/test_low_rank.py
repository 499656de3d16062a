"""The losses of low-rank motion equal those of its meshes."""

import dataclasses

import pytest
import torch

from jambatalk import JambaTalk
from tests.toy import CLIPS, LIPS, TRAIN, V, networks, together
from training.losses import total_loss
from training.networks import Networks, start_components
from training.step import Objective, batch_sizes
from training.teacher_targets import TargetSource

K = 5


def low_rank_networks(units: float = 1.0) -> Networks:
    """Networks with a vertex head of rank 4."""
    nets = networks()
    config = dataclasses.replace(nets.model.config, vertex_rank=4, units_per_metre=units)
    torch.manual_seed(3)
    nets.model = JambaTalk(config)
    torch.nn.init.normal_(nets.model.head.offsets.weight)
    torch.nn.init.normal_(nets.model.head.offsets.bias)
    nets.model.encoder.freeze_features()
    nets.loss_scale = 0.7
    return nets


def both(batch: dict) -> tuple[dict, dict]:
    """A batch whose motion is given by curves and basis, and the same with its vertices."""
    generator = torch.Generator().manual_seed(1)
    n_frames = batch["vertices"].shape[1]
    curves = torch.randn(len(batch["names"]), n_frames, K, generator=generator)
    basis = torch.randn(K, V, 3, generator=generator)
    plain = {name: value for name, value in batch.items() if name != "vertices"}
    vertices = batch["template"][:, None] + torch.tensordot(curves, basis, dims=1)
    return plain | {"curves": curves, "basis": basis}, plain | {"vertices": vertices}


@pytest.mark.parametrize("units", [1.0, 25.0])
def test_losses_and_gradients_equal_those_of_the_meshes(units: float) -> None:
    """To 1e-4 of each gradient's largest value, on a padded batch."""
    results, config = [], dataclasses.replace(TRAIN, w_open=1.0)
    for batch in both(together(*CLIPS)):
        nets = low_rank_networks(units)
        nets.touch = 0.5
        objective = Objective(nets, LIPS, config)
        losses = objective(batch, TargetSource(nets, None)(batch), batch_sizes(batch))
        assert losses["open"] > 0
        total_loss(losses, config).backward()
        gradients = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
        results.append(({name: value.item() for name, value in losses.items()}, gradients))
    (losses, ours), (expected, theirs) = results
    assert losses == pytest.approx(expected, rel=1e-4)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max() + 1e-5, name


def test_closures_weigh_more_in_noise_and_lips_that_nearly_touch_less() -> None:
    """In noise 1 the gain of closures is 2 + 3, and only lips open at rest count as open."""
    batch, _ = both(together(*CLIPS))
    frames = batch["curves"].shape[:2]

    def losses(noise: float | None, **changes: float) -> dict[str, float]:
        nets = low_rank_networks()
        nets.touch = 0.5
        nets.model.eval()
        config = dataclasses.replace(TRAIN, w_open=1.0, **changes)
        given = batch if noise is None else batch | {"noise": torch.full(frames, noise)}
        targets = TargetSource(nets, None)(given)
        found = Objective(nets, LIPS, config)(given, targets, batch_sizes(given))
        return {name: found[name].item() for name in ("lips", "open", "vertex")}

    clean = losses(0.0, closure_gain=2.0, noisy_gain=3.0)
    assert clean == losses(None, closure_gain=2.0)
    noisy = losses(1.0, closure_gain=2.0, noisy_gain=3.0)
    assert noisy["lips"] == pytest.approx(losses(None, closure_gain=5.0)["lips"])
    assert noisy["lips"] > clean["lips"] and noisy["vertex"] == clean["vertex"]
    assert noisy["open"] < clean["open"]
    half = losses(0.5, closure_gain=2.0)["open"]
    assert half == pytest.approx((clean["open"] + noisy["open"]) / 2)


def test_components_of_curves_are_those_of_the_vertices() -> None:
    heads = []
    for batch in both(together(*CLIPS)):
        nets = low_rank_networks()
        torch.manual_seed(0)
        start_components(nets.model, [batch])
        heads.append(nets.model.head.offsets)
    torch.testing.assert_close(heads[0].bias, heads[1].bias, atol=1e-5, rtol=1e-4)
    products = [head.weight @ head.weight.T for head in heads]  # components are known up to signs
    torch.testing.assert_close(*products, atol=1e-3, rtol=1e-3)


def test_the_loss_of_details_is_that_of_their_vertices() -> None:
    low, plain = both(together(*CLIPS))
    nets, config = low_rank_networks(), dataclasses.replace(TRAIN, w_details=1.0)
    details = torch.tensor([1, 9])
    batch = low | {"details": details}
    sizes, targets = batch_sizes(batch), TargetSource(nets, None)(batch)
    nets.model.eval()
    got = Objective(nets, LIPS, config)(batch, targets, sizes)["details"]
    samples = plain["audio_samples"]
    predicted = nets.model(plain["audio"], plain["template"], samples)[0]
    error = 0.7 * (predicted - plain["vertices"])[:, :, details]
    real = torch.cat([row[:n] for row, n in zip(error, plain["frames"], strict=True)])
    assert got.item() == pytest.approx(real.square().mean().item(), rel=1e-4)
