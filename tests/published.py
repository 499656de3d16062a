"""What tests share: weights in the published format, filled by a rule."""

import re
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from config import XLSR_LARGE, ModelConfig
from released.network import ReleasedJambaTalk

V = 7
SMALL_ENCODER = dict(
    conv_dim=[8] * 7, conv_kernel=[10, 3, 3, 3, 3, 2, 2], hidden_size=64, num_hidden_layers=1,
    num_attention_heads=1, intermediate_size=16, num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
)  # fmt: skip
SCALES = (  # pattern (the first that matches counts), mean, largest distance from the mean
    (r"A_log$", 0.0, 0.1),  # and log(1 .. d_state)
    (r"(norm\d?|layer_norm)\.weight$|original0$|\.D$", 1.0, 0.1),
    (r"dt_proj\.bias$", -4.0, 1.0),
    (r"w_gating$", 0.0, 30.0),
    (r"experts\.w[12]$", 0.0, 0.15),
    (r"\.bias$", 0.0, 0.05),
    (r"conv_layers\.\d+\.conv\.weight$", 0.0, 0.35),
)
BLOCK = 1 << 18  # values computed at once, few enough for the processor's cache


def uniform(name: str, count: int, scale: float) -> NDArray[np.float32]:
    """(count,) float32 in [-scale, scale): splitmix64 of the name's checksum and the index."""
    values = np.empty(count, np.float32)
    start = np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
    with np.errstate(over="ignore"):
        for low in range(0, count, BLOCK):
            x = np.arange(low, min(low + BLOCK, count), dtype=np.uint64)
            x += start + np.uint64(0x9E3779B97F4A7C15)
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
                x ^= x >> np.uint64(shift)
                x *= np.uint64(factor)
            unit = (x >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0
            values[low : low + BLOCK] = unit * scale
    return values


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weight `name` of the reference network, float32."""
    fan_in = np.prod(shape[1:]) if len(shape) > 1 else shape[0]
    matches = [row[1:] for row in SCALES if re.search(row[0], name)]
    offset, scale = matches[0] if matches else (0.0, (3.0 / fan_in) ** 0.5)
    values = uniform(name, int(np.prod(shape)), scale).reshape(shape)
    if name.endswith("A_log"):
        values = np.log(np.arange(1.0, shape[-1] + 1)) + values
    return torch.from_numpy(np.asarray(offset + values if offset else values, np.float32))


def small_state(kind: str = "vocaset") -> dict[str, Tensor]:
    """A state dict in the published format, with weights that only training needs."""
    config = ModelConfig(
        encoder=XLSR_LARGE | SMALL_ENCODER, n_vertices=V, d_model=16, d_ff=24,
        **({"fps": 30, "fold": 1} if kind == "vocaset" else {"fps": 25, "fold": 2}),
        layout="MEAEME" if kind == "vocaset" else "MEMEAEMEME",
        n_heads=8 if kind == "vocaset" else 4,
    )  # fmt: skip
    names = ReleasedJambaTalk(config).state_dict()
    state = {name: filled(name, value.shape) for name, value in names.items()}
    for name in ("text_encoder.lm_head.weight", "transformer.encoder.norm.weight"):
        state[name] = torch.zeros(1000, 1000)
    return state | {"lip_map.weight": torch.zeros(3, 3), "lm_head.bias": torch.zeros(3)}


def speech(seconds: float = 0.5) -> tuple[Tensor, Tensor]:
    """Audio (1, S) and a template (V, 3)."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, int(16_000 * seconds), generator=generator), torch.zeros(V, 3)
