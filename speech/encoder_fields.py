"""The fields of an encoder's config from outside, checked before transformers gets them.

A few bytes in the header of a model file could otherwise make it allocate gigabytes, or load code
by the name of an attention kernel.
"""

import math
from typing import Any

from common.errors import UserError

MAX_SIZE = 2**16  # of any whole number: a width, a count of positions, an index
MAX_LAYERS = 256
MAX_ITEMS, MAX_LETTERS = 64, 64  # of a list, and of a text
NESTED = ("rope_parameters", "rope_scaling", "phone_head")  # fields that are objects
# They say nothing about the network, or choose code that runs it.
IGNORED = (
    "model_type", "architectures", "attn_implementation", "auto_map", "chunk_size_feed_forward",
    "dtype", "experts_implementation", "id2label", "label2id", "num_labels", "output_attentions",
    "output_hidden_states", "problem_type", "quantization_config", "return_dict", "torch_dtype",
    "transformers_version", "use_bfloat16",
)  # fmt: skip


def checked_fields(encoder: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The fields of `encoder` that decide what the network computes.

    defaults: those of the config's class. Raises `UserError` for a value of another type than the
    default's, and for one that no encoder has.
    """
    fields = {k: v for k, v in encoder.items() if k not in IGNORED and not k.startswith("_")}
    for name, value in fields.items():
        if not _is_plain(value, name in NESTED) or not _is_like(value, defaults.get(name)):
            raise UserError(
                f"speech encoder: {name} is {str(value)[:40]!r}, no value of this field"
            )
        if name.endswith("num_hidden_layers") and value > MAX_LAYERS:
            raise UserError(f"speech encoder: {name} is {value}, expected at most {MAX_LAYERS}")
    return fields


def _is_plain(value: Any, nested: bool = False) -> bool:
    """Whether a value is a number, a short text or a short list of them; nested: or an object."""
    if isinstance(value, dict):
        return nested and len(value) <= MAX_ITEMS and all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return len(value) <= MAX_ITEMS and all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return 0 <= value <= MAX_SIZE
    return value is None or (isinstance(value, str) and len(value) <= MAX_LETTERS)


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value has the type of a default; anything has, where there is none."""
    if default is None or value is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    kinds = (int | float, str, list | tuple, dict)
    return any(isinstance(value, kind) and isinstance(default, kind) for kind in kinds)
