"""The encoder kind Moonshine (Jeffries et al. 2024, arXiv 2410.15608): frozen, in windows.

Its convolutions give a frame every 384 samples (41.67 Hz); frame i is centred at sample
384·i + 447. A group norm and full attention over all of time follow, so the features of a frame
depend on what lies around it. Here a clip is encoded in windows of 6 s, every 2 s, of audio whose
level is evened out (`speech.level`). Before and after the clip, windows contain silence. A frame
is kept from the middle of a window. At the limits between two windows, their states are
cross-faded. So a frame depends on the 3.5 s around it at most, and not on the length of the clip.

B batch, S samples at 16 kHz, N frames of the encoder, A audio frames at 50 Hz, T mesh frames, k
encoder frames per mesh frame, L states, C width.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from config import SAMPLE_RATE
from files.packed_weights import unpack_weights
from files.shipped import check_shipped
from speech import level
from speech.clip_audio import ClipAudio, as_clip
from speech.encoder_config import moonshine_config
from speech.encoder_kind import EncoderKind
from speech.moonshine_body import MoonshineBody
from speech.onnx_encoder import OnnxEncoder
from speech.phone_head import PHONE_HEAD_FILE, PhoneHead, phone_head_of
from speech.timing import HOP, WINDOW, Count, audio_frames, mesh_frames
from speech.windows import SHORT

STRIDE = 384  # samples between two frames of the encoder
FIRST_CENTRE = 447  # sample at which its first frame is centred
SHORTEST = 895  # samples of one frame
LEVEL = 0.064  # mean absolute amplitude of its input: speech of standard deviation about 0.08
HOP_FRAMES = 84  # frames between two windows, 2.016 s
FADE_FRAMES = 20  # frames over which two windows are cross-faded
WINDOW_FRAMES = 3 * HOP_FRAMES  # frames of a window
WINDOW_SAMPLES = SHORTEST + STRIDE * (WINDOW_FRAMES - 1)
TOGETHER = 4  # windows that are encoded in one call
STORED_SETTINGS = {  # constants of the features that a store has under a key without them
    "level": 0.064, "hop_frames": 84, "window_frames": 252, "fade_frames": 20,
    "level_block": 160, "level_reach": 200, "level_floor": 1e-3,
}  # fmt: skip
PHASES = (0, STRIDE // 2)  # samples at which the encodings that a prediction averages begin

LEAD_IN_S = 0.1  # silence that the decoder gets before a clip that begins with steady noise

Encode = Callable[[Tensor], Tensor]  # of windows (B, WINDOW_SAMPLES), see `window_states`


class Moonshine(EncoderKind):
    """Moonshine's encoder (Jeffries et al. 2024, arXiv 2410.15608), all of it frozen.

    Its features are its L states side by side, C0 = L·C, at its own frames; see `speech.moonshine`
    for windows and instants. A clip is computed alone, because group norm and attention reach over
    all of a window. The weights of a folder are packed (`files.packed_weights`) or those of a
    MoonshineForConditionalGeneration. It may have a `speech.phone_head` as its CTC head.
    """

    transformers_prefix = "Moonshine"
    own_config = staticmethod(moonshine_config)
    shape_fields = (
        "hidden_size", "intermediate_size", "encoder_num_hidden_layers",
        "encoder_num_attention_heads", "encoder_num_key_value_heads", "encoder_hidden_act",
        "pad_head_dim_to_multiple_of", "attention_bias", "max_position_embeddings",
        "rope_parameters",
    )  # fmt: skip
    padding_is_safe = False
    windows = SHORT
    stride = STRIDE
    transformer_is_trained = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.onnx: OnnxEncoder | None = None  # of `use_onnx`

    @classmethod
    def build_body(cls, config: Any) -> nn.Module:
        """As `EncoderKind`."""
        return MoonshineBody(config)

    @classmethod
    def build_ctc(cls, config: Any) -> nn.Module:
        """As `EncoderKind`; `lm_head` is a `PhoneHead` where the config has one, or None."""
        head = phone_head_of(config, cls.n_states(config))
        return BodyWithHead(config, MoonshineBody(config), head)

    @staticmethod
    def own_weights(config: Any, folder: Path) -> dict[str, Tensor]:
        """As `EncoderKind`; `UserError` for a damaged file of the shipped encoder."""
        for name in ("model.safetensors", PHONE_HEAD_FILE):
            check_shipped(folder / name)
        weights = unpack_weights(load_file(folder / "model.safetensors"))
        others = ("model.decoder.", "proj_out.")
        body = {
            f"body.{name.removeprefix('model.encoder.')}": value
            for name, value in weights.items()
            if not name.startswith(others)
        }
        if getattr(config, "phone_head", None) is None:
            return body
        head = load_file(folder / PHONE_HEAD_FILE)
        return body | {f"lm_head.{name}": value for name, value in head.items()}

    @staticmethod
    def n_states(config: Any) -> int:
        """As `EncoderKind`."""
        return config.encoder_num_hidden_layers + 1

    @staticmethod
    def mismatch(config: Any) -> str:
        """As `EncoderKind`: strides are fixed and there are no adapters."""
        return ""

    @staticmethod
    def checkpoint_activations(body: nn.Module) -> None:
        """As `EncoderKind`: there is no backward pass through the body."""

    def use_onnx(self, body: nn.Module) -> None:
        """As `EncoderKind`."""
        self.onnx = OnnxEncoder(body, WINDOW_SAMPLES)

    def encode(self, body: nn.Module) -> Encode:
        """The function of windows that `window_states` needs, by torch or onnxruntime."""
        return partial(encoder_states, body) if self.onnx is None else self.onnx

    @staticmethod
    def frozen_part(body: nn.Module) -> nn.Module:
        """The whole body."""
        return body

    @classmethod
    def changed_settings(cls) -> dict[str, float]:
        """As `EncoderKind`."""
        now = {
            "level": LEVEL, "hop_frames": HOP_FRAMES, "window_frames": WINDOW_FRAMES,
            "fade_frames": FADE_FRAMES, "level_block": level.BLOCK, "level_reach": level.REACH,
            "level_floor": level.FLOOR,
        }  # fmt: skip
        return {name: value for name, value in now.items() if value != STORED_SETTINGS[name]}

    @staticmethod
    def native_lengths(n_samples: Count) -> Count:
        """N = (S - 895) // 384 + 1, and at least 1."""
        frames = (n_samples - SHORTEST) // STRIDE + 1
        return frames.clamp(min=1) if isinstance(frames, Tensor) else max(frames, 1)

    def convolve_batch(self, body: nn.Module, audio: Tensor, lengths: Tensor | None) -> Tensor:
        """As `EncoderKind`, in float32 and without gradient: (B, N, L·C)."""
        encode = self.encode(body)
        clips = [torch.cat(list(window_states(encode, clip))) for clip in audio]
        return torch.stack(clips)

    def at_audio_rate(self, conv: Tensor, n_samples: int, lengths: Tensor | None) -> Tensor:
        """As `EncoderKind`."""
        frames = torch.arange(audio_frames(n_samples), device=conv.device)
        return read_at(conv, frames * HOP + WINDOW // 2, self._last(lengths))

    def at_mesh_rate(
        self,
        body: nn.Module,
        conv: Tensor,
        fps: int,
        k: int,
        n_samples: int,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """As `EncoderKind`: (B, T·k, C0), each mesh frame read symmetrically about its instant."""
        instants = mesh_instants(0, mesh_frames(n_samples, fps) * k, fps, k)
        return read_at(conv, instants, self._last(lengths))

    def reader(
        self, body: nn.Module, audio: ClipAudio, fps: int, k: int
    ) -> Callable[[int, int], Tensor]:
        """As `EncoderKind`, but the mean of two encodings, half a frame of the encoder apart.

        It depends less on where the frames fall on the speech. Training reads one encoding. The
        states of a few windows are in memory at a time.
        """
        phases = [phase for phase in PHASES if len(audio) - phase >= WINDOW]
        encode = self.encode(body)
        readers = [StateReader(encode, audio, fps, k, phase) for phase in phases]
        return lambda start, stop: sum(read(start, stop) for read in readers) / len(readers)

    def lead_in_s(self, audio: ClipAudio) -> float:
        """As `EncoderKind`: before noise, in which a decoder without a past opens the lips."""
        return LEAD_IN_S if level.is_steady(audio.read(0, level.STEADY_SAMPLES)) else 0.0

    def window_step(self, fps: int, k: int) -> int:
        """As `EncoderKind`: a window may begin anywhere."""
        return 1

    def window_samples(self, n: int) -> int:
        """As `EncoderKind`."""
        return SHORTEST + -(-max(n - SHORTEST, 0) // STRIDE) * STRIDE

    def window_features(
        self,
        body: nn.Module,
        transform: Callable[[Tensor], Tensor],
        audio: Tensor,
        begin: int,
        frames: tuple[int, int],
        rates: tuple[int, int],
    ) -> Tensor:
        """As `EncoderKind`, but at one phase of the encoder's frames."""
        states = encoder_states(body, audio * LEVEL)
        return transform(read_at(states, mesh_instants(*frames, *rates) - begin))

    def transform(self, body: nn.Module, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last of the states in features (B, N, L·C): (B, N, C)."""
        return features[..., -body.config.hidden_size :]

    def states(self, body: nn.Module, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """The states in features (B, N, L·C): (B, N, L, C)."""
        return features.unflatten(-1, (-1, body.config.hidden_size))

    def read_text(
        self, model: nn.Module, features: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `EncoderKind`; with a head, the latents are its mean of all states."""
        if model.lm_head is None:
            return super().read_text(model, features, mask)
        latents = model.lm_head.latents(self.states(model.body, features))
        return latents, model.lm_head(latents, mask)

    def _last(self, lengths: Tensor | None) -> Tensor | None:
        """(B,) index of each clip's last frame; None where all have N frames."""
        return None if lengths is None else self.native_lengths(lengths) - 1


class StateReader:
    """Reads the states of one clip at the mesh's rate, range after range.

    encode: as of `window_states`; phase: first sample that is encoded. Call it with ranges that
    move forwards.
    """

    def __init__(self, encode: Encode, audio: ClipAudio, fps: int, k: int, phase: int = 0) -> None:
        self.fps, self.k, self.phase = fps, k, phase
        self.parts = window_states(encode, audio.after(phase))
        self.states = next(self.parts)  # (n, L·C) from frame `first` on
        self.first, self.is_complete = 0, False

    def __call__(self, start: int, stop: int) -> Tensor:
        """Features (1, stop - start, L·C) of these encoder frames at fps·k Hz."""
        instants = mesh_instants(start, stop, self.fps, self.k) - self.phase
        position = frame_position(instants)
        needed = int(position[-1]) + 2
        while not self.is_complete and self.first + len(self.states) < needed:
            part = next(self.parts, None)
            if part is None:
                self.is_complete = True
            else:
                self.states = torch.cat([self.states, part])
        unused = max(int(position[0]), 0) - self.first
        if unused > 0:
            self.states, self.first = self.states[unused:], self.first + unused
        return read_at(self.states[None], instants - self.first * STRIDE)


class BodyWithHead(nn.Module):
    """A body with the attributes of a CTC model of transformers.

    lm_head: a `PhoneHead`, or None for features without text.
    """

    base_model_prefix = "body"

    def __init__(self, config: Any, body: nn.Module, lm_head: PhoneHead | None) -> None:
        super().__init__()
        self.config, self.body, self.lm_head = config, body, lm_head


def mesh_instants(start: int, stop: int, fps: int, k: int) -> Tensor:
    """Instants, in samples, of encoder frames start to stop - 1 at fps·k Hz: float64, on the host.

    The k frames of mesh frame t lie symmetrically about t / fps seconds.
    """
    frames = torch.arange(start, stop, dtype=torch.float64, device="cpu")
    return (frames - (k - 1) / 2) * (SAMPLE_RATE / (fps * k))


def frame_position(instants: Tensor) -> Tensor:
    """Positions on the encoder's grid of frames of instants in samples."""
    return (instants - FIRST_CENTRE) / STRIDE


@torch.no_grad()
def window_states(encode: Encode, audio: Tensor | ClipAudio) -> Iterator[Tensor]:
    """Yield the states of a clip (S,) in order, (n, L·C) at a time, N frames in all.

    encode: states (B, WINDOW_FRAMES, L·C) of windows (B, WINDOW_SAMPLES), such as `encoder_states`
    of an encoder; audio: zero mean, unit variance; a few windows of it are in memory. Computed
    without gradient. Raises `ValueError` where S < 400.
    """
    audio = as_clip(audio)
    audio_frames(len(audio))  # raises `ValueError` for a clip that is too short
    n_frames = Moonshine.native_lengths(len(audio))
    n_windows = -(-n_frames // HOP_FRAMES)
    even, hop = level.EvenLevel(audio), HOP_FRAMES * STRIDE
    tail, half = None, FADE_FRAMES // 2
    for first in range(0, n_windows, TOGETHER):
        last = min(first + TOGETHER, n_windows) - 1
        part = even.read((first - 1) * hop, (last - 1) * hop + WINDOW_SAMPLES) * LEVEL
        for states in encode(part.unfold(0, WINDOW_SAMPLES, hop)):
            begin = HOP_FRAMES if tail is None else HOP_FRAMES - half
            part = states[begin : 2 * HOP_FRAMES + half]
            if tail is not None:
                rise = torch.linspace(0, 1, FADE_FRAMES + 2, device=part.device)[1:-1, None]
                part = torch.cat([torch.lerp(tail, part[:FADE_FRAMES], rise), part[FADE_FRAMES:]])
            kept, tail = part[:-FADE_FRAMES], part[-FADE_FRAMES:]
            if n_frames > len(kept):
                yield kept
                n_frames -= len(kept)
            else:
                yield kept[:n_frames]
                return
    yield tail[:n_frames]


def encoder_states(encoder: nn.Module, audio: Tensor) -> Tensor:
    """States (B, N, L·C) of audio (B, S), S >= 895, in float32; encoder: a `MoonshineBody`."""
    with torch.autocast(audio.device.type, enabled=False):
        return torch.cat(encoder(audio.float()), dim=-1)


def read_at(states: Tensor, instants: Tensor, last: Tensor | None = None) -> Tensor:
    """States (B, n, C) at instants (n,) in samples, linearly interpolated from (B, N, C).

    Instants before the first frame's centre get that frame. last: (B,) index of each clip's last
    frame, which instants behind it get; N - 1 when None.
    """
    batch, n_frames, width = states.shape
    device = states.device
    position = frame_position(instants.to(device, non_blocking=True).double()).clamp(min=0)
    if last is None:
        last = torch.full((batch,), n_frames - 1, device=device)
    limit = last.to(device, non_blocking=True)[:, None]
    position = torch.minimum(position.expand(batch, -1), limit.double())
    low = position.floor().long()
    weight = (position - low)[..., None].to(states.dtype)
    high = torch.minimum(low + 1, limit)
    low, high = (index[..., None].expand(-1, -1, width) for index in (low, high))
    return torch.lerp(states.gather(1, low), states.gather(1, high), weight)
