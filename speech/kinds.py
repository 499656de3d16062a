"""The kinds of speech encoders, by `model_type` of their transformers config: one class each.

A kind states everything in which encoders differ: how audio becomes feature frames, their number
and rate, whether padding changes them, which part is frozen, and which classes of transformers it
is built from. No other module asks which kind an encoder is. To add a kind, write a subclass of
`EncoderKind` and add it to `KINDS`.

Audio frames of all kinds follow `speech.timing`: 50 Hz, the first centred at 12.5 ms, at least 400
samples. A kind whose own frames differ, as Moonshine's, is read at their instants. Audio has zero
mean and unit variance over the clip.

B batch, S samples at 16 kHz, A audio frames at 50 Hz, N frames at any rate, C0 feature width, C
transformer width, L states: the transformer's input and the output of each layer.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from layers import attention
from speech.chunked_features import CHUNK, TimeMoments
from speech.clip_audio import ClipAudio
from speech.encoder_config import wav2vec2_config
from speech.encoder_kind import EncoderKind
from speech.fast_convolutions import can_convolve, convolve, receptive_field
from speech.features import (
    MEL_EPS,
    MEL_HOP,
    fold,
    log_mel,
    mel_filters,
    normalise_over_time,
    povey_window,
)
from speech.moonshine import Moonshine
from speech.timing import HOP, WINDOW, audio_frames, frame_lengths
from speech.wav2vec_body import Wav2Vec2Body

RETIRED_FIELDS = ("context_layers", "hand_set_layers")  # of the small wav2vec 2.0 until LAST_COMMIT
LAST_COMMIT = "30c8538"


class Wav2Vec2(EncoderKind):
    """wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477): convolutions of the waveform.

    Where the kernels cover more than 400 samples, audio is padded with zeros on both sides, so that
    A and the centre of each frame stay the same. Group norm (in the "base" models) normalises over
    time, so padding is not safe with it. The convolutions are frozen, as in the paper.
    """

    transformers_prefix = "Wav2Vec2"
    own_config = staticmethod(wav2vec2_config)
    shape_fields = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "hidden_act", "layer_norm_eps", "conv_dim", "conv_kernel", "conv_stride", "conv_bias",
        "feat_extract_norm", "feat_extract_activation", "num_feat_extract_layers",
        "num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "do_stable_layer_norm",
    )  # fmt: skip

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.padding_is_safe = config.feat_extract_norm != "group"
        reach = receptive_field(config.conv_kernel, config.conv_stride)
        self.margin = max(reach - WINDOW, 0) // 2  # samples of zero audio on each side

    @staticmethod
    def mismatch(config: Any) -> str:
        """As `EncoderKind`; also for convolutions of another stride, and for removed fields."""
        if any(getattr(config, field, 0) for field in RETIRED_FIELDS):
            return (
                "it is the small encoder of an earlier version, which was removed: train the model "
                f"again, or use it with commit {LAST_COMMIT}"
            )
        hop = math.prod(config.conv_stride)
        if hop != HOP:
            return f"one feature every {hop} samples, expected every {HOP} (50 a second)"
        return EncoderKind.mismatch(config)

    @classmethod
    def build_body(cls, config: Any) -> nn.Module:
        """As `EncoderKind`."""
        return Wav2Vec2Body(config)

    @staticmethod
    def use_attention(body: nn.Module) -> None:
        """As `EncoderKind`."""
        if not isinstance(body, Wav2Vec2Body):
            attention.use_in(body)

    @staticmethod
    def frozen_part(body: nn.Module) -> nn.Module:
        """The convolutions."""
        return body.feature_extractor

    def convolve_batch(
        self,
        body: nn.Module,
        audio: Tensor,
        lengths: Tensor | None,
        moments: TimeMoments | None = None,
    ) -> Tensor:
        """As `EncoderKind`. Frozen leading layers run in float32 and without gradient.

        Without gradient all layers do.
        """
        n_frames = audio_frames(audio.shape[1])
        layers = list(body.feature_extractor.conv_layers)
        n_frozen = _leading_frozen(layers) if torch.is_grad_enabled() else len(layers)
        x = F.pad(audio, (self.margin, self.margin))[:, None].float()  # (B, 1, S)
        with torch.no_grad(), torch.autocast(audio.device.type, enabled=False):
            x = _convolve_frozen(layers[:n_frozen], x, moments)
        for layer in layers[n_frozen:]:
            x = layer(x)
        return x.transpose(1, 2)[:, :n_frames]

    def values_over_time(self, body: nn.Module, audio: ClipAudio) -> Iterator[Tensor] | None:
        """As `EncoderKind`: of group norm, the results of the first convolution."""
        if self.padding_is_safe:
            return None
        conv = body.feature_extractor.conv_layers[0].conv
        (kernel,), (stride,) = conv.kernel_size, conv.stride
        total, step = (len(audio) + 2 * self.margin - kernel) // stride + 1, CHUNK * HOP // stride
        ranges = ((first, min(first + step, total)) for first in range(0, total, step))
        return (
            conv(
                audio.read(
                    first * stride - self.margin, (stop - 1) * stride + kernel - self.margin
                )[None, None]
            )[0].T
            for first, stop in ranges
        )


class Wav2Vec2Bert(EncoderKind):
    """w2v-BERT 2.0 (Barrault et al. 2023, arXiv 2312.05187): Kaldi log-mel energies.

    They are normalised over the clip; two frames of 10 ms make one feature vector. No parameters
    come before the transformer, so nothing is frozen.
    """

    transformers_prefix = "Wav2Vec2Bert"
    shape_fields = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "hidden_act", "layer_norm_eps", "position_embeddings_type", "conv_depthwise_kernel_size",
        "feature_projection_input_dim", "rotary_embedding_base", "max_source_positions",
        "left_max_position_embeddings", "right_max_position_embeddings",
    )  # fmt: skip

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_buffer("filters", mel_filters(), persistent=False)
        self.register_buffer("window", povey_window(), persistent=False)

    def convolve_batch(
        self,
        body: nn.Module,
        audio: Tensor,
        lengths: Tensor | None,
        moments: TimeMoments | None = None,
    ) -> Tensor:
        """As `EncoderKind`, in float32; C0 is 160."""
        n_frames = audio_frames(audio.shape[1])
        n_needed = (2 * n_frames - 1) * MEL_HOP + WINDOW  # the last 10 ms may lie behind the end
        with torch.autocast(audio.device.type, enabled=False):
            padded = F.pad(audio.float(), (0, max(n_needed - audio.shape[1], 0)))
            energies = log_mel(padded, self.filters, self.window)[:, : 2 * n_frames]  # (B, 2A, 80)
            if moments is not None:
                variance = moments.variance * moments.n / (moments.n - 1)
                return fold((energies - moments.mean) / (variance + MEL_EPS).sqrt(), 2)
            mel_lengths = None if lengths is None else 2 * frame_lengths(lengths)
            return fold(normalise_over_time(energies, mel_lengths), 2)

    def values_over_time(self, body: nn.Module, audio: ClipAudio) -> Iterator[Tensor]:
        """As `EncoderKind`: the energies."""
        total, step = 2 * audio_frames(len(audio)), 2 * CHUNK
        for first in range(0, total, step):
            stop = min(first + step, total)
            part = audio.read(first * MEL_HOP, (stop - 1) * MEL_HOP + WINDOW)
            yield log_mel(part[None], self.filters, self.window)[0]


KINDS: dict[str, type[EncoderKind]] = {
    "wav2vec2": Wav2Vec2,
    "wav2vec2-bert": Wav2Vec2Bert,
    "moonshine": Moonshine,
}


def kind_of(model_type: str | None) -> type[EncoderKind]:
    """The class of an encoder's kind; `UserError` for an unknown `model_type`."""
    if not isinstance(model_type, str) or model_type not in KINDS:
        known = " or ".join(KINDS)
        raise UserError(f"speech encoder: model_type is {model_type!r}, expected {known}")
    return KINDS[model_type]


def _normed(layer: nn.Module, x: Tensor, moments: TimeMoments) -> Tensor:
    """A first convolution with group norm, of which the moments over time are known."""
    norm = layer.layer_norm
    scale = norm.weight / (moments.variance + norm.eps).sqrt()
    shift = norm.bias - moments.mean * scale
    return layer.activation(layer.conv(x) * scale[:, None] + shift[:, None])


def _convolve_frozen(layers: list[nn.Module], x: Tensor, moments: TimeMoments | None) -> Tensor:
    """(B, C_out, m) of the layers for x (B, C_in, n); moments: as of `convolve_batch`."""
    over_time = [isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm) for layer in layers]
    if any(over_time[:1]):
        first, *layers = layers
        x = first(x) if moments is None else _normed(first, x, moments)
    if layers and can_convolve(layers, x):
        return convolve(layers, x)
    for layer in layers:
        x = layer(x)
    return x


def _leading_frozen(layers: list[nn.Module]) -> int:
    """How many layers, from the first, have no parameter that is trained."""
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    return trained.index(True) if True in trained else len(layers)
