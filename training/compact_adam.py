"""AdamW whose moments are bfloat16: half of their memory, arithmetic in float32.

Both moments of a weight are stored in bfloat16 and rounded to the nearest after every step: on a
CPU by `adam_kernels`, elsewhere around torch's own fused step. A moment moves by a share 1 - beta
of its distance from the gradient (or its square). In 8 bits a move of less than half a unit in the
last place is lost, so a moment stops within 2^-8 / (1 - beta) of its target. With beta2 = 0.98 that
is at worst a fifth of the squared gradient, a tenth of a step's size, where gradients are constant;
where they vary, rounding adds noise of about one percent. With the usual beta2 = 0.999 moments
would not move at all, so it is refused. (8-bit Adam, Dettmers et al., arXiv 2110.02861, stores less
and needs a scale per block.)

Biases, norms and other vectors stay float32: they take hardly any memory.
"""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

COARSE = torch.bfloat16
LARGEST_BETA = 0.98  # 2^-8 / (1 - beta) < 0.2
MOMENTS = ("exp_avg", "exp_avg_sq")  # named as torch's AdamW does


class CompactAdamW(Optimizer):
    """torch.optim.AdamW (Loshchilov and Hutter, arXiv 1711.05101) with bfloat16 moments.

    Gradients may be bfloat16, too. `clip_gradients` sets the factor by which the next step
    multiplies them. State and groups are AdamW's. Raises `ValueError` for betas too near 1.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8, weight_decay: float = 1e-2,
    ) -> None:  # fmt: skip
        if max(betas) > LARGEST_BETA:
            raise ValueError(f"betas {betas}, expected at most {LARGEST_BETA} for bfloat16 moments")
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
        self.factor: Tensor | None = None  # of the gradients, for the next step

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        jobs: list[Job] = []
        for group in self.param_groups:
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                state = self.state[weight]
                if not state:
                    state["step"] = torch.zeros((), device=weight.device)
                    for name in MOMENTS:
                        state[name] = torch.zeros_like(weight, dtype=moment_dtype(weight))
                state["step"] += 1
                if weight.is_cpu and weight.is_contiguous() and weight.ndim > 1:
                    jobs.append(self._job(weight, group))
                else:
                    self._change(weight, group)
        do_all(jobs)
        self.factor = None

    def _change(self, weight: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter with torch's kernel, on any device; moments are float32 for it."""
        state = self.state[weight]
        wide = {name: state[name].float() for name in MOMENTS}  # themselves where float32
        gradient = weight.grad.float()
        beta1, beta2 = group["betas"]
        torch._fused_adamw_(
            [weight], [gradient if self.factor is None else gradient * self.factor],
            *([moment] for moment in wide.values()), [], [state["step"]],
            lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=group["weight_decay"],
            eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip
        for name, moment in wide.items():
            state[name].copy_(moment)

    def _job(self, weight: Tensor, group: dict[str, Any]) -> "Job":
        """The update of one parameter on a CPU, for `do_all`."""
        state, gradient = self.state[weight], weight.grad.contiguous()
        beta1, beta2 = group["betas"]
        n = float(state["step"])
        size = math.sqrt(1.0 - beta2**n)  # bias correction
        numbers = (
            1.0 if self.factor is None else float(self.factor), 1.0 - beta1, beta2, 1.0 - beta2,
            1.0 - group["lr"] * group["weight_decay"], group["lr"] * size / (1.0 - beta1**n),
            group["eps"] * size,
        )  # fmt: skip
        arrays = [_array(x) for x in (weight, gradient, *map(state.get, MOMENTS))]
        return Job(arrays, tuple(map(np.float32, numbers)))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned. (torch's method would make the moments float32.)"""
        super().load_state_dict(state_dict | {"state": {}})
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for index, state in state_dict["state"].items():
            weight = weights[index]
            self.state[weight] = {
                name: value.to(weight.device, moment_dtype(weight) if name in MOMENTS else None)
                for name, value in state.items()
            }


class Job(NamedTuple):
    """Arguments of a kernel of `adam_kernels`: flat arrays of one length, and numbers."""

    arrays: list[NDArray]
    numbers: tuple[np.float32, ...]


def _array(x: Tensor) -> NDArray:
    """A tensor's own memory, flat; bfloat16 as uint16."""
    return (x.view(torch.uint16) if x.dtype == COARSE else x.detach()).reshape(-1).numpy()


def do_all(jobs: Sequence[Job]) -> None:
    """Update CPU weights, with as many threads as torch uses, each for a part of every weight."""
    if not jobs:
        return
    from training.adam_kernels import (  # compiled by numba where first imported
        step_coarse,
        step_fine,
    )

    n_threads = torch.get_num_threads()

    def part(thread: int) -> None:
        for arrays, numbers in jobs:
            size = len(arrays[0])
            mine = slice(thread * size // n_threads, (thread + 1) * size // n_threads)
            step = step_coarse if arrays[1].dtype == np.uint16 else step_fine
            step(*(array[mine] for array in arrays), *numbers)

    with ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(part, range(n_threads)))


def moment_dtype(weight: Tensor) -> torch.dtype:
    """The dtype in which `CompactAdamW` stores the moments of a parameter."""
    return COARSE if weight.ndim > 1 else torch.float32


def clip_gradients(optimizer: Optimizer, largest_norm: float) -> Tensor:
    """The norm of all gradients together, (); they are scaled down to `largest_norm`.

    `CompactAdamW` scales them during its step, so that bfloat16 ones are not rounded again.
    """
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(optimizer, CompactAdamW):
        return nn.utils.clip_grad_norm_(weights, largest_norm)
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([_norm(gradient) for gradient in gradients]))
    optimizer.factor = (largest_norm / (norm + 1e-6)).clamp(max=1.0)
    return norm


def _norm(gradient: Tensor) -> Tensor:
    """() float32. Rows of a bfloat16 gradient are summed in float32 and their norms rounded to 8
    bits: an error of at most 2^-8, about 1e-4 over a thousand similar rows. (A float32 copy takes
    time and memory, and torch's kernel is slow with dtype=.)"""
    rows = torch.linalg.vector_norm(gradient, dim=-1) if gradient.ndim > 1 else gradient
    return torch.linalg.vector_norm(rows.float())
