"""Bodies of speech encoders, built from a config without weights: wav2vec 2.0 and w2v-BERT 2.0."""

from typing import Any

from torch import nn

from common.errors import UserError
from layers import attention
from speech.features import attach_context


def build_body(config: dict[str, Any]) -> nn.Module:
    """A randomly initialised Wav2Vec2Model or Wav2Vec2BertModel from its config, offline.

    Raises `UserError` when `model_type` is neither.
    """
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel, Wav2Vec2Config, Wav2Vec2Model

    values = {key: value for key, value in config.items() if key != "model_type"}
    kind = config.get("model_type")
    if kind == "wav2vec2":
        body = attach_context(Wav2Vec2Model(Wav2Vec2Config(**values)))
        attention.use_in(body)
        return body
    if kind == "wav2vec2-bert":
        return Wav2Vec2BertModel(Wav2Vec2BertConfig(**values))
    raise UserError(f"speech encoder: model_type is {kind!r}; wanted 'wav2vec2' or 'wav2vec2-bert'")


def ctc_class(config: Any) -> type[nn.Module]:
    """Wav2Vec2ForCTC or Wav2Vec2BertForCTC, as a transformers config says; else a `UserError`."""
    from transformers import Wav2Vec2BertForCTC, Wav2Vec2ForCTC

    kinds = {"wav2vec2": Wav2Vec2ForCTC, "wav2vec2-bert": Wav2Vec2BertForCTC}
    if config.model_type not in kinds:
        raise UserError(
            f"speech encoder: {config.model_type} model; wanted wav2vec2 or wav2vec2-bert"
        )
    return kinds[config.model_type]


def build_ctc(config: Any) -> nn.Module:
    """A fresh model of `ctc_class(config)`, context included."""
    model = ctc_class(config)(config)
    attach_context(getattr(model, model.base_model_prefix))
    return model
