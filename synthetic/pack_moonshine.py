"""Rebuild synthetic/encoder from PyPI: the encoder of Moonshine tiny, packed to 7.7 MB.

    pip install onnx onnxruntime
    pip download --no-deps moonshine-voice==0.0.49
    python -m synthetic.pack_moonshine --wheel moonshine_voice-0.0.49-*.whl

Moonshine (Jeffries et al. 2024, arXiv 2410.15608) was trained on about 200,000 hours of human
speech. The wheel carries its encoder as an int8 ONNX Runtime file. Its weights have at most 256
values for each tensor, so one byte for each loses nothing (`files.packed_weights`). They get the
names of transformers' MoonshineEncoder.
"""

import argparse
import hashlib
import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray

from common.errors import Parser, UserError, run_cli, writable_folder
from common.whole_file import write_whole
from config import PROJECT_ROOT
from files.models import save_model_file

OUT = PROJECT_ROOT / "synthetic/encoder"
MEMBER = "moonshine_voice/assets/tiny-en/encoder_model.ort"
SHA256 = "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221"  # of that member
LICENCE = "moonshine_voice-0.0.49.dist-info/licenses/LICENSE"
QUANTISED = {  # operator of ONNX Runtime -> its inputs' positions: weight, scale, zero point, bias
    "DynamicQuantizeMatMul": (1, 2, 3, 4),
    "MatMulIntegerToFloat": (1, 3, 5, 6),
}
CONVOLUTIONS = ("conv1", "conv2", "conv3")
NORMS = re.compile(r"(layers\.\d\.(input|post_attention)_layernorm|layer_norm)\.weight")
CONFIG = {"model_type": "moonshine", "pad_head_dim_to_multiple_of": 8}  # else transformers' own


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wheel", type=Path, required=True, help="moonshine_voice-0.0.49-*.whl")
    parser.add_argument("--out", type=Path, default=OUT, help="folder (default synthetic/encoder)")
    args: argparse.Namespace = parser.parse_args(argv)
    content, licence = read_wheel(args.wheel)
    weights = pack(*read_graph(content))
    writable_folder(args.out)
    from torch import from_numpy

    tensors = {name: from_numpy(array.copy()) for name, array in sorted(weights.items())}
    save_model_file(args.out / "model.safetensors", tensors, "source", {"sha256": SHA256})
    write_whole(args.out / "config.json", json.dumps(CONFIG, indent=1) + "\n")
    write_whole(args.out / "LICENSE", licence)
    size = (args.out / "model.safetensors").stat().st_size
    print(f"{args.out}: {len(weights)} tensors, {size / 1e6:.1f} MB")


def read_wheel(path: Path) -> tuple[bytes, bytes]:
    """The encoder file and the licence in a wheel.

    Raises `UserError` when the file is no wheel or holds another encoder.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            content, licence = wheel.read(MEMBER), wheel.read(LICENCE)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--wheel {path}: {error}; expected the file that "
            "pip download --no-deps moonshine-voice==0.0.49 saves"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise UserError(
            f"--wheel {path}: {MEMBER} has SHA-256 {digest[:16]}..., expected {SHA256[:16]}...; "
            "use version 0.0.49"
        )
    return content, licence


def read_model(content: bytes) -> Any:
    """The ONNX model of an ONNX Runtime file, which ONNX Runtime itself saves as ONNX."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def read_graph(content: bytes) -> tuple[list[Any], dict[str, NDArray]]:
    """The nodes and constants of an ONNX Runtime file."""
    from onnx import numpy_helper

    graph = read_model(content).graph
    return list(graph.node), {c.name: numpy_helper.to_array(c) for c in graph.initializer}


def pack(nodes: list[Any], constants: dict[str, NDArray]) -> dict[str, NDArray]:
    """Packed weights by the names of transformers' MoonshineEncoder."""
    weights: dict[str, NDArray] = {}
    for node in nodes:
        if node.op_type not in QUANTISED:
            continue
        name = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
        inputs = [*node.input, "", ""]
        levels, scale, zero, bias = (inputs[i] for i in QUANTISED[node.op_type])
        step, origin = float(constants[scale]), float(constants[zero])
        weights[f"{name}.weight"] = np.ascontiguousarray(constants[levels].T)
        weights[f"{name}.weight.scale"] = np.array([step, -step * origin], np.float32)
        if bias:
            weights[f"{name}.bias"] = constants[bias]
    for name in CONVOLUTIONS:
        levels, scale = quantise(constants[f"{name}.weight_add_tensor"])
        weights |= {f"{name}.weight": levels, f"{name}.weight.scale": scale}
        if f"{name}.bias" in constants:
            weights[f"{name}.bias"] = constants[f"{name}.bias"]
    weights |= {name: value for name, value in constants.items() if NORMS.fullmatch(name)}
    scale, shift = group_norm(nodes, constants)
    return weights | {"groupnorm.weight": scale, "groupnorm.bias": shift}


def quantise(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Levels and [scale, offset] of a float tensor of at most 256 evenly spaced values.

    Raises `ValueError` for any other tensor.
    """
    values = np.unique(weight).astype(np.float64)
    levels = np.rint((weight - values[0]) / np.diff(values).min())
    step, offset = np.polyfit(levels.ravel(), weight.ravel().astype(np.float64), 1)
    scale = np.array([step, offset], np.float32)
    error = np.abs(levels * float(scale[0]) + float(scale[1]) - weight).max()
    if levels.max() > 255 or error > 1e-4 * step:
        raise ValueError(f"{len(values)} values, {levels.max() + 1:.0f} levels, error {error:.2g}")
    return levels.astype(np.uint8), scale


def group_norm(nodes: list[Any], constants: dict[str, NDArray]) -> tuple[NDArray, NDArray]:
    """Weight and bias (288,) of the group norm: the factor and the summand behind it."""
    by_output = {output: node for node in nodes for output in node.output}
    add = by_output["/groupnorm/Add_output_0"]
    product = next(by_output[name] for name in add.input if name in by_output)
    shift, scale = (
        next(constants[name] for name in node.input if name in constants) for node in (add, product)
    )
    return scale.reshape(-1).copy(), shift.reshape(-1).copy()


if __name__ == "__main__":
    sys.exit(run_cli(main))
