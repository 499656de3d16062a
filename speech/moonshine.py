"""The encoder kind Moonshine (Jeffries et al. 2024, arXiv 2410.15608): frozen, in windows.

Its convolutions give a frame every 384 samples (41.67 Hz); frame i is centred at sample
384·i + 447. A group norm and full attention over all of time follow, so the features of a frame
depend on the length of the clip. Here they are computed in windows: 2 s are kept, with up to 2 s of
audio before and after them. Then they are read at the centres of `speech.timing`'s frames, by
linear interpolation.

B batch, S samples at 16 kHz, N frames of the encoder, A audio frames at 50 Hz, L states, C width.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from config import SAMPLE_RATE
from files.packed_weights import unpack_weights
from speech.encoder_kind import EncoderKind
from speech.timing import HOP, WINDOW, audio_frames

STRIDE = 384  # samples between two frames of the encoder
FIRST_CENTRE = 447  # sample at which its first frame is centred
SHORTEST = 895  # samples of one frame
LEVEL = 0.08  # approximate standard deviation of the audio that it was trained on
KEPT = 2 * SAMPLE_RATE  # samples of a window whose features are kept
CONTEXT = 2 * SAMPLE_RATE  # samples before and after them


class Moonshine(EncoderKind):
    """Moonshine's encoder (Jeffries et al. 2024, arXiv 2410.15608), all of it frozen.

    Its features are its L states side by side, C0 = L·C; see `speech.moonshine` for windows and
    frame rate. It has no CTC head. A clip is computed alone, because group norm and attention reach
    over all of a window. The weights of a folder are packed (`files.packed_weights`) or those of a
    MoonshineForConditionalGeneration.
    """

    transformers_prefix = "Moonshine"
    shape_fields = (
        "hidden_size", "intermediate_size", "encoder_num_hidden_layers",
        "encoder_num_attention_heads", "encoder_num_key_value_heads", "encoder_hidden_act",
        "pad_head_dim_to_multiple_of", "attention_bias", "max_position_embeddings",
        "rope_parameters",
    )  # fmt: skip
    padding_is_safe = False
    transformer_is_trained = False

    @classmethod
    def transformers_class(cls, ending: str) -> type:
        """As `EncoderKind`; "Model" is the encoder alone."""
        if ending == "Model":
            from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder

            return MoonshineEncoder
        return super().transformers_class(ending)

    @classmethod
    def build_ctc(cls, config: Any) -> nn.Module:
        """As `EncoderKind`, without `lm_head`."""
        return BodyWithoutText(config, cls.transformers_class("Model")(config))

    @staticmethod
    def own_weights(config: Any, folder: Path) -> dict[str, Tensor]:
        """As `EncoderKind`."""
        weights = unpack_weights(load_file(folder / "model.safetensors"))
        others = ("model.decoder.", "proj_out.")
        return {
            f"body.{name.removeprefix('model.encoder.')}": value
            for name, value in weights.items()
            if not name.startswith(others)
        }

    @staticmethod
    def n_states(config: Any) -> int:
        """As `EncoderKind`."""
        return config.encoder_num_hidden_layers + 1

    @staticmethod
    def mismatch(config: Any) -> str:
        """As `EncoderKind`: strides are fixed and there are no adapters."""
        return ""

    @staticmethod
    def frozen_part(body: nn.Module) -> nn.Module:
        """The whole body."""
        return body

    def convolve_batch(self, body: nn.Module, audio: Tensor, lengths: Tensor | None) -> Tensor:
        """As `EncoderKind`, in float32 and without gradient; C0 is L·C."""
        return states_at_50_hz(body, audio)

    def transform(self, body: nn.Module, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last of the states in features (B, N, L·C): (B, N, C)."""
        return features[..., -body.config.hidden_size :]

    def states(self, body: nn.Module, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """The states in features (B, N, L·C): (B, N, L, C)."""
        return features.unflatten(-1, (-1, body.config.hidden_size))


class BodyWithoutText(nn.Module):
    """A body with the attributes of a CTC model of transformers, without a CTC head."""

    base_model_prefix = "body"
    lm_head = None

    def __init__(self, config: Any, body: nn.Module) -> None:
        super().__init__()
        self.config, self.body = config, body


@torch.no_grad()
def states_at_50_hz(encoder: nn.Module, audio: Tensor) -> Tensor:
    """The encoder's L = layers + 1 states (B, A, L·C) of audio (B, S) with unit variance.

    encoder: a MoonshineEncoder of transformers. Computed in float32 and without gradient. Raises
    `ValueError` where S < 400.
    """
    n_frames, parts = audio_frames(audio.shape[1]), []
    for start in range(0, audio.shape[1], KEPT):
        frames = range(frames_before(start), min(frames_before(start + KEPT), n_frames))
        if not frames:
            continue
        begin = max(start - CONTEXT, 0)
        states = encoder_states(encoder, audio[:, begin : start + KEPT + CONTEXT])  # (B, N, L·C)
        centres = torch.arange(frames.start, frames.stop, device=audio.device) * HOP + WINDOW // 2
        parts.append(read_at(states, centres - begin))
    return torch.cat(parts, dim=1)


def frames_before(sample: int) -> int:
    """The number of audio frames that are centred before a sample."""
    return max(-(-(sample - WINDOW // 2) // HOP), 0)


def encoder_states(encoder: nn.Module, audio: Tensor) -> Tensor:
    """States (B, N, L·C) of audio (B, S): the convolutions', then those of each layer.

    The last one is normalised by the encoder's own layer norm. Audio of S < 895 is padded with
    zeros.
    """
    audio = F.pad(audio.float() * LEVEL, (0, max(SHORTEST - audio.shape[1], 0)))
    with torch.autocast(audio.device.type, enabled=False):
        output: Any = encoder(audio, output_hidden_states=True)
    return torch.cat(output.hidden_states, dim=-1)


def read_at(states: Tensor, samples: Tensor) -> Tensor:
    """States (B, A, C) at the given samples (A,), linearly interpolated from states (B, N, C).

    Samples before the first frame's centre get that frame, samples behind the last's the last.
    """
    position = ((samples - FIRST_CENTRE) / STRIDE).clamp(0, states.shape[1] - 1)
    low = position.floor()
    weight = (position - low)[:, None]
    low = low.long()
    high = (low + 1).clamp(max=states.shape[1] - 1)
    return torch.lerp(states[:, low], states[:, high], weight)
