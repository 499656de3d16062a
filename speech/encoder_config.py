"""Configs of the encoders that this project computes itself, under transformers' field names.

Here are the fields that decide what a network computes. Others, such as those of a decoder that is
not used, are kept as they are given.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

# Defaults of transformers' Wav2Vec2Config: wav2vec 2.0 "base".
WAV2VEC2: dict[str, Any] = dict(
    vocab_size=32, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
    intermediate_size=3072, hidden_act="gelu", hidden_dropout=0.1, activation_dropout=0.1,
    attention_dropout=0.1, feat_proj_dropout=0.0, final_dropout=0.1, layerdrop=0.1,
    initializer_range=0.02, layer_norm_eps=1e-5, feat_extract_norm="group",
    feat_extract_activation="gelu", conv_dim=(512,) * 7, conv_stride=(5, 2, 2, 2, 2, 2, 2),
    conv_kernel=(10, 3, 3, 3, 3, 2, 2), conv_bias=False, num_conv_pos_embeddings=128,
    num_conv_pos_embedding_groups=16, do_stable_layer_norm=False, apply_spec_augment=True,
    mask_time_prob=0.05, mask_time_length=10, mask_time_min_masks=2, mask_feature_prob=0.0,
    mask_feature_length=10, mask_feature_min_masks=0, pad_token_id=0, add_adapter=False,
    adapter_attn_dim=None,
)  # fmt: skip
# Defaults of transformers' MoonshineConfig: Moonshine tiny.
MOONSHINE: dict[str, Any] = dict(
    vocab_size=32768, hidden_size=288, intermediate_size=1152, encoder_num_hidden_layers=6,
    encoder_num_attention_heads=8, encoder_num_key_value_heads=None,
    pad_head_dim_to_multiple_of=None, encoder_hidden_act="gelu", max_position_embeddings=512,
    initializer_range=0.02, attention_bias=False, rope_parameters=None, pad_token_id=None,
)  # fmt: skip
ROTARY = {"rope_theta": 10_000.0, "partial_rotary_factor": 0.9, "rope_type": "default"}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "selu": F.selu,
    "silu": F.silu,
    "swish": F.silu,
}


class EncoderConfig(SimpleNamespace):
    """The fields of a config as attributes, `model_type` among them."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict."""
        return dict(vars(self))

    def to_json_string(self) -> str:
        """The fields as JSON, named as the method of transformers' configs."""
        return json.dumps(self.to_dict(), sort_keys=True)


def wav2vec2_config(fields: Mapping[str, Any]) -> EncoderConfig:
    """The config of a wav2vec 2.0 encoder; `ValueError` where its fields contradict each other."""
    config = c = EncoderConfig(**{"model_type": "wav2vec2"} | WAV2VEC2 | dict(fields))
    _check_given(c, WAV2VEC2)
    c.num_feat_extract_layers = len(c.conv_dim)
    sizes = {name: len(getattr(c, name)) for name in ("conv_dim", "conv_kernel", "conv_stride")}
    if len(set(sizes.values())) > 1 or not c.conv_dim:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{listed} values, expected the same number of each")
    for name in ("hidden_size", "intermediate_size", "num_conv_pos_embeddings"):
        _check_positive(name, getattr(c, name))
    for name in sizes:
        for value in getattr(c, name):
            _check_positive(name, value)
    _check_divides(c, "hidden_size", "num_attention_heads")
    _check_divides(c, "hidden_size", "num_conv_pos_embedding_groups")
    _check_one_of("feat_extract_norm", c.feat_extract_norm, ("group", "layer"))
    _check_one_of("hidden_act", c.hidden_act, ACTIVATIONS)
    _check_one_of("feat_extract_activation", c.feat_extract_activation, ACTIVATIONS)
    if c.adapter_attn_dim is not None:
        raise ValueError(f"adapter_attn_dim is {c.adapter_attn_dim}, expected none")
    return config


def moonshine_config(fields: Mapping[str, Any]) -> EncoderConfig:
    """The config of a Moonshine encoder; `ValueError` where its fields contradict each other."""
    config = c = EncoderConfig(**{"model_type": "moonshine"} | MOONSHINE | dict(fields))
    _check_given(c, MOONSHINE)
    if c.encoder_num_key_value_heads is None:
        c.encoder_num_key_value_heads = c.encoder_num_attention_heads
    older = {name: vars(c)[name] for name in ROTARY if vars(c).get(name) is not None}
    c.rope_parameters = ROTARY | older | (c.rope_parameters or {})
    for name in ("hidden_size", "intermediate_size"):
        _check_positive(name, getattr(c, name))
    _check_divides(c, "hidden_size", "encoder_num_attention_heads")
    _check_one_of("encoder_hidden_act", c.encoder_hidden_act, ACTIVATIONS)
    _check_one_of("rope_type", c.rope_parameters["rope_type"], ("default",))
    if c.encoder_num_key_value_heads != c.encoder_num_attention_heads:
        raise ValueError(
            f"encoder_num_key_value_heads is {c.encoder_num_key_value_heads}, expected "
            f"encoder_num_attention_heads, {c.encoder_num_attention_heads}"
        )
    if c.pad_head_dim_to_multiple_of is not None:
        _check_positive("pad_head_dim_to_multiple_of", c.pad_head_dim_to_multiple_of)
    for name in ("rope_theta", "partial_rotary_factor"):
        value = c.rope_parameters[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{name} is {value!r}, expected a positive number")
    return config


def _check_given(config: EncoderConfig, defaults: dict[str, Any]) -> None:
    for name, default in defaults.items():
        optional = default is None or name in ("vocab_size", "pad_token_id")
        if getattr(config, name) is None and not optional:
            raise ValueError(f"{name} is null, expected a value")


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} has {value!r}, expected whole numbers above 0")


def _check_divides(config: EncoderConfig, whole: str, part: str) -> None:
    size, count = getattr(config, whole), getattr(config, part)
    _check_positive(part, count)
    if size % count:
        raise ValueError(f"{whole} {size} is no multiple of {part} {count}")


def _check_one_of(name: str, value: Any, allowed: Any) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected {' or '.join(allowed)}")
