"""Gaussian diffusion with a network that predicts the clean signal.

Noise: Ho et al. 2020 (arXiv 2006.11239), equation 4; cosine schedule: Nichol and Dhariwal 2021
(arXiv 2102.09672), equation 17; sampling: DDIM, Song et al. 2020 (arXiv 2010.02502), equation 12
with sigma 0. FaceDiffuser's code has the same schedule, but limits each step's share of noise to
0.999, where alpha_bar is limited here.

Glossary:
    alpha_bar[t]    share of the clean signal's variance after t steps of noise; alpha_bar[0] = 1
    x_t             sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) noise
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

OFFSET = 0.008  # s of equation 17
BLOCK = 16  # numbers that torch's generator draws together
LEAST_ALPHA_BAR = 1e-5  # at t = T, where the cosine is 0


def cosine_alpha_bar(n_steps: int) -> Tensor:
    """(n_steps + 1,) alpha_bar for t = 0 .. n_steps, float32."""
    t = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    f = torch.cos((t + OFFSET) / (1 + OFFSET) * math.pi / 2).square()
    return (f / f[0]).clamp(min=LEAST_ALPHA_BAR).float()


def noised(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t of clean and noise (B, T, M); alpha_bar: (B,) at each clip's t."""
    kept = alpha_bar[:, None, None]
    return kept.sqrt() * clean + (1 - kept).sqrt() * noise


def sampling_times(n_steps: int, n_samples: int) -> list[int]:
    """The n_samples + 1 times of a sampler, evenly spaced from n_steps down to 0."""
    return torch.linspace(n_steps, 0, n_samples + 1).round().int().tolist()


def ddim(
    denoise: Callable[[Tensor, int], Tensor], noise: Tensor, alpha_bar: Tensor, times: list[int]
) -> Tensor:
    """x_t (B, T, M) at the last of `times`, from noise at the first, by deterministic steps.

    denoise(x_t, t): the predicted clean signal (B, T, M). At time 0 the result is the prediction.
    """
    x = noise
    for t, following in zip(times[:-1], times[1:], strict=True):
        clean = denoise(x, t)
        kept, next_kept = alpha_bar[t], alpha_bar[following]
        predicted_noise = (x - kept.sqrt() * clean) / (1 - kept).sqrt()
        x = next_kept.sqrt() * clean + (1 - next_kept).sqrt() * predicted_noise
    return x


def fixed_noise(n_frames: int, width: int, seed: int) -> Tensor:
    """Normal noise (T, M) on the CPU; a longer clip's begins with the same frames."""
    n = n_frames * width
    blocks = -(-n // BLOCK)  # torch draws whole blocks of normal numbers
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(blocks * BLOCK, generator=generator)[:n].view(n_frames, width)
