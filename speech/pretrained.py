"""Pre-trained speech encoders: where they are, what shape they have, their weights.

A source is a model on the Hugging Face hub, by name, or a local folder with config.json and
model.safetensors (or pytorch_model.bin), of a kind in `speech.kinds`; synthetic/encoder is one. A
CTC head in it serves the lip reader's teacher. The network takes its shape from the source, so
facebook/wav2vec2-base-960h (768 wide, group norm) can be used as well as the paper's XLSR (1024
wide, layer norm). torch and transformers are imported only when an encoder is loaded, so a missing
folder is reported at once.
"""

import logging as stdlib_logging
import pickle
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, reason_of
from common.paths import relative_to_project
from config import PROJECT_ROOT
from files.texts import read_json
from files.torch_files import check_state_dict
from speech.encoder_fields import NESTED, checked_fields

if TYPE_CHECKING:
    from torch import nn

HUB_LOGGERS = ("huggingface_hub", "transformers", "httpx")  # they log every retry
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# of transformers and torch, which check little; RuntimeError has RecursionError
BROKEN_CONFIG = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
SPARE_WEIGHTS = 2**24  # that a network may have beyond those in its files: a new CTC head
MAY_BE_MISSING = ("lm_head.", "masked_spec_embed")  # a weight file may lack these


def find_source(source: str) -> str:
    """The absolute path of the local folder of a pre-trained encoder, or its hub name.

    A relative path is looked up in the working directory, then in the project. Raises `UserError`
    when `source` is neither.
    """
    for folder in (Path(source), PROJECT_ROOT / source):
        if folder.is_dir():
            return str(folder.resolve())
    beside = (Path(source).parent, (PROJECT_ROOT / source).parent)
    in_a_folder = any(parent.is_dir() for parent in beside)
    if HUB_NAME.fullmatch(source) and not in_a_folder:
        return source
    raise UserError(
        f"--encoder {source}: no such folder; expected one with config.json and "
        "model.safetensors, or a hub name like facebook/wav2vec2-base-960h (synthetic/encoder "
        "comes with the project)"
    )


def source_for_record(source: str) -> str:
    """`source` as a run records it: valid in any working directory. Raises as `find_source`."""
    place = find_source(source)
    return relative_to_project(Path(place)) if Path(place).is_dir() else place


def _load_error(source: str, error: Exception) -> UserError:
    """The error for a pre-trained encoder that cannot be loaded, with the remedy."""
    if Path(source).is_dir():
        remedy = "the folder needs config.json and model.safetensors of a speech encoder"
    else:
        remedy = (
            f"on a machine with a network: hf download {source} --local-dir DIR, then here: "
            "--encoder DIR; or use --base synthetic, whose small encoder comes with the project"
        )
    return UserError(f"--encoder {source}: cannot be loaded ({reason_of(error, 200)}); {remedy}")


def _local_first(load: Callable[..., Any], source: str) -> Any:
    """`load(source)` from a folder or the hub's cache, from the network only if it is in neither.

    Without a network, asking the hub takes half a minute to fail.
    """
    try:
        return load(source, local_files_only=True)
    except OSError:
        if Path(source).is_dir():
            raise
    print(f"{source}: not on this machine, downloading from Hugging Face ...", file=sys.stderr)
    return load(source)


def load_config(source: str) -> Any:
    """The config of a pre-trained encoder, as `bodies.encoder_config` returns it.

    The config.json of a local folder whose kind this project computes itself is read without
    transformers. Raises `UserError` when it cannot be loaded, is of an unknown kind or of another
    frame rate.
    """
    from speech.bodies import own_config
    from speech.kinds import kind_of

    source = find_source(source)
    try:
        if Path(source).is_dir():
            fields = read_json(Path(source) / "config.json")
            if not isinstance(fields, dict):
                raise ValueError("config.json is no JSON object")
        else:
            fields = _transformers_config(source).to_dict()
        kind = kind_of(fields.get("model_type"))
        if kind.own_config is None:
            config = _transformers_config(source)
        else:
            flat = {k: v for k, v in fields.items() if k in NESTED or not isinstance(v, dict)}
            config = own_config(flat)
    except (*BROKEN_CONFIG, UserError) as error:
        raise _load_error(source, error) from error
    if mismatch := kind.mismatch(config):
        raise UserError(f"--encoder {source}: {mismatch}; choose another encoder")
    return config


def _transformers_config(source: str) -> Any:
    """The config of a folder or hub name as transformers reads it.

    Raises one of `BROKEN_CONFIG`, or `UserError` for a field whose value no encoder has.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    _silence_transformers()
    try:
        load = partial(AutoConfig.from_pretrained, trust_remote_code=False)
        config = _local_first(load, source)
        default = type(config)().to_dict()
    except StrictDataclassError as error:
        raise ValueError(reason_of(error)) from error
    fields = {k: v for k, v in config.to_dict().items() if not isinstance(v, dict)}
    checked_fields(fields, default)
    return config


def _silence_transformers() -> None:
    """Let transformers show no progress bar of loading and log errors only."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    for name in HUB_LOGGERS:  # our own error is one line
        stdlib_logging.getLogger(name).setLevel(stdlib_logging.ERROR)


def encoder_of(source: str, encoder: dict[str, Any]) -> dict[str, Any]:
    """The encoder of a model config for the pre-trained `source`: its shape, our regularisation.

    encoder: the recipe's. It is returned as it is where it has the shape of `source`. Otherwise its
    dropouts and SpecAugment are kept, unless the kind's transformer is frozen, and the rest is that
    of `source`. Raises as `load_config`.
    """
    from speech.bodies import encoder_config
    from speech.kinds import kind_of

    theirs = load_config(source)
    kind = kind_of(theirs.model_type)
    shape = {
        k: getattr(theirs, k) for k in kind.shape_fields if getattr(theirs, k, None) is not None
    }
    if encoder.get("model_type") == theirs.model_type:
        ours = encoder_config(encoder)
        if all(_equal(getattr(ours, k, None), value) for k, value in shape.items()):
            return encoder
    default = encoder_config({"model_type": theirs.model_type})
    shape = {k: v for k, v in shape.items() if not _equal(getattr(default, k, None), v)}
    shape = {k: list(v) if isinstance(v, tuple) else v for k, v in shape.items()}
    if not kind.transformer_is_trained:
        return {"model_type": theirs.model_type} | shape
    ours = {k: v for k, v in encoder.items() if k.startswith(("mask_", "layerdrop", "apply_"))}
    ours |= {k: v for k, v in encoder.items() if k.endswith("_dropout") and hasattr(theirs, k)}
    return {"model_type": theirs.model_type} | shape | ours


def _equal(a: Any, b: Any) -> bool:
    """Whether two values of a config are equal; a list equals its tuple, None equals 0."""
    return (list(a) == list(b)) if isinstance(b, list | tuple) and a else (a or 0) == (b or 0)


def load_pretrained(source: str) -> "nn.Module":
    """A CTC model, such as a Wav2Vec2ForCTC, in float32 from a local folder or a hub name.

    Where the weights have no CTC head, `lm_head` is None, with a warning: there are features but no
    text. Raises `UserError` when the source cannot be loaded or lacks other weights.
    """
    model = _load(source)
    if model.lm_head is None:
        print(
            f"warning: --encoder {source}: no CTC head (lm_head): the lip reader is trained on "
            "features alone, without the CTC loss",
            file=sys.stderr,
        )
    return model


def load_body(source: str) -> "nn.Module":
    """The body of `load_pretrained`'s model, where no text is needed; raises the same."""
    from speech.bodies import body_of

    return body_of(_load(source))


def _load(source: str) -> "nn.Module":
    """See `load_pretrained`; without the warning."""
    from safetensors import SafetensorError

    from speech.bodies import build_ctc
    from speech.kinds import kind_of

    source = find_source(source)
    config = load_config(source)
    kind = kind_of(config.model_type)
    try:
        if Path(source).is_dir():
            _check_size(Path(source), config)
        weights = kind.own_weights(config, Path(source))
        if weights is not None:
            model = build_ctc(config)
            model.load_state_dict(weights)
        else:
            model = _from_transformers(source, kind.transformers_class("ForCTC"))
    except (*BROKEN_CONFIG, SafetensorError, pickle.UnpicklingError) as error:
        raise _load_error(source, error) from error
    return model.float()


def _check_size(folder: Path, config: Any) -> None:
    """Raise `ValueError` where a config asks for more weights than the files of a folder hold.

    Weights that are missing would be allocated and drawn at random, however large they are.
    """
    import torch

    from speech.bodies import build_ctc

    with torch.device("meta"):  # no memory
        needed = sum(weight.numel() for weight in build_ctc(config).parameters())
    files = [path for suffix in ("safetensors", "bin") for path in folder.glob(f"*.{suffix}")]
    stored = sum(path.stat().st_size for path in files)  # a byte or more for each weight
    if needed > stored + SPARE_WEIGHTS:
        raise ValueError(
            f"config.json describes {needed:,} weights, the files have {stored:,} bytes"
        )


def _from_transformers(source: str, ctc_class: Any) -> "nn.Module":
    """The CTC model of a folder or hub name, loaded by transformers; see `load_pretrained`."""
    _silence_transformers()
    if not list(Path(source).glob("*.safetensors")):
        for file in sorted(Path(source).glob("*.bin")):
            check_state_dict(file, "--encoder")
    load = partial(
        ctc_class.from_pretrained,
        output_loading_info=True,
        trust_remote_code=False,
        weights_only=True,
    )
    model, report = _local_first(load, source)
    missing = sorted(report["missing_keys"])
    needed = [name for name in missing if not any(part in name for part in MAY_BE_MISSING)]
    if needed:
        raise UserError(
            f"--encoder {source}: {len(needed)} weights are missing ({needed[0]}, ...); download "
            "it again or choose another encoder"
        )
    if any("lm_head." in name for name in missing):
        model.lm_head = None
    return model
