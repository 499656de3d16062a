"""Steps of the optimizer: gradients of one batch or several, on one process or all of them.

The losses are those of one large batch, however it is shared out: every batch divides by the sizes
of all of them (`learning`), and gradients are summed.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from config import TrainConfig
from dataset.batch_plan import BatchPlan
from training.compact_adam import clip_gradients
from training.losses import Sizes, total_loss
from training.networks import Networks, make_optimizer, start_average
from training.objective import Learner, add_sizes, batch_sizes
from training.processes import Group, SharedUserError
from training.teacher_targets import Hearing, Sounds


class Optimization:
    """The networks in training, on one process of a group.

    lips: (L,) vertices that the lip reader sees, on the networks' device; n_steps: of the whole
    run; dtype: what autocast computes in, float32 for none.
    """

    def __init__(
        self,
        nets: Networks,
        lips: Tensor,
        config: TrainConfig,
        n_steps: int,
        group: Group,
        dtype: torch.dtype,
    ) -> None:
        self.nets, self.config, self.group = nets, config, group
        self.device, self.dtype = lips.device, dtype
        self.learner: nn.Module = Learner(nets, lips, config)
        if group.world > 1:  # gives every rank the first one's weights
            ids = [self.device.index] if self.device.type == "cuda" else None
            with warnings.catch_warnings():  # torch 2.13 has another name for broadcast_buffers
                warnings.simplefilter("ignore", FutureWarning)
                self.learner = DistributedDataParallel(
                    self.learner, ids, broadcast_buffers=False, find_unused_parameters=True
                )
        coarse = dtype == torch.bfloat16 and config.accumulate == group.world == 1
        self.optimizer, self.schedule = make_optimizer(nets, config, n_steps, coarse)
        start_average(nets, config.ema_decay, n_steps)
        self.untouched = True  # since the last step began: a failure leaves the state before it

    def listen(self, cache: str | None, sounds: Sounds | None) -> None:
        """Make ready to hear batches, once the weights are those to start or go on with.

        sounds: of all clips, if they come whole; then the cache is filled.
        """
        self.hearing = Hearing(self.nets, cache, self.dtype)
        if sounds is not None:
            self.hearing.fill(sounds, self.group)

    def free_gradients(self) -> None:
        """Give the memory of the gradients back."""
        self.optimizer.zero_grad(set_to_none=True)

    def step(
        self, several: Sequence[dict[str, Any]], plan: BatchPlan, fault: str,
        stop_requests: Sequence[float],
    ) -> tuple[dict[str, float], list[float] | None]:  # fmt: skip
        """Train on batches of `data_loader.collate`, the next of `plan`, which is advanced.

        fault: what kept this rank's batches from being loaded; `UserError` on all ranks if any has
        one, or where a loss is not finite. Returns the losses by name, of all ranks together, and
        `stop_requests` summed over the ranks, None where there is but one.
        """
        self.untouched = True
        counted = []
        for _ in several:  # a filler batch keeps this rank in step and weighs nothing
            counted.append(plan.counted > 0)
            plan.advance()
        self.free_gradients()
        sizes = self._sizes(several, counted, fault)
        totals: dict[str, Tensor] = {}
        for number, (batch, counts) in enumerate(zip(several, counted, strict=True)):
            last = number == len(several) - 1
            alone = nullcontext() if last or self.group.world == 1 else self.learner.no_sync()
            with alone:
                parts = self._backward(batch, sizes, counts)
            for name, value in parts.items():
                totals[name] = totals.get(name, 0.0) + value.detach() * counts
        norm = clip_gradients(self.optimizer, self.config.grad_clip)
        found, all_requests = self._summed(totals, norm, stop_requests)
        self._check_finite(found, totals, several)
        self.untouched = False
        self.optimizer.step()
        self.schedule.step()
        if self.nets.average is not None:
            self.nets.average.update_parameters(self.nets.model)
        return found, all_requests

    def _sizes(self, several: Sequence[dict], counted: Sequence[bool], fault: str) -> Sizes:
        """What all ranks' batches hold together."""
        mine = [batch_sizes(b) for b, counts in zip(several, counted, strict=True) if counts]
        own = dataclasses.astuple(add_sizes([Sizes(0, 0, 0, 0), *mine]))
        *sizes, faults = self.group.add([*own, int(bool(fault))], self.device)
        if faults:
            raise SharedUserError("; ".join(filter(None, self.group.gather(fault))))
        return Sizes(*sizes)

    def _backward(self, batch: dict[str, Any], sizes: Sizes, counts: bool) -> dict[str, Tensor]:
        """Add the gradients of a batch; its losses."""
        batch = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        lower = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=lower):
            parts = self.learner(batch, self.hearing(batch), sizes)
        loss = total_loss(parts, self.config)
        weight = self.group.world if counts else 0.0  # ranks are averaged, not added
        (loss * weight).backward()
        return {"loss": loss, **parts}

    def _summed(
        self, totals: dict[str, Tensor], norm: Tensor, stop_requests: Sequence[float]
    ) -> tuple[dict[str, float], list[float] | None]:
        """Losses of all ranks and the norm that they share; stop requests are summed with them."""
        values = torch.stack([norm / self.group.world, *totals.values()])
        if self.group.world > 1:
            values = torch.cat([values, values.new_tensor(stop_requests)])
        found = self.group.sum(values).tolist()
        losses = dict(zip(["gradient_norm", *totals], found, strict=False))
        return losses, found[len(losses) :] or None

    def _check_finite(
        self, found: dict[str, float], totals: dict[str, Tensor], several: Sequence[dict]
    ) -> None:
        """Raise `UserError`, on all ranks, with the clips that spoilt a step."""
        wrong = [name for name in ("loss", "gradient_norm") if not math.isfinite(found[name])]
        if not wrong:
            return
        names = [name for batch in several for name in batch["names"]]
        finite = all(bool(torch.isfinite(value)) for value in totals.values())
        named = sum(self.group.gather([] if finite else names), []) or names
        raise SharedUserError(
            f"the {wrong[0].partition('_')[0]} is not finite on {', '.join(named[:8])}; check "
            "these clips, or start anew with a lower --learning_rate"
        )
