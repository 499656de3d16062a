"""The speech encoder: frame counts, resampling, padding, features against transformers' own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from speech.bodies import build_body, build_ctc, transformers_config
from speech.features import (
    fold,
    log_mel,
    mel_filters,
    normalise_over_time,
    povey_window,
    resample,
)
from speech.kinds import KINDS, receptive_field
from speech.pretrained import load_pretrained
from speech.timing import audio_frames, mesh_frames
from wav2vec import SpeechEncoder, TextTeacher

TINY = {
    "wav2vec2": dict(
        model_type="wav2vec2", hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, conv_dim=(16,) * 7, num_conv_pos_embedding_groups=2,
        apply_spec_augment=False,
    ),
    "layer norm": dict(
        model_type="wav2vec2", hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, conv_dim=(16,) * 7, num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer", do_stable_layer_norm=True, apply_spec_augment=False,
    ),
    "wide kernels": dict(
        model_type="wav2vec2", hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, conv_dim=(16,) * 9, conv_kernel=(10, 3, 3, 3, 3, 2, 2, 5, 3),
        conv_stride=(5, 2, 2, 2, 2, 2, 2, 1, 1), num_feat_extract_layers=9,
        num_conv_pos_embedding_groups=2, apply_spec_augment=False,
    ),
    "wav2vec2-bert": dict(
        model_type="wav2vec2-bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, position_embeddings_type="rotary", apply_spec_augment=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("n_samples", [400, 719, 720, 8_000, 16_000, 16_017, 47_999])
@pytest.mark.parametrize("kind", TINY)
def test_frame_count_is_the_formula_for_every_length(kind: str, n_samples: int) -> None:
    encoder = SpeechEncoder(TINY[kind], fps=25, fold=2).eval()
    with torch.no_grad():
        out = encoder(torch.randn(1, n_samples))
    assert out.shape == (1, mesh_frames(n_samples, 25), 64)


def test_frame_count_is_that_of_transformers() -> None:
    from transformers import Wav2Vec2Model

    body = Wav2Vec2Model(transformers_config(TINY["wav2vec2"]))
    for n in (400, 5_000, 16_001):
        assert int(body._get_feat_extract_output_lengths(n)) == audio_frames(n)


def test_receptive_field_of_wav2vec2_is_400() -> None:
    assert receptive_field((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)) == 400


def test_resample_of_a_ramp_is_its_value_at_the_instant() -> None:
    ramp = torch.arange(11.0)[None, :, None]  # value = index at 50 Hz
    out = resample(ramp, 30)[0, :, 0]
    torch.testing.assert_close(out, torch.arange(6) * 50 / 30)
    torch.testing.assert_close(resample(ramp, 60)[0, 3, 0], torch.tensor(2.5))


def test_resample_never_reads_padding() -> None:
    x = torch.cat([torch.ones(1, 5, 2), torch.full((1, 6, 2), 99.0)], dim=1)
    assert resample(x, 60, torch.tensor([5])).max() == 1


def test_fold_joins_neighbours() -> None:
    x = torch.arange(7.0).reshape(1, 7, 1)
    assert fold(x, 2).tolist() == [[[0, 1], [2, 3], [4, 5]]]


def test_log_mel_equals_the_extractor_of_w2v_bert() -> None:
    from transformers import SeamlessM4TFeatureExtractor

    rng = np.random.default_rng(0)
    audio = (rng.standard_normal(16_000) * 0.1).astype(np.float32)
    theirs = SeamlessM4TFeatureExtractor()(audio, sampling_rate=16_000, return_tensors="np")
    energies = log_mel(torch.from_numpy(audio)[None], mel_filters(), povey_window())
    ours = fold(normalise_over_time(energies), 2)[0]
    np.testing.assert_allclose(ours, theirs["input_features"][0], atol=3e-4)


@pytest.mark.parametrize("kind", TINY)
def test_a_padded_clip_gets_the_values_it_gets_alone(kind: str) -> None:
    torch.manual_seed(0)
    encoder = SpeechEncoder(TINY[kind], fps=30, fold=2).eval()
    audio, lengths = torch.randn(2, 16_000), torch.tensor([16_000, 12_345])
    audio[1, 12_345:] = 0
    with torch.no_grad():
        together = encoder(audio, lengths)
        alone = encoder(audio[1:, :12_345])[0]
    torch.testing.assert_close(together[1, : len(alone)], alone, atol=2e-5, rtol=1e-4)


def test_features_are_those_of_the_transformers_model() -> None:
    """At 50 fps, k = 1, the encoder is the Wav2Vec2Model itself."""
    from transformers import Wav2Vec2Model

    encoder = SpeechEncoder(TINY["layer norm"], fps=50, fold=1).eval()
    theirs = Wav2Vec2Model(transformers_config(TINY["layer norm"])).eval()
    theirs.load_state_dict(encoder.body.state_dict())
    audio = torch.randn(2, 8_000)
    with torch.no_grad():
        torch.testing.assert_close(encoder(audio), theirs(audio).last_hidden_state)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shape_of_a_kind_is_made_of_fields_of_its_config(kind: str) -> None:
    config = KINDS[kind].transformers_class("Config")()
    assert all(hasattr(config, field) for field in KINDS[kind].shape_fields)


@pytest.mark.parametrize("kind", TINY)
def test_only_convolutions_are_frozen_and_only_where_there_are_some(kind: str) -> None:
    encoder = SpeechEncoder(TINY[kind], fps=30, fold=2)
    encoder.freeze_features()
    frozen = {name for name, value in encoder.named_parameters() if not value.requires_grad}
    assert all(name.startswith("body.feature_extractor.") for name in frozen)
    assert bool(frozen) == (kind != "wav2vec2-bert")


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="model_type is 'hubert', expected wav2vec2 or wav2vec2-be"):
        build_body({"model_type": "hubert"})


def test_pretrained_folder_without_a_model_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded.*config.json") as caught:
        load_pretrained(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_teacher_stays_in_evaluation_mode_and_decodes_greedily() -> None:
    config = transformers_config(TINY["wav2vec2"] | {"vocab_size": 40, "pad_token_id": 0})
    teacher = TextTeacher(build_ctc(config)).train()
    assert not any(module.training for module in teacher.modules())
    logits = torch.full((1, 6, 40), -1.0)
    for frame, character in enumerate([0, 7, 7, 0, 7, 3]):
        logits[0, frame, character] = 1.0
    assert teacher.decode_text(logits)[0].tolist() == [7, 7, 3]
    audio = torch.randn(1, 4_000)
    torch.testing.assert_close(teacher(audio)[0], teacher(audio)[0], rtol=0, atol=0)
