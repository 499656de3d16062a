"""One training run: from batches to the best model on the validation split, recorded on disk.

The run folder holds run.json (recipe, command, commit, versions, device), log.csv (a row per epoch,
every loss in its column), TensorBoard events, previews/ of a validation clip, best.safetensors, the
lip reader that was trained beside it, and last.pt: the whole state. A run that is resumed from it
with `--resume` gives bit for bit the results of a run that was never stopped.

Processes other than the first print nothing (`processes.joined`).
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from common.device import fast_bfloat16, pick_device
from common.errors import UserError
from common.failures import explained_worker_loss, step_failure
from common.stop_signals import Stop, exit_code
from common.units import unit_name
from config import Recipe
from data_loader import OpenDataset
from dataset.batch_loader import PlannedLoader
from jambatalk import JambaTalk, save_checkpoint
from lip_reader import READER_FILE, load_characters, save_reader
from speech.pretrained import find_source
from training.networks import build, start_components
from training.optimizer import memory_report
from training.preview import Previews
from training.processes import Group, SharedUserError
from training.resume import pack, state_bytes, unpack
from training.run_log import BEST_FILE, Log, set_aside, write_record
from training.start import take_weights
from training.state_file import (
    STATE_FILE,
    disk_errors,
    generators,
    low_disk_warning,
    save_state,
    set_generators,
)
from training.step import TrainingStep
from training.validation import Closures, validate

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is carried out; its results do not depend on it, but for rounding."""

    precision: str = "auto"  # auto, fp32 or bf16
    save_minutes: float = 10.0  # between two states within an epoch
    arguments: tuple[str, ...] = ()  # of the command line, for run.json


class Run:
    """A training run in a folder, on one process of a group.

    start: model whose weights to start from, None for new ones; state: of `resume.find_state`,
    None for a new run; stop: signals, checked between two steps.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: OpenDataset,
        folder: Path,
        options: Options,
        group: Group,
        start: JambaTalk | None,
        state: dict[str, Any] | None,
        stop: Stop,
    ) -> None:
        self.recipe, self.dataset, self.folder = recipe, dataset, folder
        self.options, self.state, self.group, self.stop = options, state, group, stop
        self.device, self.dtype = choose_device(options, group)
        # Under autocast every RMSNorm would warn that torch cannot use its fused kernel.
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        torch.manual_seed(recipe.train.seed)
        np.random.seed(recipe.train.seed)  # transformers draws SpecAugment's masks from it
        self.region = dataset.regions["lips"]
        self.lips = torch.from_numpy(self.region.indices).to(self.device)
        inner_lips = dataset.regions.get("inner_lips")
        inner_lips = torch.from_numpy(inner_lips.indices) if inner_lips else None
        self.nets = build(recipe, self.device, len(self.lips), inner_lips)
        c = recipe.model
        tqdm.write(
            f"network: {c.model}, layout {c.layout}, width {c.d_model}, encoder {recipe.wav2vec2}"
        )
        self.new_head = start is None or take_weights(self.nets.model, start)
        self.epoch = 1 if start is None else 0  # 0: the validation of `start`
        self.best_score, self.sums = math.inf, dict[str, float]()
        self.start_score: float | None = None  # selection score of `start`
        self.trained_s = 0.0  # on the steps of the current epoch, in earlier processes, too

    def fit(self, batches: PlannedLoader) -> Path:
        """Train all epochs; returns the path of the best model on the validation split.

        Raises `SystemExit` when a signal asks to stop, after the state is saved.
        """
        config = self.recipe.train
        self._begin(batches)
        log = None
        if self.group.is_first:
            with disk_errors(self.folder):
                unit = unit_name(self.recipe.dataset.metres_per_unit)
                log = Log(self.folder, self.epoch - 1, unit)
        validation, previews = self.dataset.split("val"), None
        if log is not None and config.preview_every:
            previews = Previews(self.recipe.dataset, validation, self.folder)
        tqdm.write(validation.summary())
        with self.stop.deferred():
            if self.epoch == 0:
                self._score_start(batches, log)
            while self.epoch <= config.epochs:
                row = {"epoch": self.epoch, "steps": self.epoch * self.steps}
                row |= self._epoch(batches)
                started = time.time()
                row |= self._validate(batches)
                row["learning_rate"] = self.step.schedule.get_last_lr()[0]
                row["clips_per_s"] = round(batches.plan.clips / max(self.trained_s, 1e-3), 2)
                row["seconds"] = round(self.trained_s + time.time() - started, 1)
                if log is not None:
                    with disk_errors(self.folder):
                        log.add(row, config.epochs)
                self.epoch, self.sums, self.trained_s = self.epoch + 1, {}, 0.0
                self._save(batches)
                done = self.epoch - 1
                if previews and (done % config.preview_every == 0 or done == config.epochs):
                    previews.add(self.nets.best, done, log.events, lambda: self.stop.requested)
                self._save_or_stop(batches)  # a signal during validation or the preview
        if self.best_score == self.start_score:
            tqdm.write(
                f"no epoch was better than the start, which {BEST_FILE} therefore holds; try a "
                "lower --learning_rate or more epochs"
            )
        return self.folder / BEST_FILE

    def _begin(self, batches: PlannedLoader) -> None:
        """Everything before the first step: run folder, weights, optimizer, earlier state."""
        config, nets, state = self.recipe.train, self.nets, self.state
        if self.group.is_first and state is None:
            self._begin_folder()
        if state is None and self.new_head:
            start_components(nets.model, batches.sample())
        self.steps = -(-len(batches) // config.accumulate)  # of an epoch
        n_steps = config.epochs * self.steps
        self.step = TrainingStep(nets, self.lips, config, n_steps, self.group, self.dtype)
        torch.manual_seed(config.seed + self.group.rank)  # dropout differs between processes,
        np.random.seed(config.seed + self.group.rank)  # and so do SpecAugment's masks
        if state is not None:
            self._restore(state, batches)
        self.state = None  # frees its memory
        whole_clips = not (config.max_clip_s or config.augment)
        cache = self.dataset.cache if whole_clips else None  # crops never come again
        self.step.attach_teacher(cache, batches.items.sounds())
        tqdm.write(f"memory: {memory_report(nets, self.step.optimizer)}")
        self.saved_at, self.saved_s = None, time.time()
        if self.group.is_first:
            n_bytes = state_bytes(nets, self.step.optimizer)
            if warning := low_disk_warning(self.folder, n_bytes):
                tqdm.write(f"warning: {warning}")

    def _begin_folder(self) -> None:
        """Move an earlier run out of the folder and write the new one's run.json."""
        with disk_errors(self.folder):
            if aside := set_aside(self.folder):
                tqdm.write(f"an earlier run in this folder was moved to {aside}")
            write_record(
                self.folder, self.recipe, self.options.arguments,
                device=self.device, precision=self.dtype, world=self.group.world,
            )  # fmt: skip

    def _score_start(self, batches: PlannedLoader, log: Log | None) -> None:
        """Validate the weights of --init as epoch 0; a later model must be better to be saved."""
        started = time.time()
        row = {"epoch": 0, "steps": 0} | self._validate(batches)
        row["seconds"] = round(time.time() - started, 1)
        self.start_score, self.epoch = self.best_score, 1
        if log is not None:
            with disk_errors(self.folder):
                log.add(row, self.recipe.train.epochs)
        self._save(batches)
        self._save_or_stop(batches)  # a signal during validation

    def _epoch(self, batches: PlannedLoader) -> dict[str, float]:
        """The rest of an epoch: means of every loss over its steps."""
        config, plan = self.recipe.train, batches.plan
        self.nets.model.train()
        self.nets.reader.train()
        batches.set_epoch(self.epoch)
        done = -(-plan.position // config.accumulate)
        before_s, started = self.trained_s, time.time()
        bar = tqdm(
            total=plan.clips, initial=plan.clips_used, desc=f"epoch {self.epoch}/{config.epochs}",
            unit="clip", leave=False, mininterval=5, disable=not self.group.is_first,
        )  # fmt: skip
        source = iter(batches)
        with bar, explained_worker_loss():
            for step in range(done, self.steps):
                for name, value in self._train_step(source, batches).items():
                    self.sums[name] = self.sums.get(name, 0.0) + value
                self.trained_s = before_s + time.time() - started
                bar.set_postfix({k: f"{v / (step + 1):.4g}" for k, v in self.sums.items()}, False)
                bar.update(plan.clips_used - bar.n)
                self._save_or_stop(batches)
        return {name: value / self.steps for name, value in self.sums.items()}

    def _train_step(
        self, source: Iterator[dict[str, Any]], batches: PlannedLoader
    ) -> dict[str, float]:
        """A step over the next batches; where it fails, the state before it is saved."""
        plan, before, loaded, fault = batches.plan, generators(), [], ""
        position = plan.position
        try:
            loaded = list(islice(source, self.recipe.train.accumulate))
        except (UserError, RuntimeError, MemoryError, OSError) as error:
            if not (fault := step_failure(error, loaded)):
                raise
            if self.group.world > 1:  # the message reaches the user through any process
                fault = f"{self.group.place}: {fault}"
        try:
            return self.step(loaded, plan, fault)
        except (UserError, RuntimeError, MemoryError, OSError) as error:
            if not (message := step_failure(error, loaded)):
                raise
            shared = isinstance(error, SharedUserError)
            if not self.step.weights_changed and (shared or self.group.world == 1):
                plan.position = position
                self.step.free_gradients()
                self._save(batches, before)
                message += f". {self.folder / STATE_FILE} holds the state before this step"
            raise (SharedUserError if shared else UserError)(message) from error

    def _validate(self, batches: PlannedLoader) -> dict[str, float]:
        """Validate, keep the model if it is the best so far; `validate`'s figures as val_... ."""
        nets, gain = self.nets, self.recipe.train.closure_gain
        self.step.free_gradients()
        closures = Closures(nets.inner_lips, gain, nets.closure_reach) if gain else None
        try:
            figures = validate(
                nets.best, self.dataset.split("val"), self.region.indices, self.device, self.group,
                closures, lambda: self._save_or_stop(batches),
            )  # fmt: skip
            if not math.isfinite(figures["lve"]):
                raise SharedUserError(f"epoch {self.epoch}: the validation error is not finite")
        except UserError as error:
            if isinstance(error, SharedUserError) or self.group.world == 1:  # all are here
                self._save(batches)
            raise
        if figures["selection_score"] < self.best_score:
            self.best_score = figures["selection_score"]
            if self.group.is_first:
                self._save_best()
        return {k if "router" in k else f"val_{k}": value for k, value in figures.items()}

    def _save_best(self) -> None:
        """Write best.safetensors and the lip reader that belongs to it."""
        teacher = self.recipe.wav2vec2
        characters = load_characters(find_source(teacher))
        with disk_errors(self.folder):
            save_checkpoint(self.folder / BEST_FILE, self.nets.best, self.recipe.dataset)
            save_reader(
                self.folder / READER_FILE, self.nets.reader, self.lips, self.region.source,
                teacher, characters,
            )  # fmt: skip

    def _save_or_stop(self, batches: PlannedLoader) -> None:
        """Save when a state is due; save and stop when any process has received a stop signal.

        Called between two steps, or two clips of validation. Processes exchange their requests.
        """
        due = time.time() - self.saved_s > 60 * self.options.save_minutes
        requests = [float(self.stop.terminated), float(self.stop.interrupted), float(due)]
        terminated, interrupted, due = self.group.add(requests, self.device)
        if (terminated or interrupted or due) and self.saved_at != self._position(batches):
            self._save(batches)
        if terminated or interrupted:
            tqdm.write(f"stopped on request; continue from {self.folder / STATE_FILE} with "
                       "--resume")  # fmt: skip
            raise SystemExit(exit_code(interrupted=bool(interrupted)))

    def _position(self, batches: PlannedLoader) -> tuple[int, int, int]:
        """Where the run stands: its epoch, the plan's epoch and position."""
        return self.epoch, batches.plan.epoch, batches.plan.position

    def _save(self, batches: PlannedLoader, before: dict[str, Any] | None = None) -> None:
        """Write last.pt, on the first process, with the generators of all, now or as `before`."""
        states = self.group.gather(before or generators())
        self.saved_s = time.time()  # even if the disk refuses: the same on every process
        self.saved_at = self._position(batches)
        if not self.group.is_first:
            return
        state = pack(self.nets, self.step.optimizer, self.step.schedule) | {
            "recipe": dataclasses.asdict(self.recipe),
            "precision": str(self.dtype),
            "batches": batches.plan.state_dict(),
            "generators": states,
            "epoch": self.epoch,
            "sums": self.sums,
            "trained_s": self.trained_s,
            "best_score": self.best_score,
            "start_score": self.start_score,
        }
        if problem := save_state(self.folder / STATE_FILE, state):
            tqdm.write(f"warning: {problem}")

    def _restore(self, state: dict[str, Any], batches: PlannedLoader) -> None:
        """Continue where `_save` was called."""
        batches.load_state_dict(state["batches"])
        unpack(state, self.nets, self.step.optimizer, self.step.schedule)
        self.epoch, used = state["epoch"], 0
        if self.epoch == batches.plan.epoch:  # else it was saved between two epochs
            self.sums, self.trained_s = dict(state["sums"]), state["trained_s"]
            used = batches.plan.position
        # "best_choice" is its name in states of commits up to 4c337b8
        self.best_score = state["best_score" if "best_score" in state else "best_choice"]
        self.start_score = state.get("start_score")  # older states lack it
        set_generators(state["generators"][self.group.rank])
        tqdm.write(f"resumed: epoch {self.epoch} of {self.recipe.train.epochs}, {used} of "
                   f"{len(batches)} batches used")  # fmt: skip
        if (before := state["precision"]) != str(self.dtype):
            tqdm.write(
                f"warning: precision was {before}, is {self.dtype}: results will differ from those "
                "of a run in one precision"
            )


def choose_device(options: Options, group: Group) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of autocast; prints both with the reason."""
    device, dtype, reason = pick_device(group.local_rank)
    if options.precision != "auto":
        dtype = PRECISIONS[options.precision]
        reason = f"{device.type}, --precision {options.precision}"
        if dtype == torch.bfloat16 and not fast_bfloat16(device):
            tqdm.write(
                f"warning: --precision bf16: this {device.type} emulates bfloat16, many times "
                "slower than float32; use --precision fp32"
            )
    tqdm.write(f"device: {reason}" + f", {group.world} processes" * (group.world > 1))
    return device, dtype
