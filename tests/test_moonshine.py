"""Moonshine as the encoder: its windows, the mean of its states, what of it is trained."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.overrides import from_dict
from config import PROJECT_ROOT, RECIPES, ModelConfig, Recipe, TrainConfig
from jambatalk import JambaTalk, load_checkpoint, save_checkpoint
from speech.audio import normalise, read_audio
from speech.bodies import body_of
from speech.level import even_level
from speech.moonshine import encoder_states, mesh_instants, read_at, window_states
from speech.pretrained import encoder_of, load_pretrained
from speech.timing import audio_frames, mesh_frames
from tests.toy import (
    DECODER,
    V,
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


@pytest.fixture(scope="module")
def boxed() -> nn.Module:
    """The included encoder."""
    return body_of(load_pretrained(BOXED)).eval()


@pytest.fixture(scope="module")
def speech() -> Tensor:
    """14 s of a recording, normalised (1, S)."""
    audio = read_audio(PROJECT_ROOT / "demo/wav/sense_and_sensibility.wav")
    return torch.from_numpy(normalise(np.concatenate([audio, audio])))[None]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A tiny untrained encoder on disk."""
    (tmp_path / "moon").mkdir()
    return moonshine_folder(tmp_path / "moon")


def loaded(source: str, mix_layers: bool = False) -> SpeechEncoder:
    """The encoder at 30 fps with the weights of `source`."""
    encoder = SpeechEncoder(encoder_of(source, {}), 30, 2, mix_layers).eval()
    encoder.body.load_state_dict(body_of(load_pretrained(source)).state_dict())
    encoder.freeze_features()
    return encoder


def split(states: Tensor, width: int = 288) -> Tensor:
    """Normalised states (A, L, C) of states (1, A, L·C)."""
    return F.layer_norm(states[0].unflatten(-1, (-1, width)), (width,))


@pytest.mark.parametrize("n_samples", [400, 719, 895, 1_279, 16_000, 32_000, 32_500, 32_767,
                                       35_000, 64_500, 99_999])  # fmt: skip
def test_frame_counts(folder: str, n_samples: int) -> None:
    """Own frames as the convolutions give them, audio and mesh frames as of the other kinds."""
    encoder = loaded(folder)
    audio = torch.randn(1, n_samples)
    conv = encoder.convolve(audio)
    own = 1
    if n_samples >= 895:
        body = encoder.body
        own = body.conv3(body.conv2(body.conv1(audio[:, None]))).shape[-1]
    assert conv.shape == (1, own, 3 * 16)
    at_50_hz = encoder.kind.at_audio_rate(conv, n_samples, None)
    assert at_50_hz.shape == (1, audio_frames(n_samples), 3 * 16)
    assert encoder(audio).shape == (1, mesh_frames(n_samples, 30), 2 * 16)


def test_a_clip_shorter_than_a_frame_of_wav2vec_is_refused(folder: str) -> None:
    with pytest.raises(ValueError, match="399 samples, expected at least 400"):
        loaded(folder).convolve(torch.randn(1, 399))


def test_the_first_frame_is_centred_at_sample_447(folder: str) -> None:
    """Frame 0 of the convolutions depends on 895 samples, symmetric about 447."""
    body = body_of(load_pretrained(folder))
    audio = torch.randn(1, 3_000, requires_grad=True)
    body.conv3(body.conv2(body.conv1(audio[:, None])))[0, :, 0].sum().backward()
    reached = audio.grad[0].nonzero().flatten()
    assert (int(reached.min()) + int(reached.max())) / 2 == 447


def test_reading_is_linear_between_frame_centres_and_constant_outside() -> None:
    ramp = torch.arange(3.0)[None, :, None]  # value = frame
    samples = torch.tensor([0, 447, 447 + 96, 447 + 384 + 192, 447 + 2 * 384, 9_999])
    assert read_at(ramp, samples)[0, :, 0].tolist() == [0, 0, 0.25, 1.5, 2, 2]


def test_frames_behind_a_clips_last_are_not_read() -> None:
    ramp = torch.arange(4.0)[None, :, None].expand(2, -1, -1)
    read = read_at(ramp, torch.tensor([447 + 384.0, 9_999]), torch.tensor([3, 1]))
    assert read[..., 0].tolist() == [[1, 3], [1, 1]]


def test_a_mesh_frame_reads_symmetrically_about_its_own_instant() -> None:
    """At 30 fps and k = 2, frame 3 is at 100 ms: 1600 samples, and 133.3 on either side."""
    pair = mesh_instants(6, 8, 30, 2)
    np.testing.assert_allclose(pair, [1600 - 400 / 3, 1600 + 400 / 3])
    assert mesh_instants(3, 4, 25, 1).tolist() == [1920]


def test_the_middle_of_a_window_is_what_transformers_gives_for_its_audio(
    boxed: nn.Module, speech: Tensor
) -> None:
    """The third window of a clip begins with its frame 84, at sample 84 · 384."""
    states = torch.cat(list(window_states(boxed, speech[0])))
    begin, frames = 84 * 384, 252
    audio = (even_level(speech) * 0.064)[:, begin : begin + 384 * (frames - 1) + 895]
    with torch.no_grad():
        direct = boxed(audio, output_hidden_states=True)
    assert len(direct.hidden_states) == 7
    assert torch.equal(direct.hidden_states[-1], direct.last_hidden_state)
    expected = torch.cat(direct.hidden_states, -1)[0]
    kept = slice(84 + 10, 168 - 10)  # outside the cross-fades
    torch.testing.assert_close(states[84:][kept], expected[kept], atol=1e-4, rtol=1e-4)


def test_a_clip_inside_a_longer_one_has_the_same_states_away_from_its_ends(
    boxed: nn.Module, speech: Tensor
) -> None:
    """Frame 84 of a clip that begins one window later is frame 168. A window reaches 2.2 s."""
    whole = torch.cat(list(window_states(boxed, speech[0])))
    clip = torch.cat(list(window_states(boxed, speech[0, 84 * 384 :])))
    inside = slice(2 * 84 + 10, len(clip))  # 4 s: the window and the level's 2 s before it
    ours, theirs = split(clip[None, inside]), split(whole[None, 84:][:, inside])
    torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=0)  # values of unit variance


@pytest.mark.parametrize("offset", [40_000, 48_960])
def test_an_arbitrary_offset_changes_little_inside(
    boxed: nn.Module, speech: Tensor, offset: int
) -> None:
    """Other windows, other positions of the encoder's 24 ms frames: cosines were .992 to .995 for
    the mean of all states, .96 to .995 for single ones, away from the clip's ends."""
    whole = torch.cat(list(window_states(boxed, speech[0])))[None]
    clip = torch.cat(list(window_states(boxed, speech[0, offset : offset + 5 * 16_000])))[None]
    instants = torch.arange(16_000, 64_000, 320)
    ours, theirs = split(read_at(clip, instants)), split(read_at(whole, instants + offset))
    assert (ours * theirs).mean(-1).mean(0).min() > 0.95
    assert F.cosine_similarity(ours.mean(1), theirs.mean(1), dim=-1).mean() > 0.99


@pytest.mark.parametrize("n_samples", [895, 31_000, 32_700, 33_000, 200_000])
def test_ranges_of_the_reader_are_the_mean_of_two_encodings(folder: str, n_samples: int) -> None:
    """The second begins 192 samples later: a ramp of its frames is read 192 samples earlier."""
    encoder = loaded(folder)
    kind, body, audio = encoder.kind, encoder.body, torch.randn(1, n_samples)
    instants = mesh_instants(0, mesh_frames(n_samples, 30) * 2, 30, 2)
    first = read_at(encoder.convolve(audio), instants)
    torch.testing.assert_close(
        first, kind.at_mesh_rate(body, encoder.convolve(audio), 30, 2, n_samples)
    )
    second = read_at(encoder.convolve(audio[:, 192:]), instants - 192)
    whole, reader = (first + second) / 2, encoder.reader(audio)
    n = whole.shape[1]
    for start in range(0, n, 50):
        begin, stop = max(start - 30, 0), min(start + 70, n)
        torch.testing.assert_close(reader(begin, stop), whole[:, begin:stop])


@pytest.mark.parametrize("gain", [0.05, 5.0])
def test_the_gain_of_a_recording_changes_nothing(
    boxed: nn.Module, speech: Tensor, gain: float
) -> None:
    """Float32 rounding alone: at most .0013 of values with unit variance."""
    clip = speech[0, :32_000].numpy() * 0.1
    plain, louder = (torch.from_numpy(normalise(audio)) for audio in (clip, clip * gain))
    ours, theirs = (split(torch.cat(list(window_states(boxed, x)))[None]) for x in (plain, louder))
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)


def test_a_padded_clip_gets_the_features_that_it_gets_alone(folder: str) -> None:
    encoder = loaded(folder, mix_layers=True)
    audio, lengths = torch.randn(2, 40_000), torch.tensor([40_000, 12_345])
    audio[1, 12_345:] = 0
    with torch.no_grad():
        together = encoder(audio, lengths)
        alone = encoder(audio[1:, :12_345])[0]
    torch.testing.assert_close(together[1, : len(alone)], alone)


def test_without_a_mix_the_features_are_the_last_state(folder: str) -> None:
    encoder = loaded(folder)
    conv = torch.randn(1, 10, 3 * 16)
    assert torch.equal(encoder.transform(conv), conv[..., 32:])


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("kind", ["moonshine", "wav2vec2", "wav2vec2-bert"])
def test_a_mix_of_one_state_is_that_state_normalised(kind: str, index: int, folder: str) -> None:
    """States of wav2vec2 are those that transformers returns."""
    others = dict(
        model_type=kind, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, num_conv_pos_embedding_groups=2, num_conv_pos_embeddings=4,
        conv_dim=[8] * 7, feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    config = encoder_of(folder, {}) if kind == "moonshine" else others
    torch.manual_seed(1)
    encoder = SpeechEncoder(config, 50, 1, mix_layers=True).eval()
    audio = torch.randn(1, 8_000)
    with torch.no_grad():
        encoder.mix.copy_(1e4 * torch.eye(3)[index])
        conv = encoder.convolve(audio)
        if kind == "moonshine":
            read = encoder.kind.at_mesh_rate(encoder.body, conv, 50, 1, 8_000)
            state = read[..., 16 * index : 16 * (index + 1)]
        else:
            inputs = audio if kind == "wav2vec2" else conv
            state = encoder.body(inputs, output_hidden_states=True).hidden_states[index]
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
    encoder = loaded(folder, mix_layers=True).train()
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
        ours, theirs = (
            encoder_states(body, audio)
            for body in (body_of(load_pretrained(str(tmp_path))), whole.model.encoder)
        )
    torch.testing.assert_close(ours, theirs)


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
