"""One training run: batches in, the best model of validation out, everything about it on disk.

The run folder holds run.json (recipe, command, commit, versions, device), log.csv (a row an epoch,
every loss apart), TensorBoard events and best.safetensors. Losses as the paper (losses.py); the
lip reader and the frozen teacher go into no checkpoint.
"""

import csv
import dataclasses
import json
import math
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from config import PROJECT_ROOT, Recipe, TrainConfig
from errors import UserError
from jambatalk import JambaTalk, save_checkpoint
from lip_reader import READER_FILE, load_characters, save_reader
from losses import closure_weight, ctc_loss, latent_loss, total_loss, velocity_loss, vertex_loss
from networks import (
    Networks,
    build,
    make_optimizer,
    memory,
    pick_device,
    start_average,
    start_components,
)
from pretrained import find_source
from regions import find_region
from wav2vec import frame_lengths, length_mask

STATIC_AFTER = 3  # epochs before which lips that do not move yet are no cause for alarm
STATIC_EVERY = 10  # epochs between two alarms
STATIC_MOTION = 0.02  # of the recorded lips' motion: less is none


def losses_of(
    nets: Networks, batch: dict[str, Any], lips: Tensor, config: TrainConfig
) -> dict[str, Tensor]:
    """Every loss of one batch, by name, each ()."""
    audio, samples, frames = batch["audio"], batch["audio_samples"], batch["frames"]
    template, truth = batch["template"], batch["vertices"]
    ragged = None if int(samples.min()) == audio.shape[1] else samples
    prediction, balance = nets.model(audio, template, ragged)
    n_frames = min(prediction.shape[1], truth.shape[1])
    frames = frames.clamp(max=n_frames)
    mask = None if int(frames.min()) == n_frames else length_mask(frames, n_frames)
    error = (prediction[:, :n_frames] - truth[:, :n_frames]) * nets.metres
    parts = {
        "vertex": vertex_loss(error, mask),
        "velocity": velocity_loss(error, mask),
        "balance": balance,
    }
    if config.w_lips:
        seen = error[:, :, lips]
        parts["lips"] = velocity_loss(seen, mask)
        if config.closure_gain:
            weight = closure_weight(truth, nets.inner_lips, config.closure_gain, nets.reach)
            seen = seen * weight[:, :n_frames, None, None].sqrt()
        parts["lips"] = parts["lips"] + vertex_loss(seen, mask)
    offsets = prediction[:, :n_frames, lips] - template[:, None, lips]
    return parts | reading_losses(nets, audio, samples, ragged, offsets, frames)


def reading_losses(
    nets: Networks, audio: Tensor, samples: Tensor, ragged: Tensor | None,
    offsets: Tensor, frames: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """What the lip reader makes of lip offsets (B, T, L, 3) against what the teacher heard."""
    features, logits = nets.teacher(audio, ragged)
    lengths = frame_lengths(samples)
    latent, characters = nets.reader(offsets, features.shape[1], frames)
    mask = None if ragged is None else length_mask(lengths, features.shape[1])
    texts = nets.teacher.text(logits, lengths)
    return {
        "latent": latent_loss(latent, features, mask),
        "ctc": ctc_loss(characters, texts, lengths, nets.teacher.blank),
    }


class Run:
    """A training run in a folder."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        precision: str = "auto",
        start: JambaTalk | None = None,
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.device, self.dtype, why = pick_device()
        if precision != "auto":
            self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
            why = f"{self.device.type}, --precision {precision}"
        print(f"device: {why}")
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        torch.manual_seed(recipe.train.seed)
        np.random.seed(recipe.train.seed)  # transformers draws SpecAugment's masks from it
        self.region = find_region(recipe.dataset, "lips")
        self.lips = torch.from_numpy(self.region.indices).to(self.device)
        self.nets = build(recipe, self.device, len(self.lips))
        c = recipe.model
        print(f"network: {c.layout}, {c.d_model} wide, encoder {recipe.wav2vec2}")
        print(f"memory: {memory(self.nets)}")
        self.fresh = start is None
        if start is not None:
            if start.config != self.nets.model.config:
                raise UserError("--init: that model has other dimensions than the recipe's")
            self.nets.model.load_state_dict(start.state_dict())
        self.best = math.inf

    def fit(self, batches: DataLoader | Any, validation: DataLoader) -> Path:
        """Train all epochs; returns the path of the best model of validation."""
        from torch.utils.tensorboard import SummaryWriter

        config, nets = self.recipe.train, self.nets
        self.folder.mkdir(parents=True, exist_ok=True)
        write_record(self.folder, self.recipe, self.device, self.dtype)
        if self.fresh:
            start_components(nets.model, batches)
        steps = config.epochs * len(batches)
        start_average(nets, config.ema_decay, steps)
        self.optimizer, self.schedule = make_optimizer(nets, config, steps)
        best_file = self.folder / "best.safetensors"
        reader_file = self.folder / READER_FILE
        for file in (best_file, reader_file):
            file.unlink(missing_ok=True)  # of an earlier run in this folder
        with SummaryWriter(self.folder) as events, open(self.folder / "log.csv", "w") as file:
            writer = None
            for epoch in range(1, config.epochs + 1):
                started = time.time()
                row = {"epoch": epoch} | self._epoch(batches, epoch)
                row |= {f"val_{k}": v for k, v in self.validate(validation).items()}
                row |= {
                    "learning_rate": self.schedule.get_last_lr()[0],
                    "seconds": round(time.time() - started, 1),
                }
                if not math.isfinite(row["val_lve"]):
                    raise UserError(f"epoch {epoch}: the validation error is not finite")
                if row["val_lve"] < self.best:
                    self.best = row["val_lve"]
                    save_checkpoint(best_file, nets.best, self.recipe.dataset)
                    self._save_reader(reader_file)
                self._alarm(epoch, row)
                for name, value in row.items():
                    events.add_scalar(name, value, epoch)
                if writer is None:
                    writer = csv.DictWriter(file, row.keys())
                    writer.writeheader()
                writer.writerow(row)
                file.flush()
                tqdm.write("  ".join(f"{k} {v:.4g}" for k, v in row.items()))
        return best_file

    def _save_reader(self, path: Path) -> None:
        teacher = self.recipe.wav2vec2
        characters = load_characters(find_source(teacher))
        save_reader(path, self.nets.reader, self.lips, self.region.source, teacher, characters)

    def _alarm(self, epoch: int, row: dict[str, float]) -> None:
        """Say in words when the predicted lips of validation do not move."""
        due = epoch in (STATIC_AFTER, self.recipe.train.epochs) or epoch % STATIC_EVERY == 0
        if due and row.get("val_static") == 1:
            tqdm.write(
                f"warning: epoch {epoch}: STATIC FACE, the predicted lips move "
                f"{row['val_motion']:.2%} of what the recorded ones do in every validation clip. "
                "Try a lower --encoder_learning_rate (or 0), a lower --learning_rate, more epochs; "
                "check that vertices and templates have one scale and belong together"
            )

    def _epoch(self, batches: Any, epoch: int) -> dict[str, float]:
        """One pass over the training batches: mean of every loss."""
        config, nets = self.recipe.train, self.nets
        nets.model.train()
        nets.reader.train()
        if hasattr(getattr(batches, "dataset", None), "set_epoch"):
            batches.dataset.set_epoch(epoch)
        sums: dict[str, float] = {}
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        bar = tqdm(batches, desc=f"epoch {epoch}/{config.epochs}", leave=False, mininterval=5)
        for n, batch in enumerate(self._to_device(bar), start=1):
            with self._autocast():
                parts = losses_of(nets, batch, self.lips, config)
            loss = total_loss(parts, config)
            if not torch.isfinite(loss):
                raise UserError(
                    f"epoch {epoch}: loss is {loss.item()} on {batch['names'][:4]}; "
                    "check these clips, or lower --learning_rate"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, config.grad_clip)
            self.optimizer.step()
            self.schedule.step()
            if nets.average is not None:
                nets.average.update_parameters(nets.model)
            for name, value in {"loss": loss, **parts}.items():
                sums[name] = sums.get(name, 0.0) + value.item()
            bar.set_postfix({name: f"{value / n:.4g}" for name, value in sums.items()})
        return {name: value / n for name, value in sums.items()}

    @torch.no_grad()
    def validate(self, loader: DataLoader) -> dict[str, float]:
        """The best weights on a loader: LVE and MVE in the data set's unit; motion, the predicted
        lips' standard deviation over the recorded ones'; static, 1 when no clip's lips move."""
        from metrics import is_static, lip_errors, mean_vertex_errors, motion_std

        model = self.nets.best.eval()
        lips = self.lips.cpu().numpy()
        lip, mean, moved, still = [], [], [], []
        for batch in self._to_device(loader):
            for i, n in enumerate(batch["frames"].tolist()):
                audio = batch["audio"][i, : batch["audio_samples"][i]]
                predicted = model.predict(audio, batch["template"][i]).cpu().numpy()[:n]
                truth = batch["vertices"][i, : len(predicted)].cpu().numpy()
                lip.append(lip_errors(predicted, truth, lips))
                mean.append(mean_vertex_errors(predicted, truth))
                moved.append((motion_std(predicted, lips), motion_std(truth, lips)))
                still.append(is_static(predicted, lips) and not is_static(truth, lips))
        predicted_std, recorded_std = np.sum(moved, axis=0)
        motion = float(predicted_std / max(recorded_std, 1e-30))
        return {
            "lve": float(np.concatenate(lip).mean()),
            "mve": float(np.concatenate(mean).mean()),
            "motion": motion,
            "static": float(all(still) or motion < STATIC_MOTION),
        }

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _to_device(self, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for batch in batches:
            yield {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def write_record(folder: Path, recipe: Recipe, device: torch.device, dtype: torch.dtype) -> None:
    """run.json: everything needed to say what this run was."""

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(PROJECT_ROOT), *args], capture_output=True, text=True
        )
        return done.stdout.strip()

    record = {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": git("rev-parse", "HEAD"),
        "changed_files": git("diff", "--name-only", "HEAD").splitlines(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device.type,
        "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "recipe": dataclasses.asdict(recipe),
    }
    (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n")
