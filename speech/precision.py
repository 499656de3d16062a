"""The numbers of the matrix products in prediction."""

import torch
from torch import nn

from common.device import fast_bfloat16
from layers.coarse_linear import ByteConvolution, use_precision
from layers.fast_linear import LARGE
from speech.fast_convolutions import round_weights
from speech.moonshine_body import MoonshineBody
from speech.wav2vec_body import Wav2Vec2Body


def coarsen(
    body: nn.Module, decoder: list[nn.Module], head: nn.Module, name: str, device: torch.device
) -> None:
    """Use products of `use_precision` in a body, which is for prediction only from now on.

    On a CPU that multiplies bfloat16 matrices in hardware, "bf16" and "int8" also have bfloat16
    products in the attention of wav2vec 2.0 and in its convolutions behind the first, which are up
    to a third of the time. Not 8-bit ones: their error on trained weights is not known. "int8"
    reaches the second convolution of Moonshine, a fourth of the time of a live window behind 8-bit
    layers, but not its third: outliers in its input would turn the states by half of their length.
    Both reach the large layers of the decoder's parts as well, a twelfth of the paper's network;
    "bf16" not those of `head`, which write vertices: slow motion would move in steps of bfloat16.
    Padded batches have float32 attention, so their features are not those of single clips.
    Raises `UserError` as `use_precision`.
    """
    chosen = use_precision(body, name, device, many_frames=True)
    on_cpu = device.type == "cpu" and fast_bfloat16(device)
    if chosen != "fp32" and on_cpu and isinstance(body, Wav2Vec2Body):
        round_weights(body.feature_extractor.conv_layers)
        for layer in body.encoder.layers:
            layer.attention.coarse = True
    if chosen == "int8" and isinstance(body, MoonshineBody):
        body.conv2 = ByteConvolution(body.conv2)
    if chosen == "int8" or (chosen == "bf16" and on_cpu):
        kept = head if chosen == "bf16" else None
        use_precision(nn.ModuleList(decoder), chosen, device, LARGE, kept=kept)
