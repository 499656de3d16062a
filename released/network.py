"""The network exactly as the public JambaTalk release computes it.

What it computes was found from the release's numbers, not from its code; it differs from the paper,
and from `jambatalk`, in this:

    one Mamba block, one MoE-Mamba block and one attention layer are applied again and again
    n(x) = x / (|x| · sqrt(D)), a norm without gain that leaves vectors of length 1 / sqrt(D)
    a step M is one bare Mamba block, without norm and without residual (`layers.mamba.Mamba`)
    a step E is x + MoE(n(Mamba(n(x)) + n(x))); experts are w2·relu(w1·x), without bias
    the step A normalises after its residuals, has as many key heads as query heads, and turns
    queries and keys before the heads are split, so that frequencies span all of them
    VOCASET's features at 50 Hz are stretched to T = int(A / 50 · 30) with both ends in place,
    BIWI's are paired after the encoder

The release drops second experts at random even when it predicts; here all are kept, so that
prediction is deterministic. Parameter names are the release's.

B batch, S samples at 16 kHz, A audio frames (50 Hz), T mesh frames, V vertices, D decoder width,
E experts, H heads, C0 and C convolutional and transformer width of the speech encoder, k features
of it a mesh frame.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import ModelConfig
from layers.mamba import Mamba
from layers.transformer import ROTARY_BASE, attend
from speech.bodies import build_body
from speech.features import fold
from speech.timing import AUDIO_FPS, HOP, WINDOW, audio_frames

EXPERT_GROWTH = 4  # an expert's inner width / D
CHUNK_S = 20  # the encoder's convolutions run over so much audio at once
HEAD_FRAMES = 100  # frames that the vertex head gives at once


def scaled_norm(x: Tensor) -> Tensor:
    """x (..., D) with length 1 / sqrt(D), no gain (zeta's SimpleRMSNorm)."""
    return F.normalize(x, dim=-1) * x.shape[-1] ** -0.5


class Router(nn.Module):
    """(B, T, D) to the weights of the experts (B, T, E), which sum to 1 a frame."""

    def __init__(self, d_model: int, n_experts: int) -> None:
        super().__init__()
        self.w_gating = nn.Parameter(torch.zeros(d_model, n_experts))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w_gating).softmax(-1)


class Experts(nn.Module):
    """E networks w2·relu(w1·x), D to 4·D to D, whose outputs are added up by weight."""

    def __init__(self, d_model: int, n_experts: int) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.zeros(n_experts, d_model, EXPERT_GROWTH * d_model))
        self.w2 = nn.Parameter(torch.zeros(n_experts, EXPERT_GROWTH * d_model, d_model))

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """x: (B, T, D).  gates: (B, T, E).  Returns (B, T, D); memory is linear in T."""
        weights = zip(self.w1, self.w2, gates.unbind(-1), strict=True)
        return sum(gate[..., None] * (F.relu(x @ w1) @ w2) for w1, w2, gate in weights)


class Mixture(nn.Module):
    """Every expert for every frame, weighted by the router."""

    def __init__(self, d_model: int, n_experts: int) -> None:
        super().__init__()
        self.gate = Router(d_model, n_experts)
        self.experts = Experts(d_model, n_experts)

    def forward(self, x: Tensor) -> Tensor:
        return self.experts(x, self.gate(x))


class MoEMamba(nn.Module):
    """A step E: (B, T, D) to the same."""

    def __init__(self, d_model: int, d_state: int, d_conv: int, expand: int, n_experts: int):
        super().__init__()
        self.mamba = Mamba(d_model, d_state, d_conv, expand)
        self.moe = Mixture(d_model, n_experts)

    def forward(self, x: Tensor) -> Tensor:
        inner = scaled_norm(x)  # (B, T, D)
        return x + self.moe(scaled_norm(self.mamba(inner) + inner))


class FullWidthRotary(nn.Module):
    """LRL-RoPE over all D channels: a rotary table plus its learnt low-rank correction."""

    def __init__(self, d_model: int, rank: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(d_model, rank, bias=False), nn.Linear(rank, d_model, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) with each pair of neighbouring channels turned by its frame's angle."""
        frames, width = x.shape[1:]
        index = torch.arange(0, width, 2, device=x.device).float()
        theta = ROTARY_BASE ** (-index / width)  # (D / 2,)
        angle = torch.arange(frames, device=x.device).float()[:, None] * theta  # (T, D / 2)
        base = torch.cat([angle.sin(), angle.cos()], dim=-1)  # (T, D)
        sin, cos = (base + self.proj(base)).chunk(2, dim=-1)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class AttentionLayer(nn.Module):
    """The step A: (B, T, D) to the same; norms stand after the residuals."""

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
        q, k = self.lrl_rope(self.q_proj(x)), self.lrl_rope(self.k_proj(x))
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)) for part in (q, k, self.v_proj(x)))
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))  # (B, H, T, D / H)
        x = self.norm1(x + self.out_proj(y.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class ReleasedJambaTalk(nn.Module):
    """Speech and a neutral face to a moving face, as published.

    The encoder and the attention step see the whole clip, as in the release: memory grows with
    its length, time with the square of it. Clips up to some ten minutes are sensible; cut longer
    ones, or train `jambatalk.JambaTalk`, which predicts in windows.
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
        """Vertices (B, T, V, 3) for audio (B, S), as `predict` takes it, and template (V, 3)."""
        offsets = self.vertice_map_r(self.decode(self.encode(audio)))  # (B, T, 3·V)
        return template + offsets.unflatten(-1, (-1, 3))

    def encode(self, audio: Tensor) -> Tensor:
        """(B, S) audio to features (B, T, k·C) at the mesh's rate."""
        features = self.convolve(audio)  # (B, C0, A)
        if self.config.fold == 1:
            frames = stretched_frames(features.shape[-1], self.config.fps)
            features = F.interpolate(features, frames, mode="linear", align_corners=True)
        hidden, _ = self.audio_encoder.feature_projection(features.transpose(1, 2))
        hidden = self.audio_encoder.encoder(hidden).last_hidden_state  # (B, T·k, C)
        return fold(hidden, self.config.fold)

    def convolve(self, audio: Tensor) -> Tensor:
        """(B, S) audio to features (B, C0, A), a stretch at a time: exact for per-frame norms."""
        n_frames = audio_frames(audio.shape[1])
        whole = self.audio_encoder.config.feat_extract_norm == "group"
        step = n_frames if whole else CHUNK_S * AUDIO_FPS
        stretches = [
            audio[:, start * HOP : (min(start + step, n_frames) - 1) * HOP + WINDOW]
            for start in range(0, n_frames, step)
        ]
        return torch.cat([self.audio_encoder.feature_extractor(s) for s in stretches], dim=-1)

    def decode(self, features: Tensor) -> Tensor:
        """Features (B, T, k·C) to what the vertex head reads, (B, T, D)."""
        steps = {"M": self.mamba, "E": self.mamba_moe, "A": self.transformer_decoder}
        x = self.audio_feature_map(features)
        for step in self.config.layout:
            x = steps[step](x)
        return x

    @torch.inference_mode()
    def stream(self, audio: Tensor, template: Tensor) -> Iterator[Tensor]:
        """Yield vertices (n, V, 3) of one clip in order; arguments and frames as `predict`."""
        if audio.shape[:-1] not in ((), (1,)):
            raise ValueError(f"audio {tuple(audio.shape)}: one clip at a time, (1, S) or (S,)")
        audio = audio.reshape(1, -1)
        if audio.shape[1] < WINDOW + HOP:
            raise ValueError(f"{audio.shape[1]} samples; at least {WINDOW + HOP} make a frame")
        if template.shape != (self.config.n_vertices, 3):
            raise ValueError(f"template {tuple(template.shape)} for {self.config.n_vertices}")
        self.eval()
        for x in self.decode(self.encode(audio))[0].split(HEAD_FRAMES):  # (n, D)
            yield template + self.vertice_map_r(x).unflatten(-1, (-1, 3))

    def predict(self, audio: Tensor, template: Tensor, hold_end: bool = False) -> Tensor:
        """Vertices (T, V, 3) of one clip, in the template's unit.

        audio: (1, S) or (S,) float32 at 16 kHz, zero mean and unit variance, S >= 720.
        template: (V, 3) float32. T is the release's own count, A = (S - 400) // 320 + 1 frames at
        50 Hz brought to the mesh's rate: a second has 29 frames of 30, or 24 of 25.
        hold_end: repeat the last frame until the frames cover the audio.
        """
        vertices = torch.cat(list(self.stream(audio, template)))
        if hold_end:
            wanted = -(-audio.shape[-1] * self.config.fps // (HOP * AUDIO_FPS))
            vertices = torch.cat([vertices, vertices[-1:].expand(wanted - len(vertices), -1, -1)])
        return vertices


def stretched_frames(n_audio: int, fps: int) -> int:
    """T of A = `n_audio` frames: int(A / 50 · fps), in floating point as the release and its peers.

    So computed (FaceFormer, arXiv 2112.05329, its published code), T is one less than A·fps // 50
    for a few A: 122, not 123, for 205.
    """
    return int(n_audio / float(AUDIO_FPS) * fps)
