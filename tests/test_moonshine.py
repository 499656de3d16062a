"""Moonshine's states: frame counts, windows of a clip, and reading them at the mesh's instants."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config import MOONSHINE_TINY, PROJECT_ROOT
from speech.audio import normalise, read_audio
from speech.bodies import body_of, transformers_config
from speech.clip_audio import ClipAudio
from speech.level import even_level
from speech.moonshine import encoder_states, mesh_instants, read_at, window_states
from speech.pretrained import load_pretrained
from speech.timing import audio_frames, mesh_frames
from tests.toy import (
    loaded_encoder,
    moonshine_folder,
)

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


def boxed_states(boxed: nn.Module, audio: Tensor) -> Tensor:
    """The states (N, L·C) of a clip (S,)."""
    return torch.cat(list(window_states(partial(encoder_states, boxed), audio)))


def split(states: Tensor, width: int = 288) -> Tensor:
    """Normalised states (A, L, C) of states (1, A, L·C)."""
    return F.layer_norm(states[0].unflatten(-1, (-1, width)), (width,))


@pytest.mark.parametrize("n_samples", [400, 719, 895, 1_279, 16_000, 32_000, 32_500, 32_767,
                                       35_000, 64_500, 99_999])  # fmt: skip
def test_frame_counts(folder: str, n_samples: int) -> None:
    """Own frames as the convolutions give them, audio and mesh frames as of the other kinds."""
    encoder = loaded_encoder(folder)
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
        loaded_encoder(folder).convolve(torch.randn(1, 399))


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
    from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder

    states = boxed_states(boxed, speech[0])
    begin, frames = 84 * 384, 252
    audio = (even_level(speech) * 0.064)[:, begin : begin + 384 * (frames - 1) + 895]
    theirs = MoonshineEncoder(transformers_config(MOONSHINE_TINY)).eval()
    theirs.load_state_dict(boxed.state_dict())
    with torch.no_grad():
        direct = theirs(audio, output_hidden_states=True)
    assert len(direct.hidden_states) == 7
    assert torch.equal(direct.hidden_states[-1], direct.last_hidden_state)
    expected = torch.cat(direct.hidden_states, -1)[0]
    kept = slice(84 + 10, 168 - 10)  # outside the cross-fades
    torch.testing.assert_close(states[84:][kept], expected[kept], atol=1e-4, rtol=1e-4)


def test_a_clip_inside_a_longer_one_has_the_same_states_away_from_its_ends(
    boxed: nn.Module, speech: Tensor
) -> None:
    """Frame 84 of a clip that begins one window later is frame 168. A window reaches 2.2 s."""
    whole = boxed_states(boxed, speech[0])
    clip = boxed_states(boxed, speech[0, 84 * 384 :])
    inside = slice(2 * 84 + 10, len(clip))  # 4 s: the window and the level's 2 s before it
    ours, theirs = split(clip[None, inside]), split(whole[None, 84:][:, inside])
    torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=0)  # values of unit variance


@pytest.mark.parametrize("offset", [40_000, 48_960])
def test_an_arbitrary_offset_changes_little_inside(
    boxed: nn.Module, speech: Tensor, offset: int
) -> None:
    """Other windows, other positions of the encoder's 24 ms frames: cosines were .992 to .995 for
    the mean of all states, .96 to .995 for single ones, away from the clip's ends."""
    whole = boxed_states(boxed, speech[0])[None]
    clip = boxed_states(boxed, speech[0, offset : offset + 5 * 16_000])[None]
    instants = torch.arange(16_000, 64_000, 320)
    ours, theirs = split(read_at(clip, instants)), split(read_at(whole, instants + offset))
    assert (ours * theirs).mean(-1).mean(0).min() > 0.95
    assert F.cosine_similarity(ours.mean(1), theirs.mean(1), dim=-1).mean() > 0.99


@pytest.mark.parametrize("n_samples", [895, 31_000, 32_700, 33_000, 200_000])
def test_ranges_of_the_reader_are_the_mean_of_two_encodings(folder: str, n_samples: int) -> None:
    """The second begins 192 samples later: a ramp of its frames is read 192 samples earlier."""
    encoder = loaded_encoder(folder)
    kind, body, audio = encoder.kind, encoder.body, torch.randn(1, n_samples)
    instants = mesh_instants(0, mesh_frames(n_samples, 30) * 2, 30, 2)
    first = read_at(encoder.convolve(audio), instants)
    torch.testing.assert_close(
        first, kind.at_mesh_rate(body, encoder.convolve(audio), 30, 2, n_samples)
    )
    second = read_at(encoder.convolve(audio[:, 192:]), instants - 192)
    whole, reader = (first + second) / 2, encoder.reader(ClipAudio(audio[0]))
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
    ours, theirs = (split(boxed_states(boxed, x)[None]) for x in (plain, louder))
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)


def test_a_padded_clip_gets_the_features_that_it_gets_alone(folder: str) -> None:
    encoder = loaded_encoder(folder, mix_layers=True)
    audio, lengths = torch.randn(2, 40_000), torch.tensor([40_000, 12_345])
    audio[1, 12_345:] = 0
    with torch.no_grad():
        together = encoder(audio, lengths)
        alone = encoder(audio[1:, :12_345])[0]
    torch.testing.assert_close(together[1, : len(alone)], alone)
