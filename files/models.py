"""Model files: one .safetensors with its config as JSON in the header."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.whole_file import whole_file

if TYPE_CHECKING:
    from torch import Tensor


def save_model_file(
    path: str | Path, weights: "dict[str, Tensor]", key: str, header: dict[str, Any]
) -> None:
    """Write `weights`, and `header` as JSON under `key` of the file's header; whole or not at all.

    Raises `OSError` or safetensors' `SafetensorError` when the file cannot be written.
    """
    from safetensors.torch import save_file

    with whole_file(path) as partial:
        save_file(weights, partial, metadata={key: json.dumps(header)})
        partial.chmod(0o644)  # safetensors makes files that only their owner can read
