"""A clip's loss and gradient do not depend on its neighbours, nor on how a step is cut up."""

import pytest
import torch

from files.cache import NoCache
from tests.toy import ENCODERS, LIPS, TRAIN, clip, networks, together
from training.losses import total_loss
from training.networks import Networks
from training.objective import Learner, add_sizes, batch_sizes, losses_of
from training.teacher_targets import Hearing, same_convolutions


def gradients(nets: Networks, batches: list[dict]) -> tuple[dict, list[torch.Tensor]]:
    """Losses and gradients of one step over several batches."""
    learner = Learner(nets, LIPS, TRAIN)
    hearing = Hearing(nets, None)
    sizes = add_sizes([batch_sizes(batch) for batch in batches])
    learner.zero_grad()
    totals: dict[str, float] = {}
    for batch in batches:
        parts = learner(batch, hearing(batch), sizes)
        total_loss(parts, TRAIN).backward()
        for name, value in parts.items():
            totals[name] = totals.get(name, 0.0) + value.item()
    return totals, [p.grad.clone() for p in learner.parameters() if p.grad is not None]


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


def test_one_clip_by_itself_has_the_plain_means() -> None:
    nets, one = networks(), clip(1.0, 5)
    losses = losses_of(nets, one, LIPS, TRAIN)
    predicted, balance = nets.model(one["audio"], one["template"])
    error = predicted - one["vertices"]
    assert losses["vertex"].item() == pytest.approx(error.square().mean().item(), rel=1e-5)
    velocity = (error[:, 1:] - error[:, :-1]).square().mean().item()
    assert losses["velocity"].item() == pytest.approx(velocity, rel=1e-5)
    assert losses["balance"].item() == pytest.approx(balance.item(), rel=1e-6)


def test_shared_convolutions_are_noticed() -> None:
    nets = networks()
    assert same_convolutions(nets.teacher, nets.model.encoder)
    with torch.no_grad():
        next(nets.model.encoder.body.feature_extractor.parameters()).add_(0.1)
    assert not same_convolutions(nets.teacher, nets.model.encoder)
    nets = networks()
    for parameter in nets.model.encoder.body.feature_extractor.parameters():
        parameter.requires_grad_(True)
    assert not same_convolutions(nets.teacher, nets.model.encoder)


def test_context_layers_are_trained_behind_shared_convolutions() -> None:
    nets = networks("context")
    assert Hearing(nets, None).shared
    shared = gradients(nets, [clip(1.0, 5)])
    assert all(p.grad is not None for p in nets.model.encoder.body.context.parameters())
    with torch.no_grad():
        next(nets.teacher.body.feature_extractor.parameters()).add_(1e-9)
    assert not Hearing(nets, None).shared
    own = gradients(nets, [clip(1.0, 5)])
    assert shared[0] == pytest.approx(own[0], rel=1e-5)
    for ours, theirs in zip(shared[1], own[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_whole_clips_heard_with_and_without_a_cache_are_the_same_bits(tmp_path) -> None:
    nets = networks()
    batch = together(clip(1.5, 1), clip(0.7, 2)) | {"keys": ["one", "two"]}
    bare = Hearing(nets, None)
    assert isinstance(bare.cache, NoCache)
    kept = Hearing(nets, str(tmp_path))
    first, wanted = kept(batch), bare(batch)
    nets.teacher.forward = None  # from here on, only the cache can answer
    for found in (first, kept(batch)):
        assert torch.equal(found.conv, wanted.conv)
        assert torch.equal(found.features, wanted.features)
        assert all(torch.equal(a, b) for a, b in zip(found.texts, wanted.texts, strict=True))


def test_clips_heard_one_by_one_or_as_a_batch_agree() -> None:
    nets = networks()
    batch = together(clip(1.5, 1), clip(0.7, 2))
    padded, alone = Hearing(nets, None)(batch), Hearing(nets, None)(batch | {"keys": "ab"})
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
