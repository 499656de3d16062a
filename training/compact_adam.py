"""AdamW whose moments are bfloat16: half of their memory, arithmetic in float32.

Both moments of a weight are kept in bfloat16 and rounded to the nearest after every step, on a CPU
by `adam_kernels`, else widened for torch's own fused step. A moment moves by a share 1 - beta of
its distance from its goal, the gradient (its square), and to 8 bits that is no move at all when it
is less than half a unit in the last place: within 2^-8 / (1 - beta) of the goal. With beta2 = 0.98
that is a fifth of the squared gradient at the very worst, a tenth of a step's size, if gradients of
one size come again and again; as they differ, rounding makes moments wander by about one part in a
hundred. The usual beta2 = 0.999 would let them stand still: not accepted. (8-bit Adam, Dettmers et
al., arXiv 2110.02861, keeps less and needs a scale a block.)

Biases, norms and other vectors keep float32: they weigh nothing.
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

    Gradients may be bfloat16, too. `clip_gradients` tells the factor by which the next step takes
    them. State and groups are as AdamW's. Raises `ValueError` for betas that 8 bits cannot follow.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8, weight_decay: float = 1e-2,
    ) -> None:  # fmt: skip
        if max(betas) > LARGEST_BETA:
            raise ValueError(f"betas {betas}: bfloat16 moments follow {LARGEST_BETA} at most")
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
        self.factor: Tensor | None = None  # of the gradients, for the step to come

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Change every parameter that has a gradient."""
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
        """One parameter's step with torch's kernel, on any device: moments widened for it."""
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
        """One parameter's step on a CPU, to be done by `do_all`."""
        state, gradient = self.state[weight], weight.grad.contiguous()
        beta1, beta2 = group["betas"]
        n = float(state["step"])
        size = math.sqrt(1.0 - beta2**n)  # corrections of the moments' start at zero
        numbers = (
            1.0 if self.factor is None else float(self.factor), 1.0 - beta1, beta2, 1.0 - beta2,
            1.0 - group["lr"] * group["weight_decay"], group["lr"] * size / (1.0 - beta1**n),
            group["eps"] * size,
        )  # fmt: skip
        arrays = [_array(x) for x in (weight, gradient, *map(state.get, MOMENTS))]
        return Job(arrays, tuple(map(np.float32, numbers)))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave. (torch's would make the moments float32.)"""
        super().load_state_dict(state_dict | {"state": {}})
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for index, kept in state_dict["state"].items():
            weight = weights[index]
            self.state[weight] = {
                name: value.to(weight.device, moment_dtype(weight) if name in MOMENTS else None)
                for name, value in kept.items()
            }


class Job(NamedTuple):
    """Arguments of a kernel of `adam_kernels`: flat arrays of one length, and numbers."""

    arrays: list[NDArray]
    numbers: tuple[np.float32, ...]


def _array(x: Tensor) -> NDArray:
    """A tensor's own memory, flat; bfloat16 as uint16."""
    return (x.view(torch.uint16) if x.dtype == COARSE else x.detach()).reshape(-1).numpy()


def do_all(jobs: Sequence[Job]) -> None:
    """Take the steps of CPU weights, every thread that torch may use a part of each."""
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
    """In which `CompactAdamW` keeps the moments of a parameter."""
    return COARSE if weight.ndim > 1 else torch.float32


def clip_gradients(optimizer: Optimizer, largest_norm: float) -> Tensor:
    """The norm of all gradients together, (); a step takes them no longer than `largest_norm`.

    `CompactAdamW` shortens them on the way, so that bfloat16 ones are not rounded once more.
    """
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(optimizer, CompactAdamW):
        return nn.utils.clip_grad_norm_(weights, largest_norm)
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([_norm(gradient) for gradient in gradients]))
    optimizer.factor = (largest_norm / (norm + 1e-6)).clamp(max=1.0)
    return norm


def _norm(gradient: Tensor) -> Tensor:
    """() float32. Rows of a bfloat16 one are summed in float32, their norms rounded to 8 bits: an
    error of 2^-8 at most, of 1e-4 where a thousand rows weigh alike. (Widening it all takes time
    and memory, and with dtype= torch's kernel is slow.)"""
    rows = torch.linalg.vector_norm(gradient, dim=-1) if gradient.ndim > 1 else gradient
    return torch.linalg.vector_norm(rows.float())
