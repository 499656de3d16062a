"""What stands before the speech encoder's transformer: audio to features at 50 Hz, and to fps·k.

wav2vec 2.0's convolutions or w2v-BERT 2.0's log-mel energies, the frame counts that follow from
them, and the linear interpolation and folding of frames that bring features to the mesh's rate.

B batch, S samples at 16 kHz, A audio frames at 50 Hz, N frames at any rate, T mesh frames,
C0 convolutional width, C any width.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config import SAMPLE_RATE
from speech.timing import AUDIO_FPS, WINDOW, audio_frames, frame_lengths

MEL_HOP, MEL_BINS, MEL_FFT = 160, 80, 512  # w2v-BERT 2.0: 10 ms hop, 80 bands, 512-point FFT
PCM_SCALE = 2.0**15  # Kaldi computes energies of 16 bit integers
MEL_FLOOR = 1.192092955078125e-07  # Kaldi's float epsilon


def resample(
    features: Tensor, rate: int, lengths: Tensor | None = None, rate_in: int = AUDIO_FPS
) -> Tensor:
    """Linear interpolation in time from `rate_in` to `rate` Hz: frame t is read at t·rate_in/rate.

    features: (B, N, C). lengths: (B,) frames of each clip, all N when None; a clip never looks
    beyond its own last frame. Returns (B, N * rate // rate_in, C). A frame depends on its own
    instant alone, never on the length of the clip, so windows of long audio join exactly.
    """
    if rate == rate_in:
        return features
    batch, n_in, width = features.shape
    n_out = n_in * rate // rate_in
    last = torch.full((batch, 1), n_in - 1, device=features.device)
    if lengths is not None:
        last = (lengths.to(features.device)[:, None] - 1).clamp(min=0)
    position = torch.arange(n_out, device=features.device) * (rate_in / rate)  # (N_out,)
    position = torch.minimum(position.expand(batch, n_out), last.float())
    low = position.floor()
    weight = (position - low)[..., None].to(features.dtype)
    high = torch.minimum(low.long() + 1, last)[..., None].expand(-1, -1, width)
    low = low.long()[..., None].expand(-1, -1, width)
    return torch.lerp(features.gather(1, low), features.gather(1, high), weight)


def fold(features: Tensor, k: int) -> Tensor:
    """Join k neighbouring frames: (B, T·k + r, C) to (B, T, k·C); the r left over are dropped."""
    batch, n_frames, width = features.shape
    return features[:, : n_frames // k * k].reshape(batch, n_frames // k, k * width)


def length_mask(lengths: Tensor, n_frames: int) -> Tensor:
    """(B, n_frames) bool, True on the first lengths[b] frames of each clip."""
    return torch.arange(n_frames, device=lengths.device) < lengths[:, None]


def mel_filters(n_bins: int = MEL_BINS, low_hz: float = 20.0) -> Tensor:
    """(n_bins, 257) triangles on Kaldi's mel scale 1127·ln(1 + f/700), from 20 Hz to 8 kHz."""

    def mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    ends = mel(torch.tensor([low_hz, SAMPLE_RATE / 2], dtype=torch.float64))
    edges = torch.linspace(ends[0], ends[1], n_bins + 2, dtype=torch.float64)
    bins = mel(torch.linspace(0, SAMPLE_RATE / 2, MEL_FFT // 2 + 1, dtype=torch.float64))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0).float()


def log_mel(audio: Tensor, filters: Tensor, window: Tensor) -> Tensor:
    """Kaldi's log-mel energies of (B, S) audio: (B, (S - 400) // 160 + 1, 80) at 100 Hz.

    Mean removed per window, pre-emphasis 0.97, Povey window, power spectrum (as
    transformers' SeamlessM4TFeatureExtractor, which w2v-BERT 2.0 was trained with).
    """
    frames = audio.float().unfold(1, WINDOW, MEL_HOP) * PCM_SCALE  # (B, N, 400)
    frames = frames - frames.mean(-1, keepdim=True)
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    frames = (frames - 0.97 * previous) * window
    power = torch.fft.rfft(frames, n=MEL_FFT).abs().square()
    return torch.log((power @ filters.T).clamp(min=MEL_FLOOR))


def normalise_over_time(energies: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Zero mean, unit variance of each band over its clip's own frames; padding becomes 0.

    energies: (B, N, bands); lengths: (B,) frames of each clip, all N when None.
    """
    batch, n_frames, _ = energies.shape
    if lengths is None:
        lengths = torch.full((batch,), n_frames, device=energies.device)
    mask = length_mask(lengths, n_frames)[..., None]
    count = lengths[:, None, None].to(energies.dtype)
    mean = (energies * mask).sum(1, keepdim=True) / count
    centred = (energies - mean) * mask
    variance = centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
    return centred / (variance + 1e-7).sqrt()


def povey_window() -> Tensor:
    """(400,) Kaldi's default window: a symmetric Hann window to the power 0.85."""
    return torch.hann_window(WINDOW, periodic=False, dtype=torch.float64).pow(0.85).float()


class ContextLayer(nn.Module):
    """x + dropout(GELU(conv(LayerNorm(x)))): (B, A, C) to the same, five frames wide."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, 5, padding=2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        hidden = self.norm(x)
        if mask is not None:
            hidden = hidden * mask[..., None]
        return x + self.dropout(F.gelu(self.conv(hidden.transpose(1, 2)).transpose(1, 2)))


def attach_context(body: nn.Module) -> nn.Module:
    """Give a body the `context_layers` of its config, ours, not wav2vec 2.0's; returns the body.

    A pre-trained body has none. A small one trained here learns much faster with a few
    residual convolutions between its filters and its transformer (benchmarks/RESULTS.md).
    """
    config = body.config
    n_layers = getattr(config, "context_layers", 0)
    if n_layers:
        body.context = nn.ModuleList(
            ContextLayer(config.conv_dim[-1], config.hidden_dropout) for _ in range(n_layers)
        )
    return body


class SpeechFeatures(nn.Module):
    """What stands before the transformer: (B, S) audio to (B, A, C0) features at 50 Hz.

    For `wav2vec2` the body's own convolutions; kernels beyond the usual 400 samples of reach get
    that much zero audio on both sides, so that A and the centre of each frame stay the same.
    For `wav2vec2-bert` two normalised log-mel frames a vector; no parameters.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.is_mel = body.config.model_type == "wav2vec2-bert"
        if self.is_mel:
            self.register_buffer("filters", mel_filters(), persistent=False)
            self.register_buffer("window", povey_window(), persistent=False)
        else:
            reach = receptive_field(body.config.conv_kernel, body.config.conv_stride)
            self.margin = max(reach - WINDOW, 0) // 2
            self.per_clip_norm = body.config.feat_extract_norm == "group"

    def forward(self, body: nn.Module, audio: Tensor, lengths: Tensor | None) -> Tensor:
        """lengths: (B,) samples of each clip, or None when every clip fills the batch."""
        return self.in_context(body, self.convolve(body, audio, lengths), lengths)

    def in_context(self, body: nn.Module, conv: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, A, C0) of `convolve` through the body's context layers, if it has any."""
        mask = None if lengths is None else length_mask(frame_lengths(lengths), conv.shape[1])
        for layer in getattr(body, "context", ()):
            conv = layer(conv, mask)
        return conv

    def convolve(self, body: nn.Module, audio: Tensor, lengths: Tensor | None) -> Tensor:
        """What stands before the context layers, (B, A, C0): it does not change in training."""
        n_frames = audio_frames(audio.shape[1])
        if self.is_mel:
            with torch.autocast(audio.device.type, enabled=False):
                return self._mel(audio.float(), lengths, n_frames)
        if self.per_clip_norm and lengths is not None and int(lengths.min()) < audio.shape[1]:
            # group norm looks at all of time: each clip alone, so that padding changes nothing
            clips = [
                self.convolve(body, clip[None, :n], None)[0]
                for clip, n in zip(audio, lengths.tolist(), strict=True)
            ]
            return nn.utils.rnn.pad_sequence(clips, batch_first=True)  # fmt: skip
        padded = F.pad(audio, (self.margin, self.margin))
        return self._convolve(body, padded)[:, :n_frames]

    @staticmethod
    def _convolve(body: nn.Module, audio: Tensor) -> Tensor:
        """(B, S) to (B, A, C0). Frozen leading layers run in float32 and without gradient.

        `hand_set_layers` in the config: what that many leading layers give gets zero mean and
        unit variance over the clip, channel by channel, as the log-mel of w2v-BERT does.
        """
        layers = list(body.feature_extractor.conv_layers)
        n_frozen = 0
        while n_frozen < len(layers) and not any(
            p.requires_grad for p in layers[n_frozen].parameters()
        ):
            n_frozen += 1
        n_hand_set = getattr(body.config, "hand_set_layers", 0)
        x = audio[:, None].float()
        for i, layer in enumerate(layers):
            frozen = i < max(n_frozen, n_hand_set)
            grad = torch.is_grad_enabled() and not frozen
            precise = torch.autocast(audio.device.type, enabled=False)
            with torch.set_grad_enabled(grad), precise if frozen else nullcontext():
                x = layer(x)
                if i + 1 == n_hand_set:
                    x = normalise_over_time(x.transpose(1, 2)).transpose(1, 2)
        return x.transpose(1, 2)

    def _mel(self, audio: Tensor, lengths: Tensor | None, n_frames: int) -> Tensor:
        wanted = (2 * n_frames - 1) * MEL_HOP + WINDOW  # the last frame's second half may hang over
        energies = log_mel(
            F.pad(audio, (0, max(wanted - audio.shape[1], 0))), self.filters, self.window
        )[:, : 2 * n_frames]  # (B, 2A, 80)
        if lengths is not None:
            lengths = 2 * frame_lengths(lengths)
        return fold(normalise_over_time(energies, lengths), 2)


def receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Samples that one output frame of a stack of convolutions sees."""
    reach, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        reach += (kernel - 1) * step
        step *= stride
    return reach
