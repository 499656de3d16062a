"""One training run: batches in, the best model of validation out, everything about it on disk.

The run folder holds run.json (recipe, command, commit, versions, device), log.csv (a row an epoch,
every loss apart), TensorBoard events and best.safetensors. Losses as the paper (losses.py); the
lip reader and the frozen teacher live here and go into no checkpoint.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from config import PROJECT_ROOT, Recipe, TrainConfig
from data_loader import load_region
from errors import UserError
from jambatalk import JambaTalk, save_checkpoint
from lip_reader import READER_FILE, LipReader, load_characters, save_reader
from losses import closure_weight, ctc_loss, latent_loss, total_loss, velocity_loss, vertex_loss
from pretrained import load_pretrained
from wav2vec import TextTeacher, frame_lengths, length_mask

CLOSURE_REACH_M = 0.002  # metres
COMPONENT_FRAMES = 2_000  # frames that a low-rank vertex head's start is computed from


@dataclass
class Networks:
    """What a run trains, and the teacher that it does not."""

    model: JambaTalk
    reader: LipReader
    teacher: TextTeacher
    average: AveragedModel | None
    inner_lips: Tensor | None = None  # (2,) vertices that touch when the mouth is shut
    reach: float = 0.0  # opening in the data's unit from which lips are plainly apart

    @property
    def best(self) -> JambaTalk:
        """The weights that are validated and saved."""
        return self.average.module if self.average is not None else self.model


def pick_device() -> tuple[torch.device, torch.dtype, str]:
    """Device, autocast dtype and the reason in words; the one place that decides them."""
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported():
            return torch.device("cuda"), torch.bfloat16, "CUDA with bfloat16"
        return torch.device("cuda"), torch.float32, "CUDA without bfloat16: float32"
    if torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported():
        return torch.device("cpu"), torch.bfloat16, "CPU with bfloat16 instructions"
    return torch.device("cpu"), torch.float32, "CPU without bfloat16 instructions: float32"


def build(recipe: Recipe, device: torch.device) -> Networks:
    """The networks of a recipe, encoder and teacher loaded from `recipe.wav2vec2`.

    Raises `UserError` when the pre-trained encoder cannot be loaded or is of another shape.
    """
    source = recipe.wav2vec2
    local = recipe.dataset.path(source)
    is_folder = "/" in source and local.parent.is_dir()
    pretrained = load_pretrained(str(local) if is_folder else source)
    model = JambaTalk(recipe.model)
    body = getattr(pretrained, pretrained.base_model_prefix)
    try:
        model.encoder.body.load_state_dict(body.state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--wav2vec2 {source}: not the recipe's encoder ({reason})") from error
    model.encoder.freeze_features()
    teacher = TextTeacher(pretrained)
    spec = recipe.dataset
    lips = load_region(spec.path(spec.lips_region), spec.n_vertices)
    reader = LipReader(
        len(lips), teacher.width, teacher.n_characters, spec.fps, spec.metres_per_unit
    )
    model, reader, teacher = model.to(device), reader.to(device), teacher.to(device)
    decay = recipe.train.ema_decay
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
    nets = Networks(model, reader, teacher, average)
    if recipe.train.closure_gain:
        inner = load_region(spec.path(spec.inner_lips), spec.n_vertices)
        nets.inner_lips = torch.from_numpy(inner).to(device)
        nets.reach = CLOSURE_REACH_M / spec.metres_per_unit
    return nets


def start_components(model: JambaTalk, batches: Iterable[dict[str, Any]]) -> None:
    """Start a low-rank vertex head from the principal components of the training offsets."""
    if model.head.coefficients is None:
        return
    rows, found = [], 0
    for batch in batches:
        offsets = (batch["vertices"] - batch["template"][:, None])[
            length_mask(batch["frames"], batch["vertices"].shape[1])
        ]
        rows.append(offsets[::3])
        found += len(rows[-1])
        if found >= COMPONENT_FRAMES:
            break
    offsets = torch.cat(rows)  # (n, V, 3)
    mean = offsets.mean(0)
    rank = model.config.vertex_rank
    _, scale, directions = torch.svd_lowrank((offsets - mean).flatten(1), q=rank + 8)
    components = (directions.T * (scale / math.sqrt(len(offsets)))[:, None])[:rank]
    model.head.set_components(mean, components.unflatten(1, mean.shape))  # fmt: skip


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
    error = prediction[:, :n_frames] - truth[:, :n_frames]
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
        spec = recipe.dataset
        self.lips = load_region(spec.path(spec.lips_region), spec.n_vertices)
        self.lips = torch.from_numpy(self.lips).to(self.device)
        self.nets = build(recipe, self.device)
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
        if nets.average is not None:
            nets.average.module.load_state_dict(nets.model.state_dict())
        steps = config.epochs * len(batches)
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
        spec, teacher = self.recipe.dataset, self.recipe.wav2vec2
        local = spec.path(teacher)
        characters = load_characters(local if local.is_dir() else teacher)
        save_reader(path, self.nets.reader, self.lips, spec.lips_region, teacher, characters)

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
        """LVE and MVE of the best weights on a loader, in the data set's unit."""
        from metrics import lip_errors, mean_vertex_errors

        model = self.nets.best.eval()
        lips = self.lips.cpu().numpy()
        lip, mean = [], []
        for batch in self._to_device(loader):
            for i, n in enumerate(batch["frames"].tolist()):
                audio = batch["audio"][i, : batch["audio_samples"][i]]
                predicted = model.predict(audio, batch["template"][i]).cpu().numpy()[:n]
                truth = batch["vertices"][i, : len(predicted)].cpu().numpy()
                lip.append(lip_errors(predicted, truth, lips))
                mean.append(mean_vertex_errors(predicted, truth))
        return {"lve": float(np.concatenate(lip).mean()), "mve": float(np.concatenate(mean).mean())}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _to_device(self, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for batch in batches:
            yield {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def make_optimizer(
    nets: Networks, config: TrainConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a rate of its own for the encoder; linear warm-up, then a cosine to zero."""
    encoder = [p for p in nets.model.encoder.parameters() if p.requires_grad]
    known = {id(p) for p in nets.model.encoder.parameters()}
    others = {name: p for name, p in nets.model.named_parameters() if id(p) not in known}
    others |= {f"reader.{name}": p for name, p in nets.reader.named_parameters()}
    plain = {name for name, p in others.items() if p.ndim < 2 or name.endswith("A_log")}
    decayed = [p for name, p in others.items() if name not in plain]
    groups = [
        {"params": decayed, "lr": config.learning_rate},
        {"params": encoder, "lr": config.encoder_learning_rate},
        {  # biases, norms, and what mamba_ssm exempts
            "params": [others[name] for name in plain],
            "lr": config.learning_rate,
            "weight_decay": 0.0,
        },
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, betas=(0.9, 0.98))

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
        return warm * (0.5 + 0.5 * math.cos(math.pi * min(step / max(steps, 1), 1.0)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


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
