"""The numbers of the matrix products in prediction."""

import torch
from torch import nn

from common.device import fast_bfloat16
from layers.coarse_linear import use_precision
from layers.fast_linear import LARGE
from speech.fast_convolutions import round_weights
from speech.wav2vec_body import Wav2Vec2Body


def coarsen(body: nn.Module, decoder: list[nn.Module], name: str, device: torch.device) -> None:
    """Use products of `use_precision` in a body, which is for prediction only from now on.

    On a CPU that multiplies bfloat16 matrices in hardware, "bf16" also has bfloat16 products in the
    convolutions of wav2vec 2.0 behind the first, which are up to a third of the time. "int8"
    reaches convolutions of every kind, and the large layers of the decoder's parts, a twelfth of
    the paper's network.
    Raises `UserError` as `use_precision`.
    """
    chosen = use_precision(body, name, device)
    on_cpu = device.type == "cpu" and fast_bfloat16(device)
    if chosen == "bf16" and on_cpu and isinstance(body, Wav2Vec2Body):
        round_weights(body.feature_extractor.conv_layers)
    if chosen == "int8":
        use_precision(nn.ModuleList(decoder), chosen, device, LARGE)
