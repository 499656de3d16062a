"""The fixed convolutions are close to a normalised log-mel filterbank."""

import numpy as np
import pytest
import torch

from config import ENCODERS, PROJECT_ROOT
from data_loader import load_wav
from speech.augment import equalise
from speech.features import log_mel, mel_filters, normalise_over_time, povey_window
from synthetic.filterbank import init_filterbank
from synthetic.pretrain_encoder import phone_ctc


@pytest.fixture(scope="module")
def extractor() -> torch.nn.Module:
    return phone_ctc(ENCODERS["wav2vec2"]).wav2vec2.feature_extractor


def bank(extractor: torch.nn.Module, audio: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(audio)[None, None]
    with torch.no_grad():
        for layer in extractor.conv_layers[:3]:
            x = layer(x)
    return x[0].T.numpy()


def speech() -> np.ndarray:
    return load_wav(PROJECT_ROOT / "demo/wav/sense_and_sensibility.wav")


def test_bands_correlate_with_the_normalised_log_mel(extractor: torch.nn.Module) -> None:
    audio = speech()
    bands = bank(extractor, audio)
    energies = log_mel(torch.from_numpy(audio)[None] / 32, mel_filters(64, 70.0), povey_window())
    mel = normalise_over_time(energies)[0].numpy()
    n = min(len(bands), len(mel) // 2)
    mel = mel[: 2 * n].reshape(n, 2, 64)
    r = [
        np.corrcoef(bands[:n, 2 * band + step], mel[:, step, band])[0, 1]
        for band in range(64)
        for step in range(2)
    ]
    assert np.median(r) > 0.93 and min(r) > 0.7


def test_an_equaliser_changes_the_bands_by_less_than_a_tenth(extractor: torch.nn.Module) -> None:
    audio = speech()
    other = equalise(audio, np.random.default_rng(1), spread_db=12.0)
    clean, coloured = bank(extractor, audio), bank(extractor, other)
    assert (clean - coloured).std() < 0.1 * clean.std()


def test_only_the_learnt_convolutions_are_trained(extractor: torch.nn.Module) -> None:
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in extractor.conv_layers]
    assert trained == [False] * 3 + [True]


def test_wrong_sizes_raise() -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    body = Wav2Vec2Model(
        Wav2Vec2Config(
            num_hidden_layers=1,
            hidden_size=24,
            num_attention_heads=2,
            conv_dim=(8,) * 7,
            num_conv_pos_embedding_groups=2,
        )
    )
    with pytest.raises(ValueError, match=r"expected \(640, 512, 128\) channels, got \(8, 8, 8\)"):
        init_filterbank(body.feature_extractor)
