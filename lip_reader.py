"""The lip reader: a training-time critic that reads the text back from the moving lips.

Paper, section 3.4 (after SelfTalk): a lip encoder maps lip motion to the space of the speech
encoder's latents (L_lat) and a text decoder reads characters from it (L_ctc). It hears nothing,
so it can only read what the lips show. No checkpoint carries it and inference never loads it.

B batch, T mesh frames, A audio frames at 50 Hz, L lip vertices, K characters.
"""

import torch
from torch import Tensor, nn

from transformer import TransformerLayer
from wav2vec import AUDIO_FPS, length_mask, resample

CENTIMETRES = 100.0  # in a metre: lip offsets in centimetres are near 1, which layers like


class LipReader(nn.Module):
    """Lip offsets (B, T, L, 3) to teacher-space features and character logits.

    n_lips: L; d_teacher: width of the teacher's latents; n_characters: K, blank included;
    fps: mesh frames a second; metres_per_unit: of the offsets.
    """

    def __init__(
        self,
        n_lips: int,
        d_teacher: int,
        n_characters: int,
        fps: int,
        metres_per_unit: float = 1.0,
        d_model: int = 128,
        n_layers: int = 2,
        n_heads: int = 4,
    ) -> None:
        super().__init__()
        self.fps = fps
        self.scale = metres_per_unit * CENTIMETRES
        self.embed = nn.Linear(3 * n_lips, d_model)
        self.layers = nn.ModuleList(
            TransformerLayer(d_model, 2 * d_model, n_heads, n_heads // 2) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.to_latent = nn.Linear(d_model, d_teacher)
        self.to_characters = nn.Linear(d_teacher, n_characters)

    def forward(
        self, offsets: Tensor, n_audio_frames: int, frames: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features (B, A, d_teacher) and logits (B, A, K) for A = n_audio_frames.

        offsets: (B, T, L, 3) lip vertices minus template; frames: (B,) real frames of each clip.
        """
        x = self.embed(offsets.flatten(2) * self.scale)  # (B, T, d_model)
        mask = None if frames is None else length_mask(frames, x.shape[1])
        for layer in self.layers:
            x = layer(x, mask)
        x = resample(self.norm(x), AUDIO_FPS, frames, rate_in=self.fps)
        missing = n_audio_frames - x.shape[1]  # at most two: T = A·fps // 50
        if missing > 0:
            x = torch.cat([x, x[:, -1:].expand(-1, missing, -1)], dim=1)
        latent = self.to_latent(x[:, :n_audio_frames])  # (B, A, d_teacher)
        return latent, self.to_characters(latent)  # fmt: skip
