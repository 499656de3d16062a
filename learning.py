"""One step of training: what a batch sounds like, the losses that it gives, how they add up.

B batch, S samples, A audio frames (50 Hz), T mesh frames, V vertices, L lip vertices, C0 and C the
widths of the encoder's convolutions and of the teacher.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from cache import Cache, NoCache, model_key
from config import TrainConfig
from losses import (
    Sizes,
    closure_weight,
    ctc_loss,
    latent_loss,
    mesh_losses,
    sizes_of,
    velocity_loss,
    vertex_loss,
)
from networks import Networks
from wav2vec import frame_lengths, length_mask


class Heard(NamedTuple):
    """What does not change of a batch's audio, for it goes through frozen layers only."""

    conv: Tensor | None  # (B, A, C0) the encoder's convolutional features; None: not shared
    features: Tensor  # (B, A, C) of the teacher
    texts: list[Tensor]  # (n,) int64 characters a clip, as the teacher reads them


class Hearing:
    """The frozen half of a step, kept on disk where clips are whole and unchanged.

    `batch["keys"]` names such clips: then each is heard by itself, with the cache or without it,
    so that both give the same values. Crops and augmented clips are heard as a batch, every time
    anew. The teacher and the encoder share their frozen convolutions while these are equal.
    """

    def __init__(self, nets: Networks, folder: str | None, precision: str) -> None:
        self.teacher, self.encoder = nets.teacher, nets.model.encoder
        self.shared = same_convolutions(self.teacher, self.encoder)
        self.cache: Cache | NoCache = NoCache()
        if folder:
            made_by = {"what": "frozen convolutions; teacher's features, text"}
            made_by |= {
                "precision": precision,
                "device": next(self.teacher.parameters()).device.type,
            }
            made_by |= {"torch": torch.__version__, "model": model_key(self.teacher)}
            made_by["settings"] = self.teacher.model.config.to_json_string()
            self.cache = Cache(folder, made_by)

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> Heard:
        """Hear a batch of `data_loader.collate` on the teacher's device."""
        audio, samples = batch["audio"], batch["audio_samples"]
        if "keys" not in batch:
            ragged = None if int(samples.min()) == audio.shape[1] else samples
            return self._hear(audio, ragged)
        clips = [
            self._hear_clip(key, audio[i : i + 1, :n])
            for i, (key, n) in enumerate(zip(batch["keys"], samples.tolist(), strict=True))
        ]
        conv, features = (
            pad_sequence([clip[i] for clip in clips], batch_first=True).to(audio.device)
            for i in (0, 1)
        )
        texts = [clip[2].to(audio.device) for clip in clips]
        return Heard(conv if self.shared else None, features, texts)

    def _hear(self, audio: Tensor, lengths: Tensor | None) -> Heard:
        conv = self.teacher.features.convolve(self.teacher.body, audio, lengths)
        features, logits = self.teacher(audio, lengths, conv)
        frames = None if lengths is None else frame_lengths(lengths)
        texts = self.teacher.text(logits, frames)
        return Heard(conv.float() if self.shared else None, features.float(), texts)

    def _hear_clip(self, key: str, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(A, C0), (A, C) float32 and (n,) int64 of one clip (1, S), from the cache or made."""
        made: dict[str, Tensor] = {}

        def make(name: str) -> Any:
            if not made:
                conv = self.teacher.features.convolve(self.teacher.body, audio, None)
                features, logits = self.teacher(audio, None, conv)
                made.update(
                    conv=conv[0].float(), features=features[0].float(),
                    text=self.teacher.text(logits)[0],
                )  # fmt: skip
            return made[name].cpu().numpy()

        found = (
            self.cache.get(f"{key} {name}", lambda name=name: make(name))
            for name in ("conv", "features", "text")
        )
        return tuple(torch.from_numpy(array.copy()) for array in found)


def same_convolutions(teacher: nn.Module, encoder: nn.Module) -> bool:
    """Whether the encoder's convolutions are the teacher's: equal weights, none of them trained.

    Context layers behind them are trained; each network has its own.
    """
    if teacher.features.is_mel or encoder.features.is_mel:
        return False
    theirs = teacher.body.feature_extractor.state_dict()
    ours = encoder.body.feature_extractor
    if any(p.requires_grad for p in ours.parameters()) or theirs.keys() != ours.state_dict().keys():
        return False
    return all(torch.equal(theirs[name], value) for name, value in ours.state_dict().items())


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

    heard: of `Hearing`, made here if None; sizes: what to divide by, the batch's own if None.
    """
    heard = heard or Hearing(nets, None, "")(batch)
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
