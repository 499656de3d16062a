"""The network of the published weights, with the outputs of the public JambaTalk release.

It was reconstructed from the release's numbers, not from its code. Differences from the paper and
from `jambatalk`:

    One Mamba block, one MoE-Mamba block and one attention layer serve all steps of the layout.
    n(x) = x / (|x| · sqrt(D)) is a norm without gain: vectors get the length 1 / sqrt(D).
    Step M is one Mamba block without norm and residual (`layers.mamba.Mamba`).
    Step E is x + MoE(n(Mamba(n(x)) + n(x))); experts are w2·relu(w1·x), without bias.
    Step A normalises after its residuals and has as many key heads as query heads. It rotates
    queries and keys before the heads are split, so the rotary frequencies span all heads.
    VOCASET's features at 50 Hz are interpolated to T = int(A / 50 · 30) frames, first and last
    included; BIWI's are folded in pairs after the encoder.

The release drops second experts at random in prediction, too. Here all are kept, so prediction is
deterministic. Parameter names are the release's.

B batch, S samples at 16 kHz, A audio frames (50 Hz), T mesh frames, V vertices, D decoder width,
E experts, H heads, C0 and C convolutional and transformer width of the speech encoder, k encoder
frames per mesh frame.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import ModelConfig
from layers.mamba import Mamba
from layers.transformer import ROTARY_BASE, attend_grouped
from speech.bodies import build_body
from speech.clip_audio import ClipAudio
from speech.fast_convolutions import can_convolve, convolve
from speech.features import fold
from speech.recording import check_clip
from speech.stored_speech import StoredSpeech
from speech.timing import AUDIO_FPS, HOP, MIN_SAMPLES, WINDOW, audio_frames

EXPERT_GROWTH = 4  # inner width of an expert / D
CHUNK_S = 20  # seconds of audio that the encoder's convolutions process at once
HEAD_FRAMES = 100  # mesh frames that the vertex head computes at once


def scaled_norm(x: Tensor) -> Tensor:
    """x (..., D) scaled to the length 1 / sqrt(D), without gain (zeta's SimpleRMSNorm)."""
    return F.normalize(x, dim=-1) * x.shape[-1] ** -0.5


class Router(nn.Module):
    """(B, T, D) to the weights of the experts (B, T, E), which sum to 1 in each frame."""

    def __init__(self, d_model: int, n_experts: int) -> None:
        super().__init__()
        self.w_gating = nn.Parameter(torch.zeros(d_model, n_experts))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, E), softmax of the logits."""
        return (x @ self.w_gating).softmax(-1)


class Experts(nn.Module):
    """The weighted sum of E networks w2·relu(w1·x), D to 4·D to D."""

    def __init__(self, d_model: int, n_experts: int) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.zeros(n_experts, d_model, EXPERT_GROWTH * d_model))
        self.w2 = nn.Parameter(torch.zeros(n_experts, EXPERT_GROWTH * d_model, d_model))

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """(B, T, D) from x (B, T, D) and gates (B, T, E). Memory is linear in T."""
        weights = zip(self.w1, self.w2, gates.unbind(-1), strict=True)
        return sum(gate[..., None] * (F.relu(x @ w1) @ w2) for w1, w2, gate in weights)


class Mixture(nn.Module):
    """All experts on all frames, weighted by the router: (B, T, D) to (B, T, D)."""

    def __init__(self, d_model: int, n_experts: int) -> None:
        super().__init__()
        self.gate = Router(d_model, n_experts)
        self.experts = Experts(d_model, n_experts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D)."""
        return self.experts(x, self.gate(x))


class MoEMamba(nn.Module):
    """Step E of the layout: (B, T, D) to (B, T, D)."""

    def __init__(
        self, d_model: int, d_state: int, d_conv: int, expand: int, n_experts: int
    ) -> None:
        super().__init__()
        self.mamba = Mamba(d_model, d_state, d_conv, expand)
        self.moe = Mixture(d_model, n_experts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D)."""
        inner = scaled_norm(x)  # (B, T, D)
        return x + self.moe(scaled_norm(self.mamba(inner) + inner))


class FullWidthRotary(nn.Module):
    """LRL-RoPE over all D channels: a rotary table plus its trained low-rank correction."""

    def __init__(self, d_model: int, rank: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(d_model, rank, bias=False), nn.Linear(rank, d_model, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D), each pair of neighbouring channels rotated by the angle of its frame."""
        frames, width = x.shape[1:]
        index = torch.arange(0, width, 2, device=x.device).float()
        theta = ROTARY_BASE ** (-index / width)  # (D / 2,)
        angle = torch.arange(frames, device=x.device).float()[:, None] * theta  # (T, D / 2)
        base = torch.cat([angle.sin(), angle.cos()], dim=-1)  # (T, D)
        sin, cos = (base + self.proj(base)).chunk(2, dim=-1)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class AttentionLayer(nn.Module):
    """Step A of the layout: (B, T, D) to (B, T, D), with norms after the residuals."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int, rank: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.lrl_rope = FullWidthRotary(d_model, rank)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D)."""
        q, k = self.lrl_rope(self.q_proj(x)), self.lrl_rope(self.k_proj(x))
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)) for part in (q, k, self.v_proj(x)))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, H, T, D / H)
        y = attend_grouped(q, k, v)
        x = self.norm1(x + self.out_proj(y.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class ReleasedJambaTalk(nn.Module):
    """Speech and a neutral face to a moving face, as published.

    The encoder and the attention step process the whole clip at once, as in the release: memory
    grows with its length, time with the square of it. Cut clips of more than ten minutes, or train
    `jambatalk.JambaTalk`, which predicts in windows.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = self.config = config
        self.audio_encoder = build_body(c.encoder)
        self.audio_feature_map = nn.Linear(
            c.fold * self.audio_encoder.config.hidden_size, c.d_model
        )
        self.mamba = Mamba(c.d_model, c.d_state, c.d_conv, c.expand)
        self.mamba_moe = MoEMamba(c.d_model, c.moe_d_state, c.moe_d_conv, c.expand, c.n_experts)
        self.transformer_decoder = AttentionLayer(c.d_model, c.n_heads, c.d_ff, c.rope_rank)
        self.vertice_map_r = nn.Linear(c.d_model, 3 * c.n_vertices)

    def forward(self, audio: Tensor, template: Tensor) -> Tensor:
        """Vertices (B, T, V, 3) in the template's unit.

        audio: (B, S) float32 at 16 kHz, zero mean and unit variance; template: (V, 3).
        """
        offsets = self.vertice_map_r(self.decode(self.encode(audio)))  # (B, T, 3·V)
        return template + offsets.unflatten(-1, (-1, 3))

    def encode(self, audio: Tensor) -> Tensor:
        """Features (B, T, k·C) at the mesh's rate for audio (B, S)."""
        features = self.convolve(audio)  # (B, C0, A)
        if self.config.fold == 1:
            frames = stretched_frames(features.shape[-1], self.config.fps)
            features = F.interpolate(features, frames, mode="linear", align_corners=True)
        hidden, _ = self.audio_encoder.feature_projection(features.transpose(1, 2))
        hidden = self.audio_encoder.encoder(hidden).last_hidden_state  # (B, T·k, C)
        return fold(hidden, self.config.fold)

    def convolve(self, audio: Tensor) -> Tensor:
        """Features (B, C0, A) for audio (B, S), in chunks to save memory.

        With layer norm, which is per frame, the chunks join exactly; group norm, which is over
        time, gets the whole clip.
        """
        layers, x = self.audio_encoder.feature_extractor.conv_layers, audio[:, None]
        if not torch.is_grad_enabled() and can_convolve(layers, x):
            return convolve(layers, x)
        n_frames = audio_frames(audio.shape[1])
        norm_over_time = self.audio_encoder.config.feat_extract_norm == "group"
        step = n_frames if norm_over_time else CHUNK_S * AUDIO_FPS
        chunks = [
            audio[:, start * HOP : (min(start + step, n_frames) - 1) * HOP + WINDOW]
            for start in range(0, n_frames, step)
        ]
        return torch.cat([self.audio_encoder.feature_extractor(c) for c in chunks], dim=-1)

    def decode(self, features: Tensor) -> Tensor:
        """Features (B, T, k·C) to the input of the vertex head (B, T, D)."""
        steps = {"M": self.mamba, "E": self.mamba_moe, "A": self.transformer_decoder}
        x = self.audio_feature_map(features)
        for step in self.config.layout:
            x = steps[step](x)
        return x

    @torch.inference_mode()
    def stream(
        self, audio: Tensor | StoredSpeech, template: Tensor, subject: str | None = None
    ) -> Iterator[Tensor]:
        """Yield vertices (n, V, 3) of one clip in order, n at most 100; otherwise as `predict`.

        Stored speech is read as a whole. subject: as in `JambaTalk.stream`; it has no effect.
        """
        if isinstance(audio, Tensor) and audio.ndim == 2 and len(audio) == 1:
            audio = audio[0]
        check_clip(audio, template, MIN_SAMPLES, self.config.n_vertices)
        audio = ClipAudio(audio, template.device).read(0, len(audio))
        self.eval()
        for x in self.decode(self.encode(audio[None]))[0].split(HEAD_FRAMES):  # (n, D)
            yield template + self.vertice_map_r(x).unflatten(-1, (-1, 3))

    def predict(self, audio: Tensor, template: Tensor, subject: str | None = None) -> Tensor:
        """Vertices (T, V, 3) of one clip, in the template's unit.

        audio: (1, S) or (S,) float32 at 16 kHz, zero mean and unit variance, S >= 720; template:
        (V, 3) float32. T is the release's: A = (S - 400) // 320 + 1 frames at 50 Hz brought to the
        mesh's rate, so a clip of one second has 29 frames at 30 fps, or 24 at 25 fps. Raises
        `ValueError` for other input.
        """
        return torch.cat(list(self.stream(audio, template, subject)))


def stretched_frames(n_audio: int, fps: int) -> int:
    """T = int(A / 50 · fps) of A = `n_audio` frames, in floating point as the release.

    FaceFormer's published code (arXiv 2112.05329) computes it in this way. For a few A, T is one
    less than A·fps // 50: 122, not 123, for A = 205.
    """
    return int(n_audio / float(AUDIO_FPS) * fps)
