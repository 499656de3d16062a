"""The encoders' bodies without transformers, against transformers' own."""

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from speech.bodies import build_body, encoder_config, transformers_config
from speech.moonshine_body import frames_of
from tests.toy import ENCODERS
from wav2vec import SpeechEncoder

# Every source of randomness, and an odd number of taps, whose padding is symmetric.
NOISE = dict(apply_spec_augment=True, mask_time_prob=0.4, mask_time_length=3, mask_feature_prob=0.3,
             mask_feature_length=4, hidden_dropout=0.2, attention_dropout=0.2,
             activation_dropout=0.2, feat_proj_dropout=0.2, layerdrop=0.4)  # fmt: skip
WAV2VEC = {
    "base": ENCODERS["group"] | NOISE | {"model_type": "wav2vec2"},
    "large": ENCODERS["layer"] | NOISE
    | {"model_type": "wav2vec2", "num_conv_pos_embeddings": 13, "hidden_act": "gelu_new"},
}  # fmt: skip
MOONSHINE = {
    "moonshine": dict(
        model_type="moonshine", hidden_size=44, intermediate_size=24, encoder_num_hidden_layers=2,
        encoder_num_attention_heads=4, pad_head_dim_to_multiple_of=8,
    ),
    "moonshine with bias": dict(
        model_type="moonshine", hidden_size=16, intermediate_size=24, encoder_num_hidden_layers=1,
        encoder_num_attention_heads=2, attention_bias=True,
        rope_parameters={"rope_theta": 500.0, "partial_rotary_factor": 0.5},
    ),
}  # fmt: skip


def seeded(encoder: dict, of_transformers: bool) -> nn.Module:
    """A body drawn with seed 0; the next draw of the generator is part of its state."""
    torch.manual_seed(0)
    if not of_transformers:
        return build_body(encoder)
    if encoder["model_type"] == "wav2vec2":
        from transformers import Wav2Vec2Model as Model
    else:
        from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder as Model
    return Model(transformers_config(encoder))


@pytest.mark.parametrize("name", WAV2VEC | MOONSHINE)
def test_a_seed_gives_the_weights_that_it_gives_in_transformers(name: str) -> None:
    bodies = []
    for of_transformers in (False, True):
        body = seeded((WAV2VEC | MOONSHINE)[name], of_transformers)
        bodies.append(body.state_dict() | {"next draw": torch.rand(3)})
    ours, theirs = bodies
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize("name", WAV2VEC)
def test_wav2vec2_equals_transformers(name: str) -> None:
    """Features of whole clips, of padded ones, and in training with every kind of noise."""
    ours, theirs = (seeded(WAV2VEC[name], of_transformers) for of_transformers in (False, True))
    audio = torch.randn(2, 9_000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        conv = [body.feature_extractor(audio) for body in (ours, theirs)]
        torch.testing.assert_close(*conv)
        features = conv[1].transpose(1, 2)
        mask = torch.arange(features.shape[1]) < torch.tensor([[features.shape[1]], [11]])
        for training, given in ((False, None), (False, mask), (True, None), (True, mask)):
            results = []
            for body in (ours.train(training), theirs.train(training)):
                torch.manual_seed(5)
                np.random.seed(5)
                hidden, _ = body.feature_projection(features)
                hidden = body._mask_hidden_states(hidden, attention_mask=given)
                states = body.encoder(hidden, attention_mask=given).last_hidden_state
                results.append(states if given is None else states[given])  # padding may differ
            torch.testing.assert_close(*results, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", MOONSHINE)
def test_moonshine_equals_transformers(name: str) -> None:
    ours, theirs = (seeded(MOONSHINE[name], of_transformers) for of_transformers in (False, True))
    audio = torch.randn(2, 6_000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states = ours.eval()(audio)
        expected = theirs.eval()(audio, output_hidden_states=True).hidden_states
    assert len(states) == len(expected) and states[0].shape[1] == frames_of(6_000)
    for state, other in zip(states, expected, strict=True):
        torch.testing.assert_close(state, other, atol=2e-6, rtol=1e-5)


def test_recomputed_layers_have_the_gradients_of_kept_ones() -> None:
    encoder = SpeechEncoder(WAV2VEC["large"] | {"layerdrop": 0.0}, 30, 1).train()
    audio, gradients = torch.randn(1, 8_000), []
    for recompute in (False, True):
        if recompute:
            encoder.body.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(2)
        np.random.seed(2)
        encoder.zero_grad()
        encoder(audio).square().sum().backward()
        gradients.append([p.grad for p in encoder.body.encoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, "hidden_size 32 is no multiple of num_attention_heads 5"),
        ({"num_attention_heads": 0}, "num_attention_heads has 0, expected whole numbers above 0"),
        ({"conv_kernel": [3]}, "conv_dim 7, conv_kernel 1, conv_stride 7 values"),
        ({"conv_dim": [], "conv_kernel": [], "conv_stride": []}, "conv_dim 0"),
        ({"hidden_act": "none"}, "hidden_act is 'none', expected gelu or gelu_new or relu"),
        ({"feat_extract_norm": "batch"}, "is 'batch', expected group or layer"),
        ({"hidden_size": None}, "hidden_size is null, expected a value"),
        ({"adapter_attn_dim": 16}, "adapter_attn_dim is 16, expected none"),
        ({"model_type": "moonshine", "encoder_num_key_value_heads": 1}, "heads is 1, expected"),
        ({"model_type": "moonshine", "rope_parameters": {"rope_type": "yarn"}}, "is 'yarn'"),
        ({"model_type": "moonshine", "rope_parameters": {"rope_theta": "x"}}, "rope_theta is 'x'"),
    ],
)
def test_a_config_that_makes_no_network_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match="speech encoder: not a usable config") as caught:
        encoder_config(ENCODERS["layer"] | {"model_type": "wav2vec2"} | changes)
    assert message in str(caught.value)
