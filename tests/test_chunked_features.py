"""Features of a long clip in chunks are those of the whole clip."""

import pytest
import torch

from speech import chunked_features, kinds
from speech.clip_audio import ClipAudio
from speech.timing import audio_frames, mesh_frames
from tests.toy import ENCODERS
from wav2vec import SpeechEncoder

CONFIGS = {
    "layer": ENCODERS["layer"] | {"model_type": "wav2vec2"},
    "group": ENCODERS["group"] | {"model_type": "wav2vec2"},
    "wide": ENCODERS["group"] | {"model_type": "wav2vec2", "conv_kernel": [10, 3, 3, 3, 3, 5, 4]},
    "w2v-BERT": dict(
        model_type="wav2vec2-bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, feature_projection_input_dim=160,
    ),
}  # fmt: skip


@pytest.mark.parametrize("rates", [(30, 2), (25, 2)])
@pytest.mark.parametrize("name", CONFIGS)
def test_ranges_are_those_of_the_whole_clip(name, rates, monkeypatch):
    for module in (chunked_features, kinds):
        monkeypatch.setattr(module, "CHUNK", 40)
    torch.manual_seed(0)
    encoder = SpeechEncoder(CONFIGS[name], *rates).eval()
    audio = torch.randn(16_000 * 3 + 123) * torch.linspace(0.2, 2, 16_000 * 3 + 123)
    n = mesh_frames(len(audio), rates[0]) * rates[1]
    with torch.no_grad():
        conv = encoder.convolve(audio[None])
        whole = encoder.kind.at_mesh_rate(encoder.body, conv, *rates, len(audio))
        read = encoder.reader(ClipAudio(audio))
        for start in range(0, n, 25):
            begin, stop = max(start - 20, 0), min(start + 45, n)
            torch.testing.assert_close(
                read(begin, stop), whole[:, begin:stop], atol=1e-5, rtol=1e-5
            )
            assert read.kept.shape[1] <= 40 + 2 * 65


def test_a_clip_of_one_chunk_is_convolved_as_a_whole():
    encoder = SpeechEncoder(CONFIGS["group"], 30, 2).eval()
    audio = torch.randn(16_000)
    with torch.no_grad():
        whole = encoder.convolve(audio[None])
        reader = encoder.reader(ClipAudio(audio))
    assert reader.moments is None and reader.kept.shape[1] == audio_frames(16_000)
    assert torch.equal(reader.kept, whole)
