"""Bodies of speech encoders and CTC models of them, built from a config without weights.

Bodies are this project's own modules where the kind has one, so that prediction imports no
transformers. CTC models, which only training needs, are those of transformers.
"""

from typing import Any

from torch import nn

from common.errors import UserError, reason_of
from speech.encoder_config import EncoderConfig
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


def encoder_config(encoder: dict[str, Any]) -> Any:
    """The config of `build_body`'s body, with every field that is not given at its default.

    An `EncoderConfig` for the kinds that this project computes itself, a config of transformers for
    the others. Raises `UserError` as `transformers_config`.
    """
    kind = kind_of(encoder.get("model_type"))
    if kind.own_config is None:
        return transformers_config(encoder)
    config = own_config(encoder)
    if mismatch := kind.mismatch(config):
        raise UserError(f"speech encoder: {mismatch}")
    return config


def own_config(encoder: dict[str, Any]) -> EncoderConfig:
    """The config of a kind that this project computes itself, whether it can be used or not.

    Raises `UserError` for a field whose value no encoder has, and for fields that contradict each
    other.
    """
    read = kind_of(encoder.get("model_type")).own_config
    try:
        return read(checked_fields(encoder, read({}).to_dict()))
    except ValueError as error:
        raise UserError(f"speech encoder: not a usable config ({error})") from error


def build_body(encoder: dict[str, Any]) -> nn.Module:
    """A randomly initialised body, such as a `Wav2Vec2Body`, from its config, offline.

    Raises `UserError` as `encoder_config`.
    """
    config = encoder_config(encoder)
    return kind_of(config.model_type).build_body(config)


def build_ctc(config: Any) -> nn.Module:
    """A randomly initialised CTC model, such as a Wav2Vec2ForCTC, from its transformers config.

    Raises `UserError` for an unknown `model_type`.
    """
    return kind_of(config.model_type).build_ctc(config)


def body_of(model: nn.Module) -> nn.Module:
    """The encoder's body inside a CTC model of transformers."""
    return getattr(model, model.base_model_prefix)
