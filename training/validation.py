"""Validation after every epoch: the current weights on the clips of the validation split."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import UserError
from common.failures import clip_too_large, out_of_memory
from jambatalk import JambaTalk
from layers.moe import TopKRouter
from metrics import lip_errors, mean_vertex_errors, motion_std, stays_still
from training.losses import closure_weight
from training.processes import Group

STATIC_MOTION = 0.02  # share of the recorded lips' motion below which a face is static


@dataclass(frozen=True)
class Closures:
    """Extra weight of frames in which the lips touch; see `losses.closure_weight`."""

    inner_lips: Tensor  # (2n,) vertices: upper, lower, ...
    gain: float
    reach: float


@torch.no_grad()
def validate(
    model: JambaTalk, clips: Dataset, lips: np.ndarray, device: torch.device, group: Group,
    closures: Closures | None, after_clip: Callable[[], None],
) -> dict[str, float]:  # fmt: skip
    """Figures of a model on the clips of a split, the same on every process.

    lve, mve: in the data set's unit, pooled over frames; motion: standard deviation of the
    predicted lips over that of the recorded ones; static: 1 when no clip's lips move;
    selection_score, lowest for the best model: the LVE, or with `closures` the lips' mean squared
    error with the frame weights of the training loss; router<layer>_expert<i>: the share of frames
    that a router sends to an expert first.

    Every process scores its share of the clips and calls `after_clip` once per round.
    """
    model.eval()
    rows: list[dict[str, float]] = []
    with router_load(model) as load:
        rounds = range(0, len(clips), group.world)
        for first in tqdm(rounds, "validation", leave=False, mininterval=5, disable=group.rank > 0):
            if first + group.rank < len(clips):
                clip = clips[first + group.rank]
                try:
                    rows.append(score(model, clip, lips, device, closures))
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    raise UserError(clip_too_large(clip["name"], clip["frames"])) from error
            after_clip()
    rows = sum(group.gather(rows), [])
    loads = group.gather({name: counts.tolist() for name, counts in load.items()})
    frames = np.array([row["frames"] for row in rows])
    motion = sum(row["std"] for row in rows) / max(sum(row["true_std"] for row in rows), 1e-30)
    figures = {name: float(np.average([r[name] for r in rows], weights=frames))
               for name in ("lve", "mve", "selection_score")}  # fmt: skip
    static = all(row["static"] for row in rows) or motion < STATIC_MOTION
    figures |= {"motion": float(motion), "static": float(static)}
    for name in load:
        counts = np.sum([one[name] for one in loads if name in one], axis=0)
        for expert, share in enumerate(counts / counts.sum()):
            figures[f"router{name}_expert{expert}"] = float(share)
    return figures


def score(
    model: JambaTalk, clip: dict[str, Any], lips: np.ndarray, device: torch.device,
    closures: Closures | None,
) -> dict[str, float]:  # fmt: skip
    """The figures of one clip of `data_loader.MeshSpeechDataset`."""
    audio, template = (torch.from_numpy(clip[name]).to(device) for name in ("audio", "template"))
    predicted = model.predict(audio, template, clip["subject"]).cpu().numpy()[: clip["frames"]]
    truth = clip["vertices"][: len(predicted)]
    lve = selection_score = float(lip_errors(predicted, truth, lips).mean())
    if closures is not None:
        weight = closure_weight(
            torch.from_numpy(truth)[None, :, closures.inner_lips.cpu()],
            closures.gain,
            closures.reach,
        )[0].numpy()
        squared = np.square(predicted[:, lips].astype(np.float64) - truth[:, lips]).sum(2).mean(1)
        selection_score = float((weight * squared).mean())
    return {
        "frames": len(predicted),
        "lve": lve,
        "selection_score": selection_score,
        "mve": float(mean_vertex_errors(predicted, truth).mean()),
        "std": motion_std(predicted, lips),
        "true_std": motion_std(truth, lips),
        "static": float(stays_still(predicted, truth, lips)),
    }


@contextmanager
def router_load(model: JambaTalk) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that counts, per MoE layer, the frames whose first choice is each expert."""
    counts: dict[str, Tensor] = {}

    def count(layer: str, gates: Tensor) -> None:
        first = gates.argmax(-1).flatten()
        n_frames = torch.bincount(first, minlength=gates.shape[-1]).cpu()
        counts[layer] = counts.get(layer, 0) + n_frames

    handles = [
        layer.moe.router.register_forward_hook(
            lambda _, __, output, name=str(index): count(name, output[0])
        )
        for index, layer in enumerate(model.layers)
        if hasattr(layer, "moe") and isinstance(layer.moe.router, TopKRouter)
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
