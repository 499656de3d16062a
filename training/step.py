"""One training step: the losses of a batch, and the optimizer step over one batch or several.

The losses of a step are those of one large batch, however it is cut into batches and shared among
processes: every batch divides by the sizes of all of them, and gradients are summed.

B batch, S samples, T mesh frames, A audio frames (50 Hz), V vertices, L lip vertices.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from config import TrainConfig
from data_loader import Sounds
from dataset.batch_plan import BatchPlan
from speech.features import length_mask
from speech.timing import frame_lengths
from training.compact_adam import clip_gradients
from training.given import given_of, own_loss_name, set_progress
from training.head_products import head_losses, saves_time
from training.losses import (
    Sizes,
    closure_weight,
    ctc_loss,
    latent_loss,
    lip_opening,
    mesh_losses,
    open_loss,
    sizes_of,
    total_loss,
    velocity_loss,
    vertex_loss,
)
from training.low_rank import LowRankMotion
from training.networks import Networks
from training.optimizer import make_optimizer, start_average
from training.processes import Group, SharedUserError
from training.teacher_targets import TargetSource, TeacherTargets

LENGTHS = ("audio_samples", "frames")  # of a batch


class MeshLosses(NamedTuple):
    """What the losses of a batch need of its meshes."""

    vertex: Tensor  # ()
    velocity: Tensor  # ()
    own_loss: Tensor  # (B,) of the decoder: of its routers, for example
    lip_offsets: Tensor  # (B, T, L, 3) predicted lips minus template
    lip_error: Tensor | None  # (B, T, L, 3) predicted minus true lips, if w_lips is set
    inner_lips: Tensor | None  # (B, T, 2n, 3) true upper, lower, ... lips, where a loss needs them
    inner_error: Tensor | None  # (B, T, 2n, 3) of their prediction
    details: Tensor | None = None  # () vertex loss of small parts


class Objective(nn.Module):
    """The network and its lip reader as one module whose forward gives the losses.

    One module, since DistributedDataParallel averages gradients of what one forward computes.
    lips: (L,) vertices that the lip reader reads, on the networks' device.
    """

    def __init__(self, nets: Networks, lips: Tensor, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.reader = nets.model, nets.reader
        self.nets, self.lips, self.config = nets, lips, config

    def forward(
        self, batch: dict[str, Any], targets: TeacherTargets, sizes: Sizes
    ) -> dict[str, Tensor]:
        """Every loss of a batch, by name, each ().

        batch: of `data_loader.collate`, on the networks' device but for its `LENGTHS`, with
        vertices, or with curves and basis where the vertex head has a low rank;
        targets: of `TargetSource`; sizes: what losses are divided by, those of the whole step.
        """
        samples, frames = batch["audio_samples"], batch["frames"]
        padded = samples if int(samples.min()) < batch["audio"].shape[1] else None  # (B,)
        mesh = self.low_rank_mesh if "curves" in batch else self.whole_mesh
        motion = mesh(batch, padded, targets.conv, sizes)
        losses = {"vertex": motion.vertex, "velocity": motion.velocity}
        losses[own_loss_name(self.model)] = motion.own_loss.sum() / sizes.clips
        noise = batch.get("noise", 0.0)  # (B, T), known of takes alone
        if motion.details is not None:
            losses["details"] = motion.details
        if self.config.w_lips:
            losses["lips"] = self.lip_loss(motion, frames, sizes, noise)
        if self.config.w_open:
            losses["open"] = self.open_loss(motion, batch["template"], frames, sizes, noise)
        lengths = frame_lengths(samples)  # (B,) audio frames
        features, audio_mask = targets.features, None
        if padded is not None:
            audio_mask = length_mask(lengths, features.shape[1], features.device)
        latent, logits = self.reader(  # (B, A, C), (B, A, K)
            motion.lip_offsets, features.shape[1], frames
        )
        losses["latent"] = latent_loss(latent, features, audio_mask, sizes.audio_frames)
        blank = self.nets.teacher.blank
        losses["ctc"] = ctc_loss(logits, targets.texts, lengths, blank, sizes.clips)
        return losses

    def hidden(
        self, batch: dict[str, Any], padded: Tensor | None, conv: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The head's input (B, T, D) and the decoder's own losses (B,)."""
        features = self.model.encoder(batch["audio"], padded, conv)
        mask = self.model.frame_mask(padded, features)
        return self.model.hidden(features, mask, **given_of(self.model, batch))

    def whole_mesh(
        self, batch: dict[str, Any], padded: Tensor | None, conv: Tensor | None, sizes: Sizes
    ) -> MeshLosses:
        """The losses of a batch with vertices."""
        template, truth, model = batch["template"], batch["vertices"], self.model
        scale, units = self.nets.loss_scale, model.config.units_per_metre
        hidden, own_loss = self.hidden(batch, padded, conv)
        rest = template[:, None, self.lips]
        if saves_time(model.head, hidden, batch["frames"]):
            vertex, velocity, offsets = head_losses(
                model.head, units, hidden, batch, sizes, self.lips, scale
            )
        else:
            prediction = template[:, None] + model.offsets(hidden)
            vertex, velocity, predicted = mesh_losses(
                prediction, truth, batch["frames"], sizes, self.lips, scale
            )
            offsets = predicted - rest
        error = inner = inner_error = None
        if self.config.w_lips:
            error = offsets - (truth[:, :, self.lips] - rest)
        if (vertices := self.nets.inner_lips) is not None:
            inner = truth[:, :, vertices]
            if self.config.w_open:
                rows = model.head.offsets_of(hidden[:, : truth.shape[1]], vertices) * units
                inner_error = template[:, None, vertices] + rows - inner
        return MeshLosses(vertex, velocity, own_loss, offsets, error, inner, inner_error)

    def low_rank_mesh(
        self, batch: dict[str, Any], padded: Tensor | None, conv: Tensor | None, sizes: Sizes
    ) -> MeshLosses:
        """The losses of a batch with curves and basis, by `training.low_rank`."""
        model, inner = self.model, self.nets.inner_lips
        hidden, own_loss = self.hidden(batch, padded, conv)
        with torch.autocast(hidden.device.type, enabled=False):
            motion = LowRankMotion.of(
                model.head, model.config.units_per_metre, model.head.low_rank(hidden),
                batch["curves"], batch["basis"],
            )  # fmt: skip
            vertex, velocity = motion.losses(batch["frames"], sizes, self.nets.loss_scale)
            offsets = motion.predicted(self.lips)
            error = offsets - motion.true(self.lips) if self.config.w_lips else None
            inner_error = None
            if inner is not None:
                inner_error = motion.predicted(inner) - motion.true(inner)
                inner = batch["template"][:, None, inner] + motion.true(inner)
            details = None
            if self.config.w_details:
                parts = motion.predicted(batch["details"]) - motion.true(batch["details"])
                mask = length_mask(batch["frames"], parts.shape[1], parts.device)
                details = vertex_loss(parts * self.nets.loss_scale, mask, sizes.frames)
        return MeshLosses(vertex, velocity, own_loss, offsets, error, inner, inner_error, details)

    def lip_loss(
        self, motion: MeshLosses, frames: Tensor, sizes: Sizes, noise: Tensor | float
    ) -> Tensor:
        """Vertex and velocity loss of the lips alone, (); frames with touching lips weigh more.

        noise: (B, T), 0 to 1, or one value for all frames.
        """
        error = motion.lip_error
        n_frames, mask = error.shape[1], None
        if int(frames.min()) < n_frames:
            mask = length_mask(frames, n_frames, error.device)
        error = error * self.nets.loss_scale
        velocity = velocity_loss(error, mask, sizes.pairs)
        if gain := self.config.closure_gain:
            gain = gain + self.config.noisy_gain * noise
            weight = closure_weight(motion.inner_lips, gain, self.nets.closure_reach)
            error = error * weight[..., None, None].sqrt()
        return velocity + vertex_loss(error, mask, sizes.frames)

    def open_loss(
        self, motion: MeshLosses, template: Tensor, frames: Tensor, sizes: Sizes,
        noise: Tensor | float,
    ) -> Tensor:  # fmt: skip
        """`losses.open_loss` of the inner lips, (); template: (B, V, 3); noise: as `lip_loss`."""
        true = lip_opening(motion.inner_lips)
        mask, scale = length_mask(frames, true.shape[1], true.device), self.nets.loss_scale
        predicted = true + lip_opening(motion.inner_error)
        rest = lip_opening(template[:, None, self.nets.inner_lips])
        openings = (each * scale for each in (predicted, true, rest))
        return open_loss(*openings, self.nets.touch * scale, mask, sizes.frames, noise)


def batch_sizes(batch: dict[str, Any]) -> Sizes:
    """Sizes of a batch of `data_loader.collate`."""
    return sizes_of(batch["frames"], frame_lengths(batch["audio_samples"]))


def add_sizes(sizes: Sequence[Sizes]) -> Sizes:
    """Sizes of several batches together."""
    return sum(sizes, Sizes(0, 0, 0, 0))


class TrainingStep:
    """The optimizer step of a run, on one process of a group; call it once per step.

    lips: (L,) vertices that the lip reader reads, on the networks' device; n_steps: of the whole
    run; dtype: of autocast, float32 for none. Public state: `optimizer`, `schedule`, and
    `weights_changed`, False while a failed call leaves everything as it was before.
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
        self.objective: nn.Module = Objective(nets, lips, config)
        if group.world > 1:
            self.objective = distributed(self.objective)
        coarse = dtype == torch.bfloat16 or self.device.type == "cpu"
        coarse = coarse and config.accumulate == group.world == 1
        self.optimizer, self.schedule = make_optimizer(nets, config, n_steps, coarse)
        start_average(nets, config.ema_decay, n_steps)
        self.n_steps = n_steps
        self.weights_changed = False

    def attach_teacher(self, cache: str | None, sounds: Sounds | None) -> None:
        """Prepare the teacher's targets; call it once the weights are final (loaded, resumed).

        cache: folder for the targets, None for none; sounds: whole clips to compute them for now.
        """
        self.targets = TargetSource(self.nets, cache, self.dtype)
        if sounds is not None:
            self.targets.precompute(sounds, self.group)

    def __call__(
        self, batches: Sequence[dict[str, Any]], plan: BatchPlan, fault: str = ""
    ) -> dict[str, float]:
        """Train on batches of `data_loader.collate`, the next of `plan`, which is advanced.

        fault: why this process could not load its batches, "" if it could. Returns the losses by
        name, of all processes together, and "gradient_norm". Raises `SharedUserError` on all
        processes when one has a fault, or where a loss is not finite.
        """
        self.weights_changed = False
        counted = []
        for _ in batches:  # a filler batch keeps this process in step and weighs nothing
            counted.append(plan.counted > 0)
            plan.advance()
        self.free_gradients()
        set_progress(self.nets.model, self.schedule.last_epoch / self.n_steps)
        sizes = self._step_sizes(batches, counted, fault)
        totals: dict[str, Tensor] = {}
        for number, (batch, counts) in enumerate(zip(batches, counted, strict=True)):
            for name, value in self._backward(
                batch, sizes, counts, last=number == len(batches) - 1
            ).items():
                totals[name] = totals.get(name, 0.0) + value * counts
        norm = clip_gradients(self.optimizer, self.config.grad_clip)
        losses = self._sum_over_processes(totals, norm)
        self._check_finite(losses, totals, batches)
        self.weights_changed = True
        self.optimizer.step()
        self.schedule.step()
        if self.nets.average is not None:
            self.nets.average.update_parameters(self.nets.model)
        return losses

    def free_gradients(self) -> None:
        """Free the memory of the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def _step_sizes(self, batches: Sequence[dict], counted: Sequence[bool], fault: str) -> Sizes:
        """Sizes of the batches of all processes together."""
        own = [batch_sizes(b) for b, n in zip(batches, counted, strict=True) if n]
        numbers = [*dataclasses.astuple(add_sizes(own)), int(bool(fault))]
        *sizes, faults = self.group.add(numbers, self.device)
        if faults:
            raise SharedUserError("; ".join(filter(None, self.group.gather(fault))))
        return Sizes(*sizes)

    def _backward(
        self, batch: dict[str, Any], sizes: Sizes, counts: bool, last: bool
    ) -> dict[str, Tensor]:
        """Add the gradients of a batch; its losses, detached. Processes exchange at the last."""
        batch = to_device(batch, self.device)
        exchange = nullcontext() if last or self.group.world == 1 else self.objective.no_sync()
        with exchange:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                losses = self.objective(batch, self.targets(batch), sizes)
            loss = total_loss(losses, self.config)
            weight = self.group.world if counts else 0.0  # DDP averages; a step needs the sum
            (loss * weight).backward()
        return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}

    def _sum_over_processes(self, totals: dict[str, Tensor], norm: Tensor) -> dict[str, float]:
        """Losses summed over the processes, and the gradient norm, which all of them share."""
        values = self.group.sum(torch.stack([norm / self.group.world, *totals.values()]))
        return dict(zip(["gradient_norm", *totals], values.tolist(), strict=True))

    def _check_finite(
        self, losses: dict[str, float], totals: dict[str, Tensor], batches: Sequence[dict]
    ) -> None:
        """Raise `SharedUserError` that names the clips of a loss that is not finite."""
        wrong = [name for name in ("loss", "gradient_norm") if not math.isfinite(losses[name])]
        if not wrong:
            return
        names = [name for batch in batches for name in batch["names"]]
        finite = all(bool(torch.isfinite(value)) for value in totals.values())
        named = sum(self.group.gather([] if finite else names), []) or names
        raise SharedUserError(
            f"the {wrong[0].replace('_', ' ')} is not finite on {', '.join(named[:8])}; check "
            "these clips, or start again with a lower --learning_rate"
        )


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on `device`, except `LENGTHS`: to read one there waits for it."""
    return {
        name: value.to(device, non_blocking=True)
        if isinstance(value, Tensor) and name not in LENGTHS
        else value
        for name, value in batch.items()
    }


def distributed(objective: Objective) -> DistributedDataParallel:
    """The objective with gradients averaged over all processes; all get the first one's weights.

    No device is passed: DistributedDataParallel would move the batch's `LENGTHS` there.
    """
    with warnings.catch_warnings():  # torch 2.13 has another name for broadcast_buffers
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            objective, broadcast_buffers=False, find_unused_parameters=True
        )
