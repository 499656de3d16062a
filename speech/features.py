"""Pure functions on feature frames: resampling, folding, masks, Kaldi's log-mel energies.

B batch, S samples at 16 kHz, A audio frames at 50 Hz, N frames at any rate, T mesh frames, C any
width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from config import SAMPLE_RATE
from speech.timing import AUDIO_FPS, WINDOW

MEL_HOP, MEL_BINS, MEL_FFT = 160, 80, 512  # w2v-BERT 2.0: 10 ms hop, 80 bands, 512-point FFT
PCM_SCALE = 2.0**15  # full scale of 16-bit integers, of which Kaldi computes energies
MEL_EPS = 1e-7  # added to the variance of a band
MEL_FLOOR = 1.192092955078125e-07  # Kaldi's float epsilon


def resample(
    features: Tensor, rate: int, lengths: Tensor | None = None, rate_in: int = AUDIO_FPS
) -> Tensor:
    """Features (B, N * rate // rate_in, C), linearly interpolated in time.

    Output frame t is the input at position t * rate_in / rate. It depends on this position alone,
    not on the length of the clip, so windows of long audio join exactly.
    features: (B, N, C) at `rate_in` Hz; rate: Hz; lengths: (B,) frames of each clip, all N when
    None. Positions behind a clip's last frame get that frame, never padding.
    """
    if rate == rate_in:
        return features
    batch, n_in, _ = features.shape
    n_out = n_in * rate // rate_in
    last = torch.full((batch, 1), n_in - 1, device=features.device)
    if lengths is not None:
        last = lengths.to(features.device, non_blocking=True)[:, None] - 1
        last = last.clamp(min=0)
    position = torch.arange(n_out, device=features.device) * (rate_in / rate)  # (N_out,)
    return _interpolated(features, position, last, 0)


def resample_part(
    part: Tensor, first: int, frames: tuple[int, int], n_in: int, rate: int
) -> Tensor:
    """Frames start to stop - 1 of `resample` of one clip, (1, stop - start, C).

    part: (1, n, C), frames `first` to first + n - 1 of the clip's `n_in` at 50 Hz, with the two
    around each position; frames: start and stop.
    """
    if rate == AUDIO_FPS:
        return part[:, frames[0] - first : frames[1] - first]
    position = torch.arange(*frames, device=part.device) * (AUDIO_FPS / rate)
    last = torch.full((1, 1), n_in - 1, device=part.device)
    return _interpolated(part, position, last, first)


def _interpolated(features: Tensor, position: Tensor, last: Tensor, first: int) -> Tensor:
    """Values (B, n, C) at positions (n,) of features (B, N, C), whose first frame is `first`.

    last: (B, 1) frame of each clip that positions behind it get.
    """
    batch, _, width = features.shape
    position = torch.minimum(position.expand(batch, -1), last.float())
    low = position.floor()
    weight = (position - low)[..., None].to(features.dtype)
    high = torch.minimum(low.long() + 1, last)[..., None].expand(-1, -1, width) - first
    low = low.long()[..., None].expand(-1, -1, width) - first
    return torch.lerp(features.gather(1, low), features.gather(1, high), weight)


def fold(features: Tensor, k: int) -> Tensor:
    """Concatenate each k frames: (B, T·k + r, C) to (B, T, k·C); the remainder r is dropped."""
    batch, n_frames, width = features.shape
    return features[:, : n_frames // k * k].reshape(batch, n_frames // k, k * width)


def mix_states(states: Tensor, weights: Tensor) -> Tensor:
    """The mean (..., C) of states (..., L, C), each normalised to zero mean and unit variance.

    weights: (L,) logits; their softmax weights the mean. (As Peters et al. 2018, arXiv 1802.05365.)
    """
    normalised = F.layer_norm(states, states.shape[-1:])
    return (normalised * weights.softmax(0)[:, None]).sum(-2)


def length_mask(lengths: Tensor, n_frames: int, device: torch.device | None = None) -> Tensor:
    """(B, n_frames) bool on `device`, True on the first lengths[b] frames of each clip.

    lengths: (B,) integers. They may stay on the host, where reading one does not wait for a GPU.
    """
    lengths = lengths.to(device or lengths.device, non_blocking=True)
    return torch.arange(n_frames, device=lengths.device) < lengths[:, None]


def mel_filters(n_bins: int = MEL_BINS, low_hz: float = 20.0) -> Tensor:
    """Triangular filters (n_bins, 257) from `low_hz` to 8 kHz, equally spaced in mel.

    Kaldi's mel scale: 1127·ln(1 + f/700).
    """

    def mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    ends = mel(torch.tensor([low_hz, SAMPLE_RATE / 2], dtype=torch.float64))
    edges = torch.linspace(ends[0], ends[1], n_bins + 2, dtype=torch.float64)
    bins = mel(torch.linspace(0, SAMPLE_RATE / 2, MEL_FFT // 2 + 1, dtype=torch.float64))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0).float()


def log_mel(audio: Tensor, filters: Tensor, window: Tensor) -> Tensor:
    """Kaldi's log-mel energies (B, (S - 400) // 160 + 1, 80) of audio (B, S), at 100 Hz.

    Per window: mean removed, pre-emphasis 0.97, Povey window, power spectrum. Equal to
    transformers' SeamlessM4TFeatureExtractor, with which w2v-BERT 2.0 was trained.
    filters: (80, 257) of `mel_filters`; window: (400,) of `povey_window`.
    """
    frames = audio.float().unfold(1, WINDOW, MEL_HOP) * PCM_SCALE  # (B, N, 400)
    frames = frames - frames.mean(-1, keepdim=True)
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    frames = (frames - 0.97 * previous) * window
    power = torch.fft.rfft(frames, n=MEL_FFT).abs().square()
    return torch.log((power @ filters.T).clamp(min=MEL_FLOOR))


def normalise_over_time(energies: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Energies (B, N, bands) with zero mean and unit variance of each band over its clip.

    energies: (B, N, bands); lengths: (B,) frames of each clip, all N when None. Padding becomes 0.
    """
    batch, n_frames, _ = energies.shape
    if lengths is None:
        lengths = torch.full((batch,), n_frames, device=energies.device)
    lengths = lengths.to(energies.device, non_blocking=True)
    mask = length_mask(lengths, n_frames)[..., None]
    count = lengths[:, None, None].to(energies.dtype)
    mean = (energies * mask).sum(1, keepdim=True) / count
    centred = (energies - mean) * mask
    variance = centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
    return centred / (variance + MEL_EPS).sqrt()


def povey_window() -> Tensor:
    """Kaldi's default window (400,): a symmetric Hann window to the power of 0.85."""
    return torch.hann_window(WINDOW, periodic=False, dtype=torch.float64).pow(0.85).float()
