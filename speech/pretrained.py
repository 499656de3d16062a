"""Pre-trained speech encoders: where they are, what shape they have, their weights.

Any wav2vec 2.0 (or w2v-BERT 2.0) of the Hugging Face hub, by name or as a local folder with
config.json and model.safetensors (or pytorch_model.bin), with a CTC head for the lip reader's
teacher. The network takes its shape from the source, so facebook/wav2vec2-base-960h (768 wide,
group norm) serves as well as the paper's XLSR (1024 wide, layer norm). torch and transformers are
imported when an encoder is loaded: that a folder is not there is said before.
"""

import logging as stdlib_logging
import math
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.paths import relative_to_project
from config import PROJECT_ROOT

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURE = (  # fields of a transformers config without which weights do not fit or differ
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "layer_norm_eps", "conv_dim", "conv_kernel", "conv_stride", "conv_bias", "feat_extract_norm",
    "feat_extract_activation", "num_feat_extract_layers", "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups", "do_stable_layer_norm", "hand_set_layers", "context_layers",
    "position_embeddings_type", "conv_depthwise_kernel_size", "feature_projection_input_dim",
    "rotary_embedding_base", "max_source_positions", "left_max_position_embeddings",
    "right_max_position_embeddings",
)  # fmt: skip
HUB_LOGGERS = ("huggingface_hub", "transformers", "httpx")  # they tell of every retry
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
MAY_BE_MISSING = ("lm_head.", "masked_spec_embed")  # a weight file may lack these


def find_source(source: str) -> str:
    """Where a pre-trained encoder is: the absolute path of a local folder, or a hub name.

    A relative path counts from here, then from the project. `UserError` when it is neither.
    """
    for folder in (Path(source), PROJECT_ROOT / source):
        if folder.is_dir():
            return str(folder.resolve())
    beside = (Path(source).parent, (PROJECT_ROOT / source).parent)
    in_a_folder = any(parent.is_dir() for parent in beside)
    if HUB_NAME.fullmatch(source) and not in_a_folder:
        return source
    raise UserError(
        f"--wav2vec2 {source}: no such folder; wanted one with config.json and model.safetensors, "
        "or a hub name like facebook/wav2vec2-base-960h (the synthetic recipe's encoder is made "
        "by python -m synthetic.pretrain_encoder)"
    )


def shown_source(source: str) -> str:
    """`source` as a record keeps it, to be found from any folder; raises as `find_source`."""
    found = find_source(source)
    return relative_to_project(Path(found)) if Path(found).is_dir() else found


def _no_encoder(source: str, error: Exception) -> UserError:
    """What to tell the user whose pre-trained encoder cannot be had."""
    if Path(source).is_dir():
        fix = "the folder needs config.json and model.safetensors of a wav2vec 2.0 model"
    else:
        fix = (
            f"where there is a network: hf download {source} --local-dir DIR, then here: "
            "--wav2vec2 DIR; or --base synthetic, whose small encoder comes with the project"
        )
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UserError(f"--wav2vec2 {source}: cannot be loaded ({reason}); {fix}")


def _local_first(load: Callable[..., Any], source: str) -> Any:
    """`load(source)` from a folder or the hub's cache; over the network only when it is in none,
    since that takes half a minute to fail where there is no network."""
    try:
        return load(source, local_files_only=True)
    except OSError:
        if Path(source).is_dir():
            raise
    print(f"{source}: not on this machine yet, asked of the Hugging Face hub ...", file=sys.stderr)
    return load(source)


def load_config(source: str) -> Any:
    """The transformers config of a pre-trained encoder; `UserError` where it is none of ours."""
    from transformers import AutoConfig
    from transformers.utils import logging

    from speech.bodies import ctc_class
    from speech.timing import HOP

    logging.disable_progress_bar()  # of "Loading weights"
    for name in HUB_LOGGERS:  # an error of ours says it in one line
        stdlib_logging.getLogger(name).setLevel(stdlib_logging.ERROR)
    source = find_source(source)
    try:
        config = _local_first(AutoConfig.from_pretrained, source)
    except (OSError, ValueError, RuntimeError) as error:
        raise _no_encoder(source, error) from error
    ctc_class(config)
    if config.model_type == "wav2vec2" and math.prod(config.conv_stride) != HOP:
        raise UserError(
            f"--wav2vec2 {source}: a feature every {math.prod(config.conv_stride)} samples; "
            f"wanted every {HOP} (50 a second)"
        )
    if config.add_adapter:
        raise UserError(f"--wav2vec2 {source}: has an adapter, which halves its frame rate")
    return config


def encoder_of(source: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The encoder of a model config for the pre-trained `source`: its shape, our regularisation.

    `wanted` is the recipe's encoder, returned as it is where it has the source's shape; otherwise
    its dropouts and SpecAugment are kept, the rest is the source's.
    """
    found = load_config(source)
    same_kind = found.model_type == wanted.get("model_type")
    default = type(found)()
    shape = {k: getattr(found, k) for k in ARCHITECTURE if getattr(found, k, None) is not None}
    if same_kind:
        ours = type(found)(**{k: v for k, v in wanted.items() if k != "model_type"})
        if all(_same(getattr(ours, k, None), value) for k, value in shape.items()):
            return wanted
    shape = {k: v for k, v in shape.items() if not _same(getattr(default, k, None), v)}
    shape = {k: list(v) if isinstance(v, tuple) else v for k, v in shape.items()}
    kept = {k: v for k, v in wanted.items() if k.startswith(("mask_", "layerdrop", "apply_"))}
    kept |= {k: v for k, v in wanted.items() if k.endswith("_dropout") and hasattr(found, k)}
    return {"model_type": found.model_type} | shape | kept


def _same(a: Any, b: Any) -> bool:
    """Equal, a list counting as a tuple and an absent number of layers as none."""
    return (list(a) == list(b)) if isinstance(b, list | tuple) and a else (a or 0) == (b or 0)


def load_pretrained(source: str) -> "nn.Module":
    """A Wav2Vec2ForCTC or Wav2Vec2BertForCTC in float32 from a local folder or a hub name.

    Weights without a CTC head give one whose `lm_head` is None: it has features but reads no text.
    Raises `UserError` in one line when the source cannot be had, or lacks weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from speech.bodies import build_ctc, ctc_class

    source = find_source(source)
    config = load_config(source)
    try:
        if getattr(config, "context_layers", 0):
            model = build_ctc(config)
            model.load_state_dict(load_file(Path(source) / "model.safetensors"))
            return model
        load = partial(ctc_class(config).from_pretrained, output_loading_info=True)
        model, report = _local_first(load, source)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _no_encoder(source, error) from error
    missing = sorted(report["missing_keys"])
    lost = [name for name in missing if not any(part in name for part in MAY_BE_MISSING)]
    if lost:
        raise UserError(f"--wav2vec2 {source}: {len(lost)} weights are missing ({lost[0]}, ...)")
    if any("lm_head." in name for name in missing):
        print(
            f"warning: --wav2vec2 {source}: no CTC head (lm_head), so it reads no text: the lip "
            "reader learns its features alone, without the CTC loss",
            file=sys.stderr,
        )
        model.lm_head = None
    return model.float()
