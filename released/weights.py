"""Published weights: the files vocaset.pth and biwi.pth of the public JambaTalk release.

`load_release("vocaset.pth")` returns a `released.network.ReleasedJambaTalk`. Such a file holds
3.1 GB of weights, among them a frozen text encoder and a lip Transformer that only training needs;
they are never read. `python release.py convert vocaset.pth vocaset.safetensors [--half]` writes a
file without them.
"""

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError, reason_of, writable_folder
from common.overrides import check_model, from_dict
from config import XLSR_LARGE, ModelConfig
from files.arrays import check_file
from files.models import (
    built_without_memory,
    check_sizes,
    load_model_file,
    load_torch_file,
    misfits,
    other_model_file,
    save_model_file,
)
from layers.fast_linear import large_weights
from released.network import ReleasedJambaTalk

HEADER = "jambatalk-release"  # key of the JSON in a converted file's header
SOURCES = "give vocaset.pth, biwi.pth or a file that release.py converted"
UNUSED = ("text_encoder.", "transformer.", "lip_map.", "lm_head.")  # training only
BY_FOLD = {1: ("MEAEME", 8, 30), 2: ("MEMEAEMEME", 4, 25)}  # k: layout, heads, fps
D_HEAD_ENCODER = 64  # width of an attention head in wav2vec 2.0 "base" and "large"


def load_release(
    source: str | Path | Mapping[str, Tensor], encoder_config: Any = None
) -> ReleasedJambaTalk:
    """The network of a published .pth, of a converted .safetensors or of a state dict; eval mode.

    All dimensions follow from the shapes of the weights. encoder_config: a Wav2Vec2Config, or its
    fields as a dict, for an encoder that does not have 64 channels per attention head and strides
    5, 2, 2, 2, 2, 2, 2. Weights of a .pth stay memory-mapped, so only those used are read; nothing
    but tensors is unpickled. Raises `UserError` for a file that is missing, damaged or of another
    model, `ValueError` for a state dict of another model.
    """
    if isinstance(source, Mapping):
        return _build(select_weights(source), encoder_config)
    path = check_file(source, "checkpoint")
    read = _read_pth if _is_zip(path) or path.suffix in (".pth", ".pt") else _read_safetensors
    weights, config = read(path)
    try:
        return _build(weights, encoder_config, config)
    except (ValueError, UserError) as error:
        raise UserError(f"checkpoint {path}: {error}") from error


def is_release(path: str | Path) -> bool:
    """Whether `path` looks like a published .pth or a file that `convert` wrote."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.suffix in (".pth", ".pt") or _is_zip(path):
        return True
    try:
        with safe_open(path, framework="pt") as file:
            return HEADER in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _is_zip(path: Path) -> bool:
    """Whether `path` is a zip archive, which torch.save writes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _read_pth(path: Path) -> tuple[dict[str, Tensor], None]:
    """The weights of a published file that prediction needs, memory-mapped."""
    if not _is_zip(path):
        raise UserError(
            f"checkpoint {path}: not a .pth file of PyTorch 1.6 or later; if a web page was saved "
            "instead of the file, download it again"
        )
    try:
        state = load_torch_file(path, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path}: contains objects other than weights, which could run code and are "
            "never loaded; download the published file again"
        ) from error
    except ValueError as error:
        size = path.stat().st_size / 1e6
        raise UserError(
            f"checkpoint {path}: damaged or truncated at {size:.0f} MB (the published files have "
            "3,107 and 3,248 MB); download it again"
        ) from error
    if isinstance(state, Mapping) and "generators" in state:
        raise UserError(f"checkpoint {path}: {other_model_file(path)}")
    if not isinstance(state, Mapping):
        raise UserError(
            f"checkpoint {path}: contains a {type(state).__name__}, expected a state dict of the "
            "JambaTalk release"
        )
    try:
        weights = select_weights(state)
        check_sizes(weights, path.stat().st_size)
        return weights, None
    except ValueError as error:
        raise UserError(f"checkpoint {path}: {error}") from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], ModelConfig]:
    """Weights and config of a file written by `convert`."""
    weights, header = load_model_file(path, HEADER, remedy=SOURCES)
    try:
        return weights, from_dict(ModelConfig, header["model"])
    except (ValueError, KeyError, UserError) as error:
        raise UserError(
            f"checkpoint {path}: its header does not describe a model ({reason_of(error)}); "
            "convert the published file again"
        ) from error


def select_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a published state dict that prediction needs, not copied.

    Older versions of PyTorch saved the weight norm of the positional convolution as weight_g and
    weight_v; these get their current names. Raises `ValueError` for a value that is not a tensor.
    """
    renamed = {".weight_g": ".parametrizations.weight.original0",
               ".weight_v": ".parametrizations.weight.original1"}  # fmt: skip
    weights = {}
    for name, value in state.items():
        if str(name).startswith(UNUSED):
            continue
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"'{name}' is not a weight, expected a state dict of the JambaTalk release"
            )
        for ending, current in renamed.items():
            if name.endswith(ending):
                name = name.removesuffix(ending) + current
        weights[name] = value
    return weights


def _build(
    weights: dict[str, Tensor],
    encoder_config: Any,
    config: ModelConfig | None = None,
) -> ReleasedJambaTalk:
    """The network with `weights` as its parameters; `ValueError` where they do not fit."""
    config = config or read_config(weights, encoder_config)
    check_model(config)
    model = built_without_memory(lambda: ReleasedJambaTalk(config))
    if wrong := misfits(model, weights):
        raise ValueError(f"{len(wrong)} weights do not fit the release's network, first {wrong[0]}")
    stored = large_weights(model)
    widened = {name: w if name in stored else w.float() for name, w in weights.items()}
    model.load_state_dict(widened, assign=True)
    return model.eval()


def read_config(weights: Mapping[str, Tensor], encoder_config: Any = None) -> ModelConfig:
    """The network's dimensions, from the shapes of its weights.

    One encoder frame per mesh frame means the network for VOCASET (30 fps, 8 heads), two mean that
    for BIWI (25 fps, 4 heads). encoder_config: as `load_release`. Raises `ValueError` where a
    weight is missing, empty or has too few dimensions.
    """
    shape = {name: tuple(value.shape) for name, value in weights.items()}
    if empty := next((name for name, sizes in shape.items() if 0 in sizes), None):
        raise ValueError(f"weight '{empty}' is empty, expected those of the JambaTalk release")
    try:
        encoder = read_encoder(shape) if encoder_config is None else as_dict(encoder_config)
        d_model, width = shape["audio_feature_map.weight"]
        (encoder_width,) = shape["audio_encoder.encoder.layer_norm.weight"]
        k, rest = divmod(width, encoder_width)
        if rest or k not in BY_FOLD:
            raise ValueError(
                f"audio_feature_map.weight is {d_model} x {width} for an encoder of width "
                f"{encoder_width}, expected a width of {encoder_width} or {2 * encoder_width}"
            )
        layout, n_heads, fps = BY_FOLD[k]
        return ModelConfig(
            encoder=encoder,
            n_vertices=shape["vertice_map_r.weight"][0] // 3,
            fps=fps,
            fold=k,
            layout=layout,
            d_model=d_model,
            d_state=shape["mamba.A_log"][1],
            d_conv=shape["mamba.conv1d.weight"][2],
            expand=shape["mamba.A_log"][0] // d_model,
            moe_d_state=shape["mamba_moe.mamba.A_log"][1],
            moe_d_conv=shape["mamba_moe.mamba.conv1d.weight"][2],
            n_experts=shape["mamba_moe.moe.experts.w1"][0],
            top_k=shape["mamba_moe.moe.experts.w1"][0],
            n_heads=n_heads,
            n_kv_heads=n_heads,
            rope_rank=shape["transformer_decoder.lrl_rope.proj.0.weight"][0],
            d_ff=shape["transformer_decoder.linear1.weight"][0],
        )
    except KeyError as error:
        raise ValueError(
            f"no weight {error}, expected a state dict of the JambaTalk release"
        ) from error
    except IndexError as error:
        raise ValueError("a weight has too few dimensions for the release's network") from error
    except ZeroDivisionError as error:
        raise ValueError("a weight is empty") from error


def as_dict(encoder_config: Any) -> dict[str, Any]:
    """A Wav2Vec2Config, or its fields as a dict, as the dict of `ModelConfig.encoder`."""
    fields = encoder_config if isinstance(encoder_config, Mapping) else encoder_config.to_dict()
    return {"model_type": "wav2vec2"} | dict(fields)


def read_encoder(shape: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """XLSR_LARGE with the dimensions of the weights `audio_encoder.*`.

    Raises `KeyError` where one of them is missing, `IndexError` where one has too few dimensions.
    """
    prefix = "audio_encoder."
    convolutions = [
        shape[name] for i in range(len(shape))
        if (name := f"{prefix}feature_extractor.conv_layers.{i}.conv.weight") in shape
    ]  # fmt: skip
    n_layers = sum(name.endswith("final_layer_norm.weight") for name in shape)
    position = shape[f"{prefix}encoder.pos_conv_embed.conv.parametrizations.weight.original1"]
    return XLSR_LARGE | {
        "conv_dim": [s[0] for s in convolutions],
        "conv_kernel": [s[2] for s in convolutions],
        "hidden_size": position[0],
        "num_hidden_layers": n_layers,
        "num_attention_heads": max(position[0] // D_HEAD_ENCODER, 1),
        "intermediate_size": shape[
            f"{prefix}encoder.layers.0.feed_forward.intermediate_dense.weight"
        ][0],
        "num_conv_pos_embeddings": position[2],
        "num_conv_pos_embedding_groups": position[0] // position[1],
    }


def convert(source: str | Path, target: str | Path, half: bool = False) -> None:
    """Write the weights of a published file that prediction needs, and their config.

    target: the .safetensors to write, whole or not at all. half: as float16, loaded as float32.
    Raises `UserError` as `load_release` does, and where the file cannot be written.
    """
    target = Path(target)
    if target.suffix != ".safetensors":
        raise UserError(f"output {target}: expected a name that ends in .safetensors")
    writable_folder(target.parent)
    model = load_release(source)
    header = {"model": dataclasses.asdict(model.config)}
    dtype = torch.float16 if half else torch.float32
    weights = {name: value.to(dtype).contiguous() for name, value in model.state_dict().items()}
    try:
        save_model_file(target, weights, HEADER, header)
    except OSError as error:
        raise UserError(
            f"output {target}: cannot be written ({reason_of(error)}); free space or choose "
            "another folder"
        ) from error
