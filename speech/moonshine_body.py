"""Moonshine's encoder (Jeffries et al. 2024, arXiv 2410.15608) without transformers.

Its parameters have the names and shapes of transformers' MoonshineEncoder, its results are the
same, and so is its initialisation. It has no dropout: this project does not train it.

B batch, S samples at 16 kHz, N frames, L states, C width, H heads, D = C / H, P pairs of values of
a head that are rotated.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speech.encoder_config import ACTIVATIONS, EncoderConfig

KERNELS, STRIDES = (127, 7, 3), (64, 3, 2)  # of the convolutions


class Rotary(nn.Module):
    """Rotary embedding (Su et al. 2021, arXiv 2104.09864) of the first 2·P values of a head."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        rope = config.rope_parameters
        d_head = config.hidden_size // config.encoder_num_attention_heads
        self.base, self.size = rope["rope_theta"], int(d_head * rope["partial_rotary_factor"])

    def forward(self, n_frames: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Cosine and sine (N, P), float32, of the angles of each frame."""
        index = torch.arange(0, self.size, 2, dtype=torch.float, device=device)
        frequency = 1.0 / (self.base ** (index / self.size))  # (P,)
        angle = torch.arange(n_frames, device=device).float()[:, None] * frequency
        return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, N, D) with its first P pairs of neighbours rotated; cos, sin: (N, P)."""
    pairs, rest = x[..., : 2 * cos.shape[-1]], x[..., 2 * cos.shape[-1] :]
    a, b = pairs[..., 0::2], pairs[..., 1::2]
    turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    return torch.cat([turned, rest], dim=-1)


class Attention(nn.Module):
    """Self-attention, (B, N, C) to (B, N, C)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.attention_bias
        self.n_heads = config.encoder_num_attention_heads
        self.d_head = width // self.n_heads
        self.padding = -self.d_head % (config.pad_head_dim_to_multiple_of or 1)
        self.q_proj = nn.Linear(width, width, bias=bias)
        self.k_proj = nn.Linear(width, width, bias=bias)
        self.v_proj = nn.Linear(width, width, bias=bias)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """cos, sin: (N, P) of `Rotary`."""
        q, k, v = (
            project(x).unflatten(-1, (self.n_heads, self.d_head)).transpose(1, 2)  # (B, H, N, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        q, k, v = (F.pad(part, (0, self.padding)) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, scale=self.d_head**-0.5)
        return self.o_proj(y[..., : self.d_head].transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """(B, N, C) to (B, N, C)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.encoder_hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C)."""
        return self.fc2(self.activation(self.fc1(x)))


class EncoderLayer(nn.Module):
    """(B, N, C) to (B, N, C), with norms before attention and feed-forward."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """cos, sin: (N, P) of `Rotary`."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class MoonshineBody(nn.Module):
    """Audio (B, S) to states (B, N, C), named as a MoonshineEncoder of transformers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.conv1 = nn.Conv1d(1, width, KERNELS[0], STRIDES[0], bias=False)
        self.conv2 = nn.Conv1d(width, 2 * width, KERNELS[1], STRIDES[1])
        self.conv3 = nn.Conv1d(2 * width, width, KERNELS[2], STRIDES[2])
        self.groupnorm = nn.GroupNorm(1, width)
        self.layers = nn.ModuleList(
            EncoderLayer(config) for _ in range(config.encoder_num_hidden_layers)
        )
        self.layer_norm = nn.LayerNorm(width, bias=False)
        self.rotary_emb = Rotary(config)
        self.apply(self._init_weights)

    def forward(self, audio: Tensor) -> list[Tensor]:
        """L states (B, N, C): the transformer's input, then each layer's output, the last one
        normalised. audio: (B, S), S >= 895."""
        x = self.groupnorm(torch.tanh(self.conv1(audio[:, None])))
        x = F.gelu(self.conv3(F.gelu(self.conv2(x)))).transpose(1, 2)
        cos, sin = self.rotary_emb(x.shape[1], x.device)
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], cos, sin))
        states[-1] = self.layer_norm(states[-1])
        return states

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights, as transformers draws them."""
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def frames_of(n_samples: int) -> int:
    """N, the frames of S samples."""
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        n_samples = (n_samples - kernel) // stride + 1
    return n_samples
