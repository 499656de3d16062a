"""The decoder that a `ModelConfig` names: JambaTalk's layers, or the decoder of another system."""

import importlib

from torch import nn

from config import LAYERS, MODELS, ModelConfig
from layers.mamba import MambaLayer
from layers.moe import MoEMambaLayer
from layers.transformer import TransformerLayer


def make_layer(kind: str, config: ModelConfig) -> nn.Module:
    """The decoder layer for a letter of the layout; `ValueError` for an unknown letter."""
    c = config
    if kind == "M":
        return MambaLayer(c.d_model, c.d_ff, c.d_state, c.d_conv, c.expand, c.dropout)
    if kind == "E":
        return MoEMambaLayer(c.d_model, c.d_ff, c.n_experts, c.top_k, c.moe_d_state, c.moe_d_conv,
                             c.expand, c.dropout)  # fmt: skip
    if kind == "A":
        return TransformerLayer(c.d_model, c.d_ff, c.n_heads, c.n_kv_heads, c.rope_rank, c.dropout)
    raise ValueError(f"layout letter {kind!r}: expected one of {', '.join(LAYERS)}")


def make_layers(config: ModelConfig) -> nn.ModuleList:
    """The layers of the layout string, or the decoder of another system: `config.model`."""
    module, _, name = MODELS[config.model].path.rpartition(".")
    if not module and config.tie_layers:
        tied = {kind: make_layer(kind, config) for kind in dict.fromkeys(config.layout)}
        return nn.ModuleList(tied[kind] for kind in config.layout)
    if not module:
        return nn.ModuleList(make_layer(kind, config) for kind in config.layout)
    return nn.ModuleList([getattr(importlib.import_module(module), name)(config)])
