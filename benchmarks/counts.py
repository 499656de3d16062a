"""Operations and bytes of the stages of a prediction, counted from their shapes.

A multiplication with an addition is two operations. Bytes are those that a stage has to move
between memory and processor at least once: its input, weights and output in float32, no
intermediate results. Elementwise functions round the matrix products are left out, except in the
scan, which consists of nothing else.

T frames, C and D widths of encoder and decoder, N states of a channel, V vertices.
"""

from collections.abc import Sequence
from typing import NamedTuple

from config import ModelConfig

SCAN_OPERATIONS = 7  # delta·A, exp, ·h, drive·B, +, C·h, +: of one state of one channel and frame
SAMPLE_BYTES, PIXEL_BYTES = 4, 3  # a sample in float32, a pixel in RGB


class Count(NamedTuple):
    """Operations, and bytes that are moved."""

    operations: int
    bytes: int

    def __add__(self, other: "Count") -> "Count":
        return Count(self.operations + other.operations, self.bytes + other.bytes)

    def times(self, n: int) -> "Count":
        """The count of n such stages."""
        return Count(n * self.operations, n * self.bytes)


def linear(rows: int, n_in: int, n_out: int) -> Count:
    """A linear layer on `rows` vectors."""
    return Count(2 * rows * n_in * n_out, 4 * (rows * (n_in + n_out) + n_in * n_out))


def convolution(n_in: int, n_out: int, c_in: int, c_out: int, taps: int, groups: int = 1) -> Count:
    """A convolution from n_in frames of c_in channels to n_out frames of c_out."""
    weights = c_out * c_in // groups * taps
    return Count(2 * n_out * weights, 4 * (n_in * c_in + n_out * c_out + weights))


def attention(frames: int, width: int) -> Count:
    """Softmax attention of all frames to all frames, without its projections."""
    return Count(4 * frames * frames * width, 4 * 4 * frames * width)


def wav2vec_convolutions(
    samples: int, widths: Sequence[int], taps: Sequence[int], strides: Sequence[int]
) -> Count:
    """wav2vec 2.0's convolutions of S samples, without padding."""
    total, frames, channels = Count(0, 0), samples, 1
    for width, n_taps, stride in zip(widths, taps, strides, strict=True):
        after = (frames - n_taps) // stride + 1
        total += convolution(frames, after, channels, width, n_taps)
        frames, channels = after, width
    return total


def wav2vec_transformer(
    frames: int, c_conv: int, width: int, d_ff: int, layers: int, pos_taps: int, pos_groups: int
) -> Count:
    """wav2vec 2.0's projection, positional convolution and layers on T frames."""
    layer = (
        linear(frames, width, width).times(4)
        + attention(frames, width)
        + linear(frames, width, d_ff)
        + linear(frames, d_ff, width)
    )
    position = convolution(frames, frames, width, width, pos_taps, pos_groups)
    return linear(frames, c_conv, width) + position + layer.times(layers)


def scan(frames: int, d_inner: int, d_state: int) -> Count:
    """The selective scan: u, delta, z and y, B and C, and A."""
    moved = frames * (4 * d_inner + 2 * d_state) + d_inner * d_state
    return Count(SCAN_OPERATIONS * frames * d_inner * d_state, 4 * moved)


def scans(config: ModelConfig, frames: int) -> Count:
    """The scans of a decoder's Mamba and MoE-Mamba layers."""
    d_inner = config.expand * config.d_model
    return scan(frames, d_inner, config.d_state).times(config.layout.count("M")) + scan(
        frames, d_inner, config.moe_d_state
    ).times(config.layout.count("E"))


def depthwise_convolutions(config: ModelConfig, frames: int) -> Count:
    """The depthwise convolutions before the scans."""
    d_inner = config.expand * config.d_model
    plain, mixed = (
        convolution(frames, frames, d_inner, d_inner, taps, d_inner)
        for taps in (config.d_conv, config.moe_d_conv)
    )
    return plain.times(config.layout.count("M")) + mixed.times(config.layout.count("E"))


def experts(config: ModelConfig, frames: int) -> Count:
    """The experts that each frame uses, and the router."""
    rows = frames * config.top_k  # shared evenly
    mlp = linear(rows, config.d_model, config.d_ff) + linear(rows, config.d_ff, config.d_model)
    router = linear(frames, config.d_model, config.n_experts)
    return (mlp + router).times(config.layout.count("E"))


def decoder_attention(config: ModelConfig, frames: int) -> Count:
    """Grouped-query attention with its projections."""
    width = config.d_model
    narrow = width * config.n_kv_heads // config.n_heads
    layer = (
        linear(frames, width, width).times(2)
        + linear(frames, width, narrow).times(2)
        + attention(frames, width)
    )
    return layer.times(config.layout.count("A"))


def vertex_head(config: ModelConfig, frames: int) -> Count:
    """The vertex head, of full or low rank."""
    rank, width = config.vertex_rank or config.d_model, 3 * config.n_vertices
    low = linear(frames, config.d_model, rank) if config.vertex_rank else Count(0, 0)
    return low + linear(frames, rank, width)


def sound(file_bytes: int, samples: int) -> Count:
    """Decoding a sound file to samples: what is read and what is written."""
    return Count(0, file_bytes + SAMPLE_BYTES * samples)


def pictures(n: int, size: int, n_vertices: int) -> Count:
    """Drawing: the vertices that are read and the pixels that are written."""
    return Count(0, n * (PIXEL_BYTES * size * size + 4 * 3 * n_vertices))


def encoding(n: int, size: int, file_bytes: int) -> Count:
    """Encoding a video: the pixels that are read and the file that is written."""
    return Count(0, n * PIXEL_BYTES * size * size + file_bytes)
