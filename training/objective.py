"""One step of training: the losses that a batch gives, and how they add up.

B batch, T mesh frames, V vertices, L lip vertices.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from config import TrainConfig
from speech.features import length_mask
from speech.timing import frame_lengths
from training.losses import (
    Sizes,
    closure_weight,
    ctc_loss,
    latent_loss,
    mesh_losses,
    sizes_of,
    velocity_loss,
    vertex_loss,
)
from training.networks import Networks
from training.teacher_targets import Heard, Hearing


class Learner(nn.Module):
    """What is trained, as one module: its forward gives the losses (DistributedDataParallel)."""

    def __init__(self, nets: Networks, lips: Tensor, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.reader = nets.model, nets.reader
        self.nets, self.lips, self.config = nets, lips, config

    def forward(self, batch: dict[str, Any], heard: Heard, sizes: Sizes) -> dict[str, Tensor]:
        """See `losses_of`."""
        return losses_of(self.nets, batch, self.lips, self.config, heard, sizes)


def batch_sizes(batch: dict[str, Any]) -> Sizes:
    """Sizes of a batch of `data_loader.collate`."""
    return sizes_of(batch["frames"], frame_lengths(batch["audio_samples"]))


def losses_of(
    nets: Networks, batch: dict[str, Any], lips: Tensor, config: TrainConfig,
    heard: Heard | None = None, sizes: Sizes | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Every loss of one batch, by name, each ().

    heard: of `teacher_targets.Hearing`, made here if None; sizes: what to divide by, the
    batch's own if None.
    """
    heard = heard or Hearing(nets, None)(batch)
    sizes = sizes or batch_sizes(batch)
    audio, samples, frames = batch["audio"], batch["audio_samples"], batch["frames"]
    template, truth = batch["template"], batch["vertices"]
    ragged = None if int(samples.min()) == audio.shape[1] else samples
    prediction, balance = nets.model(audio, template, ragged, heard.conv)
    n_frames = truth.shape[1]
    mask = None if int(frames.min()) == n_frames else length_mask(frames, n_frames)
    vertex, velocity, seen = mesh_losses(prediction, truth, frames, sizes, lips, nets.metres)
    parts = {"vertex": vertex, "velocity": velocity, "balance": balance.sum() / sizes.clips}
    if config.w_lips:
        error = (seen - truth[:, :, lips]) * nets.metres
        parts["lips"] = velocity_loss(error, mask, sizes.pairs)
        if config.closure_gain:
            weight = closure_weight(truth, nets.inner_lips, config.closure_gain, nets.reach)
            error = error * weight[..., None, None].sqrt()
        parts["lips"] = parts["lips"] + vertex_loss(error, mask, sizes.frames)
    offsets = seen - template[:, None, lips]
    return parts | reading_losses(nets, samples, ragged, offsets, frames, heard, sizes)


def reading_losses(
    nets: Networks, samples: Tensor, ragged: Tensor | None, offsets: Tensor, frames: Tensor,
    heard: Heard, sizes: Sizes,
) -> dict[str, Tensor]:  # fmt: skip
    """What the lip reader makes of lip offsets (B, T, L, 3) against what the teacher heard."""
    n_frames = heard.features.shape[1]
    lengths = frame_lengths(samples)
    latent, characters = nets.reader(offsets, n_frames, frames)
    mask = None if ragged is None else length_mask(lengths, n_frames)
    blank = nets.teacher.blank
    return {
        "latent": latent_loss(latent, heard.features, mask, sizes.audio_frames),
        "ctc": ctc_loss(characters, heard.texts, lengths, blank, sizes.clips),
    }


def add_sizes(sizes: Sequence[Sizes]) -> Sizes:
    """Sizes of several batches together."""
    return sum(sizes[1:], sizes[0])
