"""wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477) without transformers, with its names.

Its parameters have the names and shapes of transformers' Wav2Vec2Model, its results are the same,
and so is its initialisation: a seed gives the same weights. Importing transformers takes longer
than a minute of speech through a small model.

Two variants: "base" has a group norm in the first convolution and norms after each residual;
"large" has a layer norm in every convolution and norms before ("stable layer norm").

B batch, S samples at 16 kHz, A audio frames, C0 and C width before and of the transformer, H heads.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layers.attention import attend
from layers.coarse_attention import attend_coarse
from layers.fast_dropout import Dropout
from layers.fast_gelu import can_finish
from speech.encoder_config import ACTIVATIONS, EncoderConfig
from speech.positional_convolution import PositionalConvolution


class Convolution(nn.Module):
    """A convolution with norm and activation: (B, C_in, n) to (B, C_out, m).

    norm: nn.GroupNorm over time, nn.LayerNorm over channels, or None.
    """

    def __init__(self, config: EncoderConfig, i: int) -> None:
        super().__init__()
        width = config.conv_dim[i]
        self.conv = nn.Conv1d(
            config.conv_dim[i - 1] if i else 1, width, config.conv_kernel[i],
            config.conv_stride[i], bias=config.conv_bias,
        )  # fmt: skip
        if config.feat_extract_norm == "layer":
            self.layer_norm = nn.LayerNorm(width)
        elif i == 0:
            self.layer_norm = nn.GroupNorm(width, width)
        else:
            self.layer_norm = None
        self.activation = ACTIVATIONS[config.feat_extract_activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_out, m)."""
        x = self.conv(x)
        if isinstance(self.layer_norm, nn.LayerNorm):
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)
        elif self.layer_norm is not None:
            x = self.layer_norm(x)
        return self.activation(x)


class Convolutions(nn.Module):
    """Audio (B, S) to features (B, C0, A)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        layers = [Convolution(config, i) for i in range(config.num_feat_extract_layers)]
        self.conv_layers = nn.ModuleList(layers)

    def forward(self, audio: Tensor) -> Tensor:
        """(B, C0, A)."""
        x = audio[:, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x


class FeatureProjection(nn.Module):
    """Features (B, A, C0) to (B, A, C)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = Dropout(config.feat_proj_dropout)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, A, C), and the normalised features (B, A, C0)."""
        normalised = self.layer_norm(features)
        return self.dropout(self.projection(normalised)), normalised


class Attention(nn.Module):
    """Self-attention, (B, A, C) to (B, A, C)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.n_heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.coarse = False  # whether predictions on a CPU have bfloat16 products

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: (B, 1, 1, A) bool, True on the frames that may be attended to."""
        q, k, v = (
            project(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, A, C / H)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.coarse and mask is None and can_finish(x):
            y = attend_coarse(q, k, v)
        else:
            y = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """(B, A, C) to (B, A, C)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.intermediate_dropout = Dropout(config.activation_dropout)
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = Dropout(config.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, A, C)."""
        x = self.intermediate_dropout.activated(self.activation, self.intermediate_dense(x))
        return self.output_dropout(self.output_dense(x))


class TransformerLayer(nn.Module):
    """(B, A, C) to (B, A, C); norms before attention and feed-forward, or after their residuals."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_first = config.do_stable_layer_norm
        self.attention = Attention(config)
        self.dropout = Dropout(config.hidden_dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: as of `Attention`."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.layer_norm(x), mask))
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.layer_norm(x + self.dropout(self.attention(x, mask)))
        return self.final_layer_norm(x + self.feed_forward(x))


class EncoderOutput(NamedTuple):
    """Result of a body or of its transformer, named as transformers' outputs are."""

    last_hidden_state: Tensor  # (B, A, C)


class Transformer(nn.Module):
    """(B, A, C) to (B, A, C)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layerdrop, self.norm_last = config.layerdrop, config.do_stable_layer_norm
        self.pos_conv_embed = PositionalConvolution(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.checkpoint_options: Mapping[str, Any] | None = None

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> EncoderOutput:
        """attention_mask: (B, A) bool, True on real frames, None when all are."""
        mask = None
        if attention_mask is not None:
            x = x.masked_fill(~attention_mask[..., None], 0)
            mask = attention_mask[:, None, None]
        x = x + self.pos_conv_embed(x)
        x = self.dropout(x if self.norm_last else self.layer_norm(x))
        for layer in self.layers:
            if self.training and self.layerdrop > 0 and torch.rand([]) < self.layerdrop:
                continue
            if self.checkpoint_options is not None and self.training:
                x = checkpoint(layer, x, mask, **self.checkpoint_options)
            else:
                x = layer(x, mask)
        return EncoderOutput(self.layer_norm(x) if self.norm_last else x)


class Wav2Vec2Body(nn.Module):
    """Audio (B, S) to features (B, A, C), named as a Wav2Vec2Model of transformers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor = Convolutions(config)
        self.feature_projection = FeatureProjection(config)
        if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
            self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size).uniform_())
        self.encoder = Transformer(config)
        if not self.encoder.layer_norm.weight.is_meta:  # else it is built for its shapes alone
            self.apply(self._init_weights)

    def forward(self, audio: Tensor) -> EncoderOutput:
        """audio: (B, S) of clips without padding."""
        hidden, _ = self.feature_projection(self.feature_extractor(audio).transpose(1, 2))
        return self.encoder(self._mask_hidden_states(hidden))

    def gradient_checkpointing_enable(self, options: Mapping[str, Any]) -> None:
        """In training, recompute layers in the backward pass; options: of torch's `checkpoint`."""
        self.encoder.checkpoint_options = options

    def _mask_hidden_states(
        self, hidden: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:  # named as transformers' method, which `EncoderKind.transform` calls as well
        """SpecAugment (Park et al. 2019, arXiv 1904.08779) of hidden (B, A, C), in training."""
        c = self.config
        if not (c.apply_spec_augment and self.training):
            return hidden
        batch, n_frames, width = hidden.shape
        lengths = None if attention_mask is None else attention_mask.sum(1).tolist()
        if c.mask_time_prob > 0:
            spans = c.mask_time_prob, c.mask_time_length, c.mask_time_min_masks
            masked = torch.from_numpy(random_spans(lengths or [n_frames] * batch, n_frames, *spans))
            value = self.masked_spec_embed.to(hidden.dtype)
            hidden = torch.where(masked.to(hidden.device)[..., None], value, hidden)
        if c.mask_feature_prob > 0:
            spans = c.mask_feature_prob, c.mask_feature_length, c.mask_feature_min_masks
            masked = torch.from_numpy(random_spans([width] * batch, width, *spans))
            hidden = hidden.masked_fill(masked.to(hidden.device)[:, None], 0)
        return hidden

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As transformers does: normal matrices, He's normal convolutions (arXiv 1502.01852)."""
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                bound = math.sqrt(module.groups / (module.in_channels * module.kernel_size[0]))
                nn.init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, PositionalConvolution):
            std = 2 * math.sqrt(1 / (module.conv.kernel_size[0] * module.conv.in_channels))
            nn.init.normal_(module.conv.weight, std=std)
            nn.init.zeros_(module.conv.bias)
        elif isinstance(module, FeatureProjection):
            bound = math.sqrt(1 / module.projection.in_features)
            nn.init.uniform_(module.projection.weight, -bound, bound)
            nn.init.uniform_(module.projection.bias, -bound, bound)
        elif module is self and hasattr(self, "masked_spec_embed"):
            nn.init.uniform_(self.masked_spec_embed)


def random_spans(
    lengths: list[int], size: int, share: float, span: int, least: int
) -> NDArray[np.bool_]:
    """(B, size) bool, True on random spans of each row's first `lengths[b]` positions.

    share: of the positions, before spans overlap; span: positions of each; least: spans of a row.
    The same draws from numpy's generator as in transformers, so a seed gives the same spans.
    """
    rounding = np.random.rand(1).item()

    def count(length: int) -> int:
        n = min(max(int(share * length / span + rounding), least), size // span)
        return min(n, max(length - span + 1, 0))

    masked = np.zeros((len(lengths), size), bool)
    if count(size) == 0:
        return masked
    for row, length in zip(masked, lengths, strict=True):
        starts = np.random.choice(np.arange(length - span + 1), count(length), replace=False)
        for start in starts:
            row[start : start + span] = True
        if not len(starts):
            row[-1] = True  # padding
    return masked
