"""The positional convolution of wav2vec 2.0: relative positions by a wide grouped convolution.

In training it is torch's, with the weight norm computed in every call. In prediction on a CPU the
spectra of the final weights are computed once and kept; blocks of the input are multiplied with
them (overlap-save: Oppenheim and Schafer, Discrete-Time Signal Processing, section 8.7). With 128
taps in 16 groups that takes a fourth of the time of the direct convolution.

B batch, A audio frames, C width, G groups, N frames of a block.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from layers.fast_gelu import trains_fast
from layers.positional_gradients import GroupedConvolution, NormedWeight
from speech.encoder_config import ACTIVATIONS, EncoderConfig

BLOCK = 2  # N / taps: larger blocks need larger spectra, smaller ones overlap more


class WeightNorm(nn.Module):
    """Weights (C, C / groups, taps) from a norm for each tap and directions.

    Salimans and Kingma 2016 (arXiv 1602.07868). torch's own computes norms on its device "meta",
    too, and imports torch._dynamo for that.
    """

    def forward(self, norms: Tensor, directions: Tensor) -> Tensor:
        """norms: (1, 1, taps); directions: (C, C / groups, taps)."""
        if trains_fast(directions):
            return NormedWeight.apply(norms, directions)
        return directions * (norms / _tap_norms(directions))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Norms and directions of a weight."""
        if weight.is_meta:
            return weight.new_empty(1, 1, weight.shape[2]), weight
        return _tap_norms(weight), weight


def _tap_norms(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=(0, 1), keepdim=True)


class PositionalConvolution(nn.Module):
    """(B, A, C) to (B, A, C)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, taps = config.hidden_size, config.num_conv_pos_embeddings
        conv = nn.Conv1d(
            width, width, taps, padding=taps // 2, groups=config.num_conv_pos_embedding_groups
        )
        register_parametrization(conv, "weight", WeightNorm(), unsafe=True)  # unsafe: no trial run
        self.conv = conv
        self.activation = ACTIVATIONS[config.feat_extract_activation]
        self._kept: tuple[tuple, Tensor] | None = None  # spectra, and of which weights

    def train(self, mode: bool = True) -> "PositionalConvolution":
        """As of every module; also forgets the spectra, because training changes the weights."""
        if mode:
            self._kept = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """(B, A, C)."""
        if self._predicts(x):
            return self.activation(convolved(x, self._spectra(), self.conv))
        n_frames = x.shape[1]
        x, conv = x.transpose(1, 2), self.conv
        if trains_fast(x) and not torch.is_autocast_enabled("cpu"):
            y = GroupedConvolution.apply(x, conv.weight, conv.bias, conv.groups)
        else:
            y = conv(x)
        y = y[..., :n_frames]  # an even number of taps gives one more
        return self.activation(y).transpose(1, 2)

    def _predicts(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and not self.training
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
        )

    def _spectra(self) -> Tensor:
        """`spectra_of` the weights, computed anew only where these are others than before."""
        stored = self.conv.parametrizations.weight
        state = tuple(
            (id(w), w.data_ptr(), 0 if w.is_inference() else w._version)
            for w in (stored.original0, stored.original1)
        )
        if self._kept is None or self._kept[0] != state:
            self._kept = state, spectra_of(self.conv)
        return self._kept[1]


def spectra_of(conv: nn.Conv1d) -> Tensor:
    """Conjugated spectra (N / 2 + 1, G, C / G in, C / G out) of the weights of a convolution.

    Conjugated because torch's convolution does not reverse its weights.
    """
    groups, taps = conv.groups, conv.kernel_size[0]
    weight = conv.weight.float().unflatten(0, (groups, -1))  # (G, C / G out, C / G in, taps)
    width, size = weight.shape[2], BLOCK * taps
    spectra = torch.empty(size // 2 + 1, groups, width, width, dtype=torch.complex64)
    for group, part in enumerate(weight):  # one at a time: spectra are larger than weights
        spectra[:, group] = torch.fft.rfft(part, size).conj().permute(2, 1, 0)
    return spectra


def convolved(x: Tensor, spectra: Tensor, conv: nn.Conv1d) -> Tensor:
    """Output (B, A, C) of a convolution for x (B, A, C) float32; spectra: of `spectra_of`.

    Equal to torch's to the rounding of float32.
    """
    (taps,), groups, n_frames = conv.kernel_size, conv.groups, x.shape[1]
    size = BLOCK * taps
    step = size - taps + 1  # frames that a block contributes
    n_blocks = -(-n_frames // step)
    before, total = taps // 2, n_blocks * step + taps - 1
    padded = F.pad(x, (0, 0, before, total - before - n_frames))  # (B, total, C)
    blocks = padded.unfold(1, size, step).transpose(2, 3)  # (B, n, N, C)
    parts = torch.fft.rfft(blocks, dim=2).unflatten(3, (groups, -1))  # (B, n, N / 2 + 1, G, C / G)
    products = parts.permute(2, 3, 0, 1, 4).flatten(2, 3) @ spectra  # (N / 2 + 1, G, B · n, C / G)
    products = products.permute(2, 0, 1, 3).flatten(2)  # (B · n, N / 2 + 1, C)
    y = torch.fft.irfft(products, size, dim=1)[:, :step]
    return y.reshape(len(x), n_blocks * step, -1)[:, :n_frames] + conv.bias
