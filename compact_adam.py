"""AdamW whose moments are bfloat16: half of their memory, arithmetic in float32.

Both moments of a weight are kept in bfloat16 and rounded to the nearest after every step; a block
at a time they are widened, used by torch's own fused step, and rounded again. A moment moves by a
share 1 - beta of its distance from the gradient (its square), so rounding to 8 bits stops it when
that is less than half a unit in the last place: within 2^-8 / (1 - beta) of the goal. With
beta2 = 0.98 that is a fifth of the squared gradient at the very worst, a tenth of a step's size,
if gradients of one size come again and again; as they differ, moments wander about the goal by
about one part in a hundred. The usual beta2 = 0.999 would let moments stand still: not accepted.
(8-bit Adam, Dettmers et al., arXiv 2110.02861, keeps less and needs scales a block.)

Biases, norms and other vectors keep float32: they weigh nothing.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

COARSE = torch.bfloat16
LARGEST_BETA = 0.98  # 2^-8 / (1 - beta) < 0.2
MOMENTS = ("exp_avg", "exp_avg_sq")  # named as torch's AdamW does
CPU_BLOCK, GPU_BLOCK = 1 << 18, 1 << 24  # numbers widened at a time: they stay in cache


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
        self._blocks: dict[torch.device, list[Tensor]] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._change(weight, group)
        self.factor = None

    def _change(self, weight: Tensor, group: dict[str, Any]) -> None:
        """One parameter's step, a block of it after the other."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), device=weight.device)
            for name in MOMENTS:
                state[name] = torch.zeros_like(weight, dtype=moment_dtype(weight))
        state["step"] += 1
        blocks = self._blocks_on(weight.device)
        flat = (weight.view(-1), *(x.reshape(-1) for x in (weight.grad, *map(state.get, MOMENTS))))
        beta1, beta2 = group["betas"]
        for part, *kept in zip(*(x.split(len(blocks[0])) for x in flat), strict=True):
            gradient, *moments = (
                block[: len(part)].copy_(x) for block, x in zip(blocks, kept, strict=True)
            )
            if self.factor is not None:
                gradient.mul_(self.factor)
            torch._fused_adamw_(
                [part], [gradient], *([moment] for moment in moments), [], [state["step"]],
                lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=group["weight_decay"],
                eps=group["eps"], amsgrad=False, maximize=False,
            )  # fmt: skip
            for moment, x in zip(moments, kept[1:], strict=True):
                x.copy_(moment)

    def _blocks_on(self, device: torch.device) -> list[Tensor]:
        """Where a block's gradient and moments stand in float32."""
        if device not in self._blocks:
            size = CPU_BLOCK if device.type == "cpu" else GPU_BLOCK
            self._blocks[device] = [torch.empty(size, device=device) for _ in range(3)]
        return self._blocks[device]

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
    """() float32. Rows of a bfloat16 one are summed in float32 and their norms rounded to 8 bits,
    up or down as it falls: a thousand of them leave an error of 1e-4. (Widening it all takes time
    and memory, and with dtype= torch's kernel is slow.)"""
    rows = torch.linalg.vector_norm(gradient, dim=-1) if gradient.ndim > 1 else gradient
    return torch.linalg.vector_norm(rows.float())
