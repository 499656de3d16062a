"""Bodies of speech encoders and CTC models of them, built from a config without weights."""

from typing import Any

from torch import nn

from common.errors import UserError, reason_of
from speech.encoder_fields import checked_fields
from speech.kinds import kind_of


def transformers_config(encoder: dict[str, Any]) -> Any:
    """The transformers config of an encoder given as a dict with its `model_type`.

    Raises `UserError` for an unknown `model_type`, a field whose value no encoder has, or an
    encoder that cannot be used.
    """
    kind = kind_of(encoder.get("model_type"))
    config_class = kind.transformers_class("Config")
    fields = checked_fields(encoder, config_class().to_dict())
    try:
        config = config_class(**fields)
    except Exception as error:  # of transformers and its libraries, without a common class
        raise UserError(f"speech encoder: not a usable config ({reason_of(error)})") from error
    if mismatch := kind.mismatch(config):
        raise UserError(f"speech encoder: {mismatch}")
    return config


def build_body(encoder: dict[str, Any]) -> nn.Module:
    """A randomly initialised body, such as a Wav2Vec2Model, from its config, offline.

    Raises `UserError` for an unknown `model_type`.
    """
    config = transformers_config(encoder)
    kind = kind_of(config.model_type)
    body = kind.transformers_class("Model")(config)
    kind.use_attention(body)
    return body


def build_ctc(config: Any) -> nn.Module:
    """A randomly initialised CTC model, such as a Wav2Vec2ForCTC, from its transformers config.

    Raises `UserError` for an unknown `model_type`.
    """
    return kind_of(config.model_type).build_ctc(config)


def body_of(model: nn.Module) -> nn.Module:
    """The encoder's body inside a CTC model of transformers."""
    return getattr(model, model.base_model_prefix)
