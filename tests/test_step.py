"""The loss and gradient of a clip depend neither on its batch nor on how a step is cut up."""

import pytest
import torch

from files.cache import NoCache
from tests.toy import ENCODERS, LIPS, TRAIN, clip, networks, together
from training.losses import total_loss
from training.networks import Networks
from training.step import Objective, add_sizes, batch_sizes
from training.teacher_targets import TargetSource, same_convolutions


def gradients(nets: Networks, batches: list[dict]) -> tuple[dict, list[torch.Tensor]]:
    """Losses and gradients of one step over several batches."""
    objective = Objective(nets, LIPS, TRAIN)
    targets = TargetSource(nets, None)
    sizes = add_sizes([batch_sizes(batch) for batch in batches])
    objective.zero_grad()
    totals: dict[str, float] = {}
    for batch in batches:
        losses = objective(batch, targets(batch), sizes)
        total_loss(losses, TRAIN).backward()
        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + value.item()
    return totals, [p.grad.clone() for p in objective.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_padded_batch_gives_what_its_clips_give_one_by_one(kind: str) -> None:
    """Losses and every gradient, to 1e-5 of the largest: bucketing and batching change nothing."""
    nets = networks(kind)
    clips = [clip(1.5, 1), clip(0.7, 2), clip(1.1, 3)]
    batched, batched_gradients = gradients(nets, [together(*clips)])
    single, single_gradients = gradients(nets, clips)
    assert batched == pytest.approx(single, rel=1e-5)
    for ours, theirs in zip(batched_gradients, single_gradients, strict=True):
        scale = max(1e-3, theirs.abs().max().item())
        assert (ours - theirs).abs().max() < 1e-5 * scale


def test_losses_of_one_clip_are_plain_means() -> None:
    nets, one = networks(), clip(1.0, 5)
    losses = Objective(nets, LIPS, TRAIN)(one, TargetSource(nets, None)(one), batch_sizes(one))
    predicted, balance = nets.model(one["audio"], one["template"])
    error = predicted - one["vertices"]
    assert losses["vertex"].item() == pytest.approx(error.square().mean().item(), rel=1e-5)
    velocity = (error[:, 1:] - error[:, :-1]).square().mean().item()
    assert losses["velocity"].item() == pytest.approx(velocity, rel=1e-5)
    assert losses["balance"].item() == pytest.approx(balance.item(), rel=1e-6)


def test_equal_frozen_convolutions_are_shared() -> None:
    nets = networks()
    assert same_convolutions(nets.teacher, nets.model.encoder)
    with torch.no_grad():
        next(nets.model.encoder.body.feature_extractor.parameters()).add_(0.1)
    assert not same_convolutions(nets.teacher, nets.model.encoder)
    nets = networks()
    for parameter in nets.model.encoder.body.feature_extractor.parameters():
        parameter.requires_grad_(True)
    assert not same_convolutions(nets.teacher, nets.model.encoder)


def test_targets_of_whole_clips_are_bit_equal_with_and_without_a_cache(tmp_path) -> None:
    nets = networks()
    batch = together(clip(1.5, 1), clip(0.7, 2)) | {"keys": ["one", "two"]}
    bare = TargetSource(nets, None)
    assert isinstance(bare.cache, NoCache)
    cached = TargetSource(nets, str(tmp_path))
    first, expected = cached(batch), bare(batch)
    nets.teacher.forward = None  # from here on, only the cache can answer
    for targets in (first, cached(batch)):
        assert torch.equal(targets.conv, expected.conv)
        assert torch.equal(targets.features, expected.features)
        assert all(torch.equal(a, b) for a, b in zip(targets.texts, expected.texts, strict=True))


def test_targets_of_single_clips_and_of_a_batch_agree() -> None:
    nets = networks()
    batch = together(clip(1.5, 1), clip(0.7, 2))
    padded, alone = (
        TargetSource(nets, None)(batch),
        TargetSource(nets, None)(batch | {"keys": "ab"}),
    )
    frames = [74, 34]
    for i, n in enumerate(frames):
        torch.testing.assert_close(padded.features[i, :n], alone.features[i, :n])
        assert torch.equal(padded.texts[i], alone.texts[i])


def test_checkpointed_activations_give_the_same_gradients() -> None:
    nets, one = networks(), clip(1.0, 5)
    nets.model.train()
    plain = gradients(nets, [one])
    nets.model.checkpoint_activations()
    again = gradients(nets, [one])
    assert plain[0] == pytest.approx(again[0], rel=1e-6)
    for ours, theirs in zip(plain[1], again[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
