"""The numbers of a speech encoder's matrix products in prediction."""

import torch
from torch import nn

from layers.coarse_linear import use_precision
from speech.fast_convolutions import round_weights
from speech.wav2vec_body import Wav2Vec2Body


def coarsen(body: nn.Module, name: str, device: torch.device) -> None:
    """Use products of `use_precision` in a body, which is for prediction only from now on.

    On a CPU, "bf16" has also the convolutions of wav2vec 2.0 behind the first in bfloat16, which
    are a fourth of the time. 8-bit products have not: their error on trained weights is not known.
    Raises `UserError` as `use_precision`.
    """
    chosen = use_precision(body, name, device)
    if chosen == "bf16" and device.type == "cpu" and isinstance(body, Wav2Vec2Body):
        round_weights(body.feature_extractor.conv_layers)
