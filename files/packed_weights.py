"""Weights stored as bytes: one uint8 for each weight, with the scale and offset of its tensor.

A quantised tensor `w` has at most 256 values, `offset + scale * i`. It is stored as `name` (the i,
uint8) and `name.scale` (float32 [scale, offset]); every other tensor as it is.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".scale"  # of the name of a tensor's scale and offset


def unpack_weights(packed: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Float32 tensors of all weights, by name.

    Raises `ValueError` when a byte tensor lacks its scale or a scale its tensor.
    """
    weights = {}
    for name, value in packed.items():
        if name.endswith(SUFFIX):
            if name.removesuffix(SUFFIX) not in packed:
                raise ValueError(f"{name}: no tensor {name.removesuffix(SUFFIX)}")
        elif value.is_floating_point():
            weights[name] = value.float()
        elif name + SUFFIX in packed:
            scale, offset = packed[name + SUFFIX].double()
            weights[name] = (value.double() * scale + offset).float()
        else:
            raise ValueError(f"{name}: {value.dtype} without {name}{SUFFIX}")
    return weights
