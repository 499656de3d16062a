"""Moonshine's encoder by onnxruntime: the same states as torch's, with 8-bit matrix products.

The ONNX graph is built of the body's own weights when it is needed, in a tenth of a second, so
there is no second file. The products of linear layers are int8: a weight w is scale · (i - zero)
with a byte i, one scale and zero for a matrix, and activations are quantised when they are known
(ONNX's DynamicQuantizeLinear). The weights in synthetic/encoder have 256 values, so they stay
exact. Convolutions, attention and norms are float32: an int8 convolution after the group norm
changes the states by half.

B windows, S samples, N frames, L states, C width, H heads, D = C / H.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import UserError
from speech.encoder_backend import check_backend
from speech.moonshine_body import frames_of

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

OPSET, IR_VERSION = 21, 10  # of ONNX 1.16, for onnxruntime from 1.18 on
LEVELS = 255  # the largest byte
NORM_EPS = 1e-5


class OnnxEncoder:
    """A function of windows (B, S) that returns states (B, N, L·C), as `encoder_states` does.

    body: a `MoonshineBody`; n_samples: S of all windows. The threads are as many
    as torch's. Raises `UserError` where a package is missing or the encoder's activation is not
    GELU.
    """

    def __init__(self, body: nn.Module, n_samples: int) -> None:
        check_backend("onnx")
        activation = body.config.encoder_hidden_act
        if activation != "gelu":
            raise UserError(
                f"--encoder_backend onnx: expected an encoder with gelu, got {activation}; "
                "use --encoder_backend torch"
            )
        model = encoder_model(body, n_samples, signed_is_exact())
        self.session = open_session(model, torch.get_num_threads())

    def __call__(self, audio: Tensor) -> Tensor:
        """States of windows (B, S), float32, on the device of `audio`."""
        windows = audio.detach().cpu().float().numpy()
        # one at a time: the scale of activations must not depend on the other windows
        states = [self.session.run(None, {"audio": window[None]})[0] for window in windows]
        return torch.from_numpy(np.concatenate(states)).to(audio.device)


def open_session(model: "ModelProto", threads: int) -> "InferenceSession":
    """A session on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def signed_is_exact() -> bool:
    """Whether this processor multiplies unsigned by signed bytes without saturation.

    Signed weights are faster where there are instructions for them (VNNI). Older ones add two
    products in 16 bits, which are cut off at 32767.
    """
    size = 64
    graph = Graph()
    zero = graph.constant(np.uint8(0))
    weight = graph.constant(np.full((size, size), 127, np.int8))
    product = graph.add("MatMulInteger", "bytes", weight, zero)
    graph.add("Cast", product, to=1, outputs=["sums"])
    model = graph.model(("bytes", np.uint8, (size, size)), ("sums", np.float32, (size, size)))
    largest = np.full((size, size), LEVELS, np.uint8)
    sums = open_session(model, 1).run(None, {"bytes": largest})[0]
    return bool((sums == LEVELS * 127 * size).all())


class Graph:
    """An ONNX graph under construction; every value has a name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: NDArray | np.generic) -> str:
        """The name of a constant."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, op: str, *inputs: str, outputs: list[str] | int = 1, **attributes: Any) -> Any:
        """The name of a node's output; a list of them where `outputs` is more than 1."""
        from onnx import helper

        if isinstance(outputs, int):
            outputs = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def linear(self, x: str, weight: NDArray, bias: NDArray | None, signed: bool) -> str:
        """x (1, N, C) times weight (C2, C) in bytes, plus bias (C2,)."""
        levels, scale, zero = quantise(weight.T, signed)
        x_levels, x_scale, x_zero = self.add("DynamicQuantizeLinear", x, outputs=3)
        weight_and_zeros = (self.constant(levels), x_zero, self.constant(zero))
        product = self.add("Cast", self.add("MatMulInteger", x_levels, *weight_and_zeros), to=1)
        y = self.add("Mul", product, self.add("Mul", x_scale, self.constant(scale)))
        return y if bias is None else self.add("Add", y, self.constant(bias))

    def model(self, source: tuple, result: tuple) -> "ModelProto":
        """The model with one input and one output: (name, dtype, shape) of each."""
        from onnx import helper

        infos = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
            )
            for name, dtype, shape in (source, result)
        ]
        graph = helper.make_graph(self.nodes, "encoder", infos[:1], infos[1:], self.constants)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


def quantise(weight: NDArray, signed: bool) -> tuple[NDArray, np.float32, np.generic]:
    """(bytes, scale, zero) of a weight: scale · (bytes - zero) is nearest to it."""
    low, high = min(float(weight.min()), 0.0), max(float(weight.max()), 0.0)
    scale = (high - low) / LEVELS or 1.0
    zero = round(-low / scale)
    levels = np.clip(np.round(weight / scale) + zero, 0, LEVELS)
    shift, dtype = (128, np.int8) if signed else (0, np.uint8)
    return (levels - shift).astype(dtype), np.float32(scale), dtype(zero - shift)


def encoder_model(body: nn.Module, n_samples: int, signed: bool) -> "ModelProto":
    """The model that maps `audio` (1, S) to `states` (1, N, L·C); signed: of the weights' bytes."""
    graph, config = Graph(), body.config
    weights = {name: value.float().cpu().numpy() for name, value in body.state_dict().items()}
    n_frames = frames_of(n_samples)
    states = [convolutions(graph, weights)]
    attention = Attention(graph, body, n_frames, signed)
    for i in range(config.encoder_num_hidden_layers):
        prefix = f"layers.{i}."
        layer = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        x = states[-1]
        h = layer_norm(graph, x, layer["input_layernorm.weight"])
        x = graph.add("Add", x, attention.add(h, layer))
        h = layer_norm(graph, x, layer["post_attention_layernorm.weight"])
        h = graph.linear(h, layer["mlp.fc1.weight"], layer["mlp.fc1.bias"], signed)
        h = graph.add("Gelu", h)
        h = graph.linear(h, layer["mlp.fc2.weight"], layer["mlp.fc2.bias"], signed)
        states.append(graph.add("Add", x, h))
    states[-1] = layer_norm(graph, states[-1], weights["layer_norm.weight"])
    graph.add("Concat", *states, axis=2, outputs=["states"])
    width = len(states) * config.hidden_size
    return graph.model(
        ("audio", np.float32, (1, n_samples)), ("states", np.float32, (1, n_frames, width))
    )


def convolutions(graph: Graph, weights: dict[str, NDArray]) -> str:
    """`audio` (1, S) to the transformer's input (1, N, C)."""
    x = graph.add("Unsqueeze", "audio", graph.constant(np.array([1])))
    x = graph.add("Conv", x, graph.constant(weights["conv1.weight"]), strides=[64])
    affine = [graph.constant(weights[f"groupnorm.{name}"]) for name in ("weight", "bias")]
    x = graph.add("Tanh", x)
    x = graph.add("GroupNormalization", x, *affine, num_groups=1, epsilon=NORM_EPS)
    for name, stride in (("conv2", 3), ("conv3", 2)):
        parts = [graph.constant(weights[f"{name}.{part}"]) for part in ("weight", "bias")]
        x = graph.add("Gelu", graph.add("Conv", x, *parts, strides=[stride]))
    return graph.add("Transpose", x, perm=[0, 2, 1])


def layer_norm(graph: Graph, x: str, weight: NDArray) -> str:
    """x (1, N, C), normalised and weighted."""
    return graph.add("LayerNormalization", x, graph.constant(weight), axis=-1, epsilon=NORM_EPS)


class Attention:
    """The attention of all layers, with the rotation of queries and keys that they share.

    Rotary embedding turns pairs of neighbouring values of a head. The rows of the weights of
    queries and keys are reordered, so that the first values of all pairs come first, then the
    second ones, then those that are not turned. Their products stay the same.
    """

    def __init__(self, graph: Graph, body: nn.Module, n_frames: int, signed: bool) -> None:
        self.graph, self.signed = graph, signed
        width, n_heads = body.config.hidden_size, body.config.encoder_num_attention_heads
        d_head = width // n_heads
        with torch.no_grad():
            angles = body.rotary_emb(n_frames)
        n_pairs = angles[0].shape[-1]
        self.cos, self.sin = (  # (1, N, 1, pairs)
            graph.constant(part[None, :, None].numpy()) for part in angles
        )
        turned = 2 * np.arange(n_pairs)
        order = np.concatenate([turned, turned + 1, np.arange(2 * n_pairs, d_head)])
        self.rows = (np.arange(n_heads)[:, None] * d_head + order).flatten()
        self.parts = graph.constant(np.array([n_pairs, n_pairs, d_head - 2 * n_pairs]))
        self.scale = graph.constant(np.float32(d_head**-0.5))
        self.heads = graph.constant(np.array([1, n_frames, n_heads, d_head]))
        self.merged = graph.constant(np.array([1, n_frames, width]))

    def add(self, x: str, layer: dict[str, NDArray]) -> str:
        """Output (1, N, C) of a layer's attention, given its normalised input."""
        add = self.graph.add
        q, k, v = (
            add("Reshape", self._project(x, layer, name), self.heads)  # (1, N, H, D)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q = add("Transpose", add("Mul", self._rotate(q), self.scale), perm=[0, 2, 1, 3])
        k = add("Transpose", self._rotate(k), perm=[0, 2, 3, 1])  # (1, H, D, N)
        v = add("Transpose", v, perm=[0, 2, 1, 3])
        mean = add("MatMul", add("Softmax", add("MatMul", q, k), axis=-1), v)  # (1, H, N, D)
        mean = add("Reshape", add("Transpose", mean, perm=[0, 2, 1, 3]), self.merged)
        return self._project(mean, layer, "o_proj")

    def _project(self, x: str, layer: dict[str, NDArray], name: str) -> str:
        weight, bias = (layer.get(f"self_attn.{name}.{part}") for part in ("weight", "bias"))
        if name in ("q_proj", "k_proj"):
            weight = weight[self.rows]
            bias = None if bias is None else bias[self.rows]
        return self.graph.linear(x, weight, bias, self.signed)

    def _rotate(self, x: str) -> str:
        """x (1, N, H, D) with its pairs turned by the angles of its frame."""
        add = self.graph.add
        a, b, rest = add("Split", x, self.parts, outputs=3, axis=3)
        first = add("Sub", add("Mul", a, self.cos), add("Mul", b, self.sin))
        second = add("Add", add("Mul", b, self.cos), add("Mul", a, self.sin))
        return add("Concat", first, second, rest, axis=3)
