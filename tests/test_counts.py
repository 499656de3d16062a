"""Counted operations against those that torch counts in the modules themselves."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import counts, floors
from benchmarks.counts import Count
from config import RECIPES
from jambatalk import JambaTalk
from speech.bodies import build_body

T = 11  # frames
ENCODER = {
    "model_type": "wav2vec2", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 40, "conv_dim": [6, 10, 14], "conv_kernel": [10, 8, 4],
    "conv_stride": [10, 8, 4], "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 3,
}  # fmt: skip
CONFIG = dataclasses.replace(
    RECIPES["vocaset"].model, encoder=ENCODER, d_model=16, d_ff=28, n_heads=4, n_kv_heads=2,
    n_vertices=7,
)  # fmt: skip


def flops(run: Callable[[], object]) -> int:
    """Operations of the matrix products and convolutions of a call, as torch counts them."""
    # the kernels for a CPU that torch takes by default are unknown to its counter
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def network() -> JambaTalk:
    return JambaTalk(CONFIG).eval()


def test_encoder_counts_are_those_of_torch() -> None:
    body = build_body(ENCODER).eval()
    counted = counts.wav2vec_convolutions(
        1_300, *(ENCODER[f"conv_{name}"] for name in ("dim", "kernel", "stride"))
    )
    assert counted.operations == flops(lambda: body.feature_extractor(torch.zeros(1, 1_300)))
    x = torch.zeros(1, T, 24)
    layers = counts.wav2vec_transformer(T, 14, 24, 40, 2, 6, 3).operations
    layers -= counts.linear(T, 14, 24).operations
    layers -= counts.convolution(T, T, 24, 24, 6, 3).operations
    assert layers == flops(lambda: [layer(x) for layer in body.encoder.layers])
    assert counts.linear(T, 14, 24).operations == flops(
        lambda: body.feature_projection(torch.zeros(1, T, 14))
    )
    convolution = torch.nn.Conv1d(24, 24, 6, padding="same", groups=3)
    assert counts.convolution(T, T, 24, 24, 6, 3).operations == flops(
        lambda: convolution(torch.zeros(1, 24, T))
    )


def test_decoder_counts_are_those_of_torch(network: JambaTalk) -> None:
    x = torch.zeros(1, T, CONFIG.d_model)
    layers = dict(zip(CONFIG.layout, network.layers, strict=True))  # the last one of each kind
    n_experts, n_attention = CONFIG.layout.count("E"), CONFIG.layout.count("A")
    experts = counts.experts(CONFIG, T).operations
    assert experts == n_experts * flops(lambda: layers["E"].moe(x))
    rotary = flops(lambda: layers["A"].attention.rotary.table(T, x.device))  # a table, not counted
    attention = counts.decoder_attention(CONFIG, T).operations
    assert attention == n_attention * (flops(lambda: layers["A"].attention(x)) - rotary)
    assert counts.vertex_head(CONFIG, T).operations == flops(lambda: network.head(x))


def test_bytes_and_the_scan_by_hand() -> None:
    assert counts.linear(3, 5, 7) == Count(210, 4 * (15 + 21 + 35))
    # 2 frames, 3 channels, 5 states: u, delta, z and y of 6 numbers, B and C of 10, A of 15
    assert counts.scan(2, 3, 5) == Count(7 * 30, 4 * (24 + 20 + 15))
    assert counts.pictures(2, 10, 3) == Count(0, 2 * (300 + 36))
    assert counts.sound(100, 25) + counts.encoding(1, 10, 50) == Count(0, 200 + 350)
    assert Count(2, 3).times(4) == Count(8, 12)


def test_a_floor_is_the_longer_of_operations_and_bytes() -> None:
    peak = floors.Peak(operations=100.0, bytes=10.0)
    assert peak.floor_s(Count(200, 10)) == 2.0
    assert peak.floor_s(Count(200, 30)) == 3.0
