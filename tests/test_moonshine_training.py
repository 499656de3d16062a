"""Moonshine in a network: the mean of its states, what is trained, its folders, whole runs."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.errors import UserError
from common.overrides import from_dict
from config import RECIPES, ModelConfig, Recipe, TrainConfig
from jambatalk import JambaTalk, load_checkpoint, save_checkpoint
from speech.bodies import body_of, transformers_config
from speech.moonshine import encoder_states
from speech.pretrained import encoder_of, load_pretrained
from speech.timing import mesh_frames
from tests.toy import (
    DECODER,
    V,
    loaded_encoder,
    moonshine_folder,
    outcome,
    run_toy,
    run_until_killed,
    same,
    toy_recipe,
)
from training.networks import build
from training.optimizer import parameter_groups
from wav2vec import SpeechEncoder, TextTeacher

BOXED = "synthetic/encoder"
MIXED = ("--set", "model.mix_layers=true")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A tiny untrained encoder on disk."""
    (tmp_path / "moon").mkdir()
    return moonshine_folder(tmp_path / "moon")


def test_without_a_mix_the_features_are_the_last_state(folder: str) -> None:
    encoder = loaded_encoder(folder)
    conv = torch.randn(1, 10, 3 * 16)
    assert torch.equal(encoder.transform(conv), conv[..., 32:])


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("kind", ["moonshine", "wav2vec2", "wav2vec2-bert"])
def test_a_mix_of_one_state_is_that_state_normalised(kind: str, index: int, folder: str) -> None:
    """States of wav2vec2 are those that transformers returns."""
    from transformers import Wav2Vec2Model

    others = dict(
        model_type=kind, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, num_conv_pos_embedding_groups=2, num_conv_pos_embeddings=4,
        conv_dim=[8] * 7, feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    config = encoder_of(folder, {}) if kind == "moonshine" else others
    torch.manual_seed(1)
    encoder = SpeechEncoder(config, 50, 1, mix_layers=True).eval()
    theirs = encoder.body
    if kind == "wav2vec2":
        theirs = Wav2Vec2Model(transformers_config(config)).eval()
        theirs.load_state_dict(encoder.body.state_dict())
    audio = torch.randn(1, 8_000)
    with torch.no_grad():
        encoder.mix.copy_(1e4 * torch.eye(3)[index])
        conv = encoder.convolve(audio)
        if kind == "moonshine":
            read = encoder.kind.at_mesh_rate(encoder.body, conv, 50, 1, 8_000)
            state = read[..., 16 * index : 16 * (index + 1)]
        else:
            inputs = audio if kind == "wav2vec2" else conv
            state = theirs(inputs, output_hidden_states=True).hidden_states[index]
        expected = F.layer_norm(state, (16,))
        torch.testing.assert_close(encoder(audio), expected, atol=1e-5, rtol=1e-4)


def test_a_layer_that_layer_drop_skips_passes_its_input_on(folder: str) -> None:
    config = dict(
        model_type="wav2vec2", hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, num_conv_pos_embedding_groups=2, conv_dim=[8] * 7, layerdrop=1.0,
        apply_spec_augment=False, hidden_dropout=0.0,
    )  # fmt: skip
    encoder = SpeechEncoder(config, 50, 1, mix_layers=True).train()
    states = encoder.kind.states(encoder.body, encoder.convolve(torch.randn(1, 4_000)))
    assert states.shape == (1, 12, 4, 16)
    assert all(torch.equal(states[:, :, i], states[:, :, 0]) for i in (1, 2))


def test_only_the_mix_is_trained(folder: str) -> None:
    encoder = loaded_encoder(folder, mix_layers=True).train()
    encoder(torch.randn(1, 16_000)).sum().backward()
    with_gradient = {name for name, p in encoder.named_parameters() if p.grad is not None}
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert with_gradient == trained == {"mix"}


def test_the_mix_is_trained_at_the_decoders_rate_without_decay(folder: str, tmp_path: Path) -> None:
    recipe = mixed(toy_recipe(tmp_path / "toy"), folder)
    nets = build(recipe, torch.device("cpu"), 3, torch.tensor([2, 3]))
    _, body, plain = parameter_groups(nets, TrainConfig())
    assert body["params"] == []
    assert any(p is nets.model.encoder.mix for p in plain["params"])


def mixed(recipe: Recipe, source: str) -> Recipe:
    """`recipe` on the encoder of `source`, with the mean of its states."""
    model = replace(recipe.model, encoder=encoder_of(source, {}), mix_layers=True)
    return replace(recipe, model=model, wav2vec2=source)


def test_the_recipes_dropouts_are_not_those_of_a_frozen_transformer() -> None:
    for name in ("synthetic", "vocaset"):
        encoder = encoder_of(BOXED, RECIPES[name].model.encoder)
        assert encoder == {"model_type": "moonshine", "pad_head_dim_to_multiple_of": 8}
        assert encoder_of(BOXED, encoder) is encoder


def test_a_checkpoint_stores_the_mix_and_older_ones_have_none(folder: str, tmp_path: Path) -> None:
    recipe = mixed(toy_recipe(tmp_path / "toy"), folder)
    model = JambaTalk(recipe.model).eval()
    nn.init.normal_(model.head.offsets.weight, std=0.02)
    nn.init.normal_(model.encoder.mix)
    save_checkpoint(tmp_path / "model.safetensors", model, recipe.dataset)
    again = load_checkpoint(tmp_path / "model.safetensors").model
    audio, template = torch.randn(16_000), torch.randn(V, 3)
    assert torch.equal(again.predict(audio, template), model.predict(audio, template))
    older = dataclasses.asdict(recipe.model)
    del older["mix_layers"]
    assert JambaTalk(from_dict(ModelConfig, older)).encoder.mix is None


def test_long_audio_is_streamed_in_windows_of_all_its_frames(folder: str) -> None:
    config = ModelConfig(
        encoder=encoder_of(folder, {}), n_vertices=V, fps=30, fold=2, mix_layers=True, **DECODER
    )
    parts = list(JambaTalk(config).stream(torch.randn(16_000 * 30), torch.randn(V, 3)))
    assert len(parts) > 1 and sum(map(len, parts)) == mesh_frames(16_000 * 30, 30)


def test_the_teacher_has_the_last_state_and_no_text(folder: str) -> None:
    teacher = TextTeacher(load_pretrained(folder))
    audio = torch.randn(1, 8_000)
    features, logits = teacher(audio)
    assert (teacher.width, teacher.n_characters) == (16, 1)
    expected = teacher.kind.at_audio_rate(teacher.convolve(audio), 8_000, None)[..., 32:]
    assert torch.equal(features, expected) and logits.shape == (1, 24, 1)


def test_rounded_weights_leave_the_frozen_encoder_in_float32(folder: str) -> None:
    teacher, audio = TextTeacher(load_pretrained(folder)), torch.randn(1, 8_000)
    before = teacher(audio)[0]
    teacher.round_weights(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher(audio)[0], before)


def test_a_folder_of_the_whole_moonshine_model_is_an_encoder_too(tmp_path: Path) -> None:
    from transformers import MoonshineConfig, MoonshineForConditionalGeneration

    config = MoonshineConfig(
        hidden_size=16, intermediate_size=32, encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=1, encoder_num_attention_heads=2, decoder_num_attention_heads=2,
        vocab_size=20,
    )  # fmt: skip
    whole = MoonshineForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    audio = torch.randn(1, 8_000)
    with torch.no_grad():
        ours = encoder_states(body_of(load_pretrained(str(tmp_path))), audio)
        theirs = whole.model.encoder(audio, output_hidden_states=True).hidden_states
    torch.testing.assert_close(ours, torch.cat(theirs, -1))


def _spoilt(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_spoilt(lambda w: w.pop("conv1.weight")), "Missing key"),
        (_spoilt(lambda w: w.update({"conv1.weight": w["conv1.weight"].byte()})), "without conv1"),
        (lambda f: (f / "model.safetensors").unlink(), "No such file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "cannot be loaded"),
    ],
)
def test_a_damaged_folder_is_reported_in_one_line(
    spoil: Callable[[Path], None], reason: str, folder: str
) -> None:
    spoil(Path(folder))
    with pytest.raises(UserError, match="cannot be loaded.*needs config.json") as caught:
        load_pretrained(folder)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_training_on_it_resumes_bit_equal_and_is_recorded(
    recipe: Recipe, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the cache, the lip reader, and the mix; killed after two steps."""
    flags = ("--encoder", folder, "--cache", "cache", *MIXED)
    assert run_toy("--out", "whole", *flags) == 0
    run_until_killed(monkeypatch, 2, "--out", "cut", "--save_every", "0.0000001", *flags)
    assert run_toy("--out", "cut", "--resume", *flags) == 0
    same("whole", "cut")
    weights, rows = outcome("whole")
    assert weights["encoder.mix"].any()  # trained
    recorded = json.loads(Path("whole/run.json").read_text())["recipe"]
    assert recorded["model"]["mix_layers"] is True
    assert float(rows[-1]["latent"]) > 0


def test_the_older_name_of_the_flag_gives_the_same_run(recipe: Recipe, folder: str) -> None:
    assert run_toy("--out", "new", "--encoder", folder) == 0
    assert run_toy("--out", "old", "--wav2vec2", folder) == 0
    same("new", "old")


def test_training_with_recomputed_activations_gives_the_same_run(
    recipe: Recipe, folder: str
) -> None:
    flags = ("--encoder", folder, *MIXED)
    assert run_toy("--out", "plain", *flags) == 0
    assert run_toy("--out", "recomputed", *flags, "train.checkpointing=true") == 0
    same("plain", "recomputed")
