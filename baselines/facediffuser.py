"""FaceDiffuser's decoder (Stan, Haque, Yumak, MIG 2023, arXiv 2309.11306): diffusion of the motion.

In training, noise of a random step is added to a clip's true motion; a GRU reads the noisy motion
together with the speech features and predicts the clean motion. The result is multiplied by an
embedding of the subject. A prediction starts from noise and takes 25 DDIM steps, each with the GRU
over all frames.

Sizes of the original are those of the released code (github.com/uuembodiedsocialai/FaceDiffuser:
models.py, main.py, utils.py, README.md): a GRU of two layers with dropout 0.3, of width 512 for
BIWI and 256 for VOCASET; a cosine schedule of 500 steps for BIWI and 1,000 for VOCASET; Adam
(1e-4), one clip a step, 50 epochs.

Differences from the original: the encoder is that of the recipe in place of HuBERT; width and
dropout are those of `ModelConfig`; the schedule is a cosine of 500 steps for all data; noise is
added to the motion, while the original adds it to the vertex positions as they are, template
included; with `vertex_rank`, the motion is the vertex head's coefficients instead of all vertices
(of rank 0: offsets in units of 2 mm); the noisy motion enters by one linear layer, without the
original's convolution and max pooling; the step is a sinusoid that passes two linear layers and is
added to the motion, while the original has a one-hot vector, one layer and a GRU input of its own;
there is no LayerNorm before the GRU; the subject embedding starts at 1; the sampler is
deterministic (DDIM with sigma 0) and its noise has a fixed seed, so that one recording always gives
one motion, while the original takes every step with new noise and gives another motion each time;
JambaTalk's final RMSNorm stands before the vertex head. Long clips are predicted in the windows of
`JambaTalk.stream`, each from its own noise. A subject that was not trained gets the mean of all
embeddings. The losses are those of the recipe on the predicted clean motion; the original's is a
Huber loss of the vertices, for errors below 1 half the vertex loss alone: w_velocity, w_latent,
w_ctc and w_lips 0.
"""

import torch
from torch import Tensor, nn

from baselines.biased_attention import periodic_positions
from baselines.conditioning import ConditionedDecoder, Given, motion_width, n_styles
from baselines.diffusion import cosine_alpha_bar, ddim, fixed_noise, noised, sampling_times
from config import ModelConfig

N_STEPS = 500  # of noise; the original's for BIWI, 1,000 for VOCASET
DDIM_STEPS = 25
MOTION_M = 0.002  # metres: the scale of offsets, for a vertex head without components
SEED = 0  # of the noise that a prediction starts from


class FaceDiffuserDecoder(ConditionedDecoder):
    """Predicts the clean motion of noisy motion; without true motion it samples."""

    needs_motion = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c, self.width = config, motion_width(config)
        self.scale = 1.0 if c.vertex_rank else MOTION_M
        self.noisy = nn.Linear(self.width, c.d_model)
        self.time = nn.Sequential(
            nn.Linear(c.d_model, c.d_model), nn.SiLU(), nn.Linear(c.d_model, c.d_model)
        )
        self.gru = nn.GRU(2 * c.d_model, c.d_model, 2, batch_first=True, dropout=c.dropout)
        self.style = nn.Linear(n_styles(c), c.d_model, bias=False)
        nn.init.ones_(self.style.weight)

    def forward(self, x: Tensor, mask: Tensor | None, given: Given) -> Tensor:
        """Outputs (B, T, D) of speech x (B, T, D); the GRU is causal, padding lies behind."""
        alpha_bar = cosine_alpha_bar(N_STEPS).to(x.device)
        if given.motion is not None:
            clean = given.motion / self.scale
            t = torch.randint(1, N_STEPS + 1, (len(x),), device=x.device)
            noisy = noised(clean, torch.randn_like(clean), alpha_bar[t])
            return self.denoise(x, noisy, t, given)

        noise = fixed_noise(x.shape[1], self.width, SEED).to(x.device).expand(len(x), -1, -1)
        times = sampling_times(N_STEPS, DDIM_STEPS)[:-1]  # the vertex head gives the last step's

        def output(noisy: Tensor, t: int) -> Tensor:
            return self.denoise(x, noisy, torch.full((len(x),), t, device=x.device), given)

        def clean_motion(noisy: Tensor, t: int) -> Tensor:
            return given.motion_of(output(noisy, t)) / self.scale

        return output(ddim(clean_motion, noise, alpha_bar, times), times[-1])

    def denoise(self, x: Tensor, noisy: Tensor, t: Tensor, given: Given) -> Tensor:
        """Outputs (B, T, D) for noisy motion (B, T, M) of the steps t (B,)."""
        table = periodic_positions(N_STEPS + 1, x.shape[2], N_STEPS + 1).to(x)
        moved = self.noisy(noisy.to(x.dtype)) + self.time(table[t])[:, None]  # (B, T, D)
        y, _ = self.gru(torch.cat([x, moved], dim=2))
        return y * self.style(given.styles)[:, None]
