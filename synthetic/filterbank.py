"""Wav2vec 2.0 convolutions with the fixed weights of a compressed mel filterbank.

Convolutions trained on synthetic speech alone overfit to artefacts of synthetic speech. These are
wav2vec 2.0's own layers (group norm after the first, with biases), but their weights are set by
hand and frozen:

layer 0  windowed sinusoids at `N_BANDS` mel-spaced frequencies, each in four phases (cos, -cos,
         sin, -sin); wide bands get three short windows instead of a long one. Group norm divides
         every channel by its RMS over the clip, which removes the colour of microphone and room.
         GELU of opposite phases adds up to the rectified output.
layer 1  adds the phases (and windows) of a band: its magnitude m in each of two 10 ms steps,
         then GELU(m / θ - 1) at `LEVELS` thresholds θ, a ladder of straight pieces
layer 2  joins the ladder to about log(m + θ0), one channel a band and step, shifted to where
         GELU is the identity

The layers after these are trained, on these channels normalised over the clip
(speech.kinds.Wav2Vec2). On human speech the correlation of the bands with the normalised
log-mel is above 0.93 (median), and a random equaliser changes them by a few per cent of their
deviation (tests/test_filterbank.py).
"""

import math

import torch
from torch import Tensor, nn

from config import SAMPLE_RATE

N_BANDS = 64
LOW_HZ, HIGH_HZ = 70.0, 7_600.0
N_LONG = 16  # lowest bands with one window over the whole kernel; the others have three
LEVELS = 4
STEPS = 2  # 10 ms steps in a 20 ms frame, in separate channels
PHASES = (0.0, math.pi, math.pi / 2, -math.pi / 2)
GAIN = 20.0  # group norm's weight: rectification is linear down to 26 dB below a band's RMS
FIRST_LEVEL, LEVEL_STEP = 0.3, 5.0
SHIFT = 4.0  # GELU(x) = x within 1e-4 for x > 4
CHANNELS_0 = (N_LONG + 3 * (N_BANDS - N_LONG)) * len(PHASES)  # 640
CHANNELS_2 = N_BANDS * STEPS  # 128
CHANNELS_1 = CHANNELS_2 * LEVELS  # 512


def init_filterbank(extractor: nn.Module) -> None:
    """Set and freeze the first three convolutions of a Wav2Vec2FeatureEncoder in place.

    Raises ValueError when their sizes are not (640, 512, 128) with kernels (*, 2, 1).
    """
    first, second, third = extractor.conv_layers[:3]
    widths = tuple(layer.conv.weight.shape[0] for layer in (first, second, third))
    expected = (CHANNELS_0, CHANNELS_1, CHANNELS_2)
    if widths != expected:
        raise ValueError(f"convolutions: expected {expected} channels, got {widths}")
    filters, band_of = sinusoids(first.conv.kernel_size[0])
    with torch.no_grad():
        first.conv.weight.copy_(filters[:, None])
        first.conv.bias.zero_()
        first.layer_norm.weight.fill_(GAIN)
        first.layer_norm.bias.zero_()
        _ladder(second.conv, band_of)
        _join(third.conv)
    for layer in (first, second, third):
        layer.requires_grad_(False)
    extractor._requires_grad = False  # no gradient with respect to the wave


def mel(hz: float) -> float:
    """Kaldi's mel scale."""
    return 1127.0 * math.log1p(hz / 700.0)


def sinusoids(n_taps: int) -> tuple[Tensor, Tensor]:
    """Kernels (640, n_taps) of unit energy, and the band of each (640,)."""
    edges = torch.linspace(mel(LOW_HZ), mel(HIGH_HZ), N_BANDS + 2, dtype=torch.float64)
    hz = 700.0 * (torch.exp(edges / 1127.0) - 1.0)
    taps = torch.arange(n_taps, dtype=torch.float64)
    kernels, bands = [], []
    for band in range(N_BANDS):
        centres = [n_taps / 2] if band < N_LONG else [n_taps * f for f in (0.3, 0.5, 0.7)]
        width = n_taps if band < N_LONG else n_taps * 0.5
        for centre in centres:
            time = taps - centre + 0.5
            window = torch.cos(math.pi * time / width).clamp(min=0).square()
            window = torch.where(time.abs() < width / 2, window, 0.0)
            for phase in PHASES:
                wave = window * torch.cos(2 * math.pi * hz[band + 1] * time / SAMPLE_RATE + phase)
                kernels.append(wave / wave.norm())
                bands.append(band)
    return torch.stack(kernels).float(), torch.tensor(bands)


def level(i: int) -> float:
    """Threshold θ_i of the ladder."""
    return FIRST_LEVEL * LEVEL_STEP**i


def _ladder(conv: nn.Conv1d, band_of: Tensor) -> None:
    conv.weight.zero_()
    for band in range(N_BANDS):
        members = torch.nonzero(band_of == band).flatten()
        share = 2.0 / len(members)  # two opposite phases are silent
        for step in range(STEPS):
            for i in range(LEVELS):
                row = (band * STEPS + step) * LEVELS + i
                conv.weight[row, members, step] = share / level(i)
                conv.bias[row] = -1.0 if i else 0.0


def _join(conv: nn.Conv1d) -> None:
    """Slope 1/θ_i between θ_i and θ_(i+1); each rung reduces the slope of the previous one."""
    conv.weight.zero_()
    conv.bias.fill_(SHIFT)
    rows, slope = torch.arange(CHANNELS_2), 0.0
    for i in range(LEVELS):
        target = math.log(LEVEL_STEP) / (LEVEL_STEP - 1) / level(i)
        conv.weight[rows, rows * LEVELS + i, 0] = (target - slope) * level(i)
        slope = target
