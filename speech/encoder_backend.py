"""What computes a frozen encoder: torch, or onnxruntime with 8-bit products (optional).

Checked without torch, before anything slow is loaded.
"""

import importlib.util

from common.errors import UserError

BACKENDS = ("torch", "onnx")
ONNX_PACKAGES = ("onnx", "onnxruntime")


def check_backend(name: str) -> None:
    """Raise `UserError` for an unknown backend, or one of which a package is missing."""
    if name not in BACKENDS:
        raise UserError(f"--encoder_backend {name}: expected torch or onnx")
    for package in ONNX_PACKAGES if name == "onnx" else ():
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--encoder_backend onnx: {package} is not installed; "
                f"run pip install {' '.join(ONNX_PACKAGES)}"
            )
