"""A reused block of memory per thread: allocating a large one takes longer than filling it."""

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor


class ReusedSpace(threading.local):
    """Gives tensors on the CPU in a block for each dtype; a call overwrites what the last gave."""

    def __init__(self) -> None:
        self.blocks: dict[torch.dtype, Tensor] = {}

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor of a shape and dtype."""
        size = math.prod(shape)
        block = self.blocks.get(dtype)
        if block is None or len(block) < size:
            with torch.inference_mode(False):  # or no later call could write to it in training
                block = self.blocks[dtype] = torch.empty(size, dtype=dtype)
        return block[:size].view(shape)
