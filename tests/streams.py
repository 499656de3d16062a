"""Toy models for the tests of the live engine and its service."""

from pathlib import Path

import numpy as np
import torch

from config import DatasetSpec, ModelConfig
from jambatalk import Checkpoint, JambaTalk
from tests.toy import DECODER, V

MOONSHINE = dict(
    model_type="moonshine", hidden_size=16, intermediate_size=24, encoder_num_hidden_layers=2,
    encoder_num_attention_heads=2, encoder_num_key_value_heads=2, decoder_num_hidden_layers=1,
    decoder_num_attention_heads=2, decoder_num_key_value_heads=2,
)  # fmt: skip


def checkpoint(folder: Path, encoder: dict) -> Checkpoint:
    """An untrained model whose head moves the face, and the toy data set."""
    torch.manual_seed(1)
    config = ModelConfig(encoder=encoder, n_vertices=V, fps=30, fold=2, vertex_rank=2, **DECODER)
    model = JambaTalk(config).eval()
    torch.nn.init.normal_(model.head.offsets.weight)
    torch.nn.init.normal_(model.head.coefficients.weight)
    np.savez(folder / "templates.npz", a=np.zeros((V, 3), np.float32))
    spec = DatasetSpec(
        name="toy", root="", fps=30, source_fps=30, n_vertices=V, metres_per_unit=1.0,
        templates=str(folder / "templates.npz"), topology="", lips_region="", upper_region="",
        splits={},
    )  # fmt: skip
    return Checkpoint(model, spec)
