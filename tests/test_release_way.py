"""The transcription of the release's training: its weights, its mixture, one step of it."""

from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch
from torch.testing import assert_close

from benchmarks import bench_predict, release_demo, release_way
from benchmarks.release_way import (
    DispatchedMixture,
    ReleaseNetwork,
    make_adam,
    predict_clip,
    train_clip,
)
from config import RECIPES, ModelConfig
from released.network import Mixture, ReleasedJambaTalk

V, LIPS, SAMPLES = 7, torch.tensor([1, 4]), 24_000
KEYS = Path(__file__).resolve().parents[2] / "shared/reference/published_vocaset_keys.txt"
TINY = ModelConfig(
    encoder=dict(
        model_type="wav2vec2", hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, conv_dim=[8] * 7, num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True, layerdrop=0.0,
        mask_time_length=3,
    ),
    n_vertices=V, fps=30, fold=1, d_model=16, d_state=3, moe_d_state=3, n_heads=4, n_kv_heads=4,
    d_ff=20, rope_rank=3,
)  # fmt: skip


@pytest.fixture
def network() -> ReleaseNetwork:
    torch.manual_seed(0)
    return ReleaseNetwork(TINY, LIPS)


@pytest.fixture
def clip() -> tuple[torch.Tensor, ...]:
    """1.5 s: audio (1, S), template (V, 3), vertices (1, 45, V, 3)."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((1, SAMPLES), (V, 3), (1, 45, V, 3))
    return tuple(torch.randn(*shape, generator=generator) for shape in shapes)


@pytest.fixture
def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second expert kept, and room for every frame at every expert."""
    monkeypatch.setattr(release_way, "CAPACITY_FACTOR", 2.0)
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)


def paper_network() -> ReleaseNetwork:
    """The release's VOCASET network, without memory; its teacher has 33 characters."""
    config = RECIPES["vocaset"].model
    paper = ModelConfig(
        encoder=config.encoder | {"vocab_size": 33}, n_vertices=5_023, fps=30, fold=1, n_heads=8
    )
    with torch.device("meta"):
        return ReleaseNetwork(paper, torch.zeros(254, dtype=torch.long))


def test_the_papers_network_has_the_weights_of_the_published_file() -> None:
    if not KEYS.is_file():
        pytest.skip("the list of published weights (../shared/reference) is not here")
    older = {"parametrizations.weight.original0": "weight_g",
             "parametrizations.weight.original1": "weight_v"}  # fmt: skip

    def older_name(name: str) -> str:
        for current, before in older.items():
            name = name.replace(current, before)
        return name

    rows = (line.split("\t") for line in KEYS.read_text().splitlines())
    published = {older_name(name): shape for name, shape, *_ in rows}
    ours = paper_network().state_dict()
    assert {older_name(k): str(tuple(v.shape)) for k, v in ours.items()} == published


def test_the_papers_network_has_777_million_weights_and_trains_457_million_of_them() -> None:
    weights = list(paper_network().parameters())
    assert round(sum(w.numel() for w in weights) / 1e6) == 777
    # all but the teacher (315.5 M) and the encoder's convolutions (4.2 M)
    assert round(sum(w.numel() for w in weights if w.requires_grad) / 1e6) == 457


def test_dispatch_tensors_grow_with_the_square_of_the_frames() -> None:
    mixture = DispatchedMixture(5, 2)
    sizes = [mixture.places(torch.full((1, t, 2), 0.5)).numel() for t in (80, 160)]
    assert sizes == [80 * 2 * 50, 160 * 2 * 100]


def test_a_mixture_with_room_for_all_is_the_weighted_sum_of_its_experts(keep_all: None) -> None:
    torch.manual_seed(0)
    dispatched, plain = DispatchedMixture(5, 2), Mixture(5, 2)
    plain.load_state_dict(dispatched.state_dict())
    x = torch.randn(1, 17, 5)
    assert_close(dispatched(x), plain(x), atol=1e-5, rtol=1e-5)


def test_frames_take_places_in_order_until_an_expert_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "rand_like", torch.ones_like)  # second experts below 1 are dropped
    monkeypatch.setattr(release_way, "SECOND_THRESHOLD", 1.0)
    monkeypatch.setattr(release_way, "MIN_CAPACITY", 1)
    gates = torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]])  # N = int(4·1.25 / 2)
    expected = torch.zeros(1, 4, 2, 2)
    expected[0, 0, 0, 0], expected[0, 1, 0, 1], expected[0, 2, 1, 0] = 0.9, 0.8, 0.7
    assert_close(DispatchedMixture(5, 2).places(gates), expected)


def test_the_network_predicts_as_the_published_one(
    network: ReleaseNetwork, clip: tuple[torch.Tensor, ...], keep_all: None
) -> None:
    published = ReleasedJambaTalk(TINY)
    weights = network.state_dict()
    published.load_state_dict({name: weights[name] for name in published.state_dict()})
    audio, template, _ = clip
    ours, theirs = (net.eval()(audio, template) for net in (network, published))
    assert ours.shape == (1, 44, V, 3)
    assert_close(predict_clip(network, audio, template), ours)  # which runs the lip reader, too
    assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_step_moves_all_but_the_teacher_and_the_convolutions(
    network: ReleaseNetwork, clip: tuple[torch.Tensor, ...]
) -> None:
    before = {name: value.clone() for name, value in network.named_parameters()}
    losses = train_clip(network, make_adam(network), clip)
    assert set(losses) == {"vertex", "velocity", "latent", "ctc"}
    assert all(0 < value < float("inf") for value in losses.values())
    unchanged = {name for name, value in network.named_parameters() if value.equal(before[name])}
    fixed = ("text_encoder.", "audio_encoder.feature_extractor.")
    assert {name for name in unchanged if not name.startswith(fixed)} <= {
        "audio_encoder.masked_spec_embed"  # changes only if a frame was masked
    }
    assert {name for name in before if name.startswith(fixed)} <= unchanged


def test_the_encoders_attention_maps_are_stored(
    network: ReleaseNetwork, clip: tuple[torch.Tensor, ...]
) -> None:
    for _ in range(2):  # those of one step only
        network.losses(*clip)
    assert [tuple(attention.shape) for attention in network.maps] == [(1, 2, 44, 44)] * 2


def test_the_teachers_output_changes_in_every_call(
    network: ReleaseNetwork, clip: tuple[torch.Tensor, ...]
) -> None:
    train_clip(network, make_adam(network), clip)
    first, second = (network.text_encoder(clip[0]).logits for _ in range(2))
    assert not first.equal(second) and not first.requires_grad


def test_the_demo_in_the_releases_way_predicts_through_its_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []
    network = create_autospec(
        bench_predict.network_of,
        return_value=(lambda audio, template: given.append((len(audio), len(template))), None),
    )
    monkeypatch.setattr(release_demo, "network_of", network)
    assert release_demo.predict_s(3.0) >= 0
    network.assert_called_once_with("release")
    assert set(given) == {(32_000, 5_023), (48_000, 5_023)}  # the warm-up, then the clip
