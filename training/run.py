"""One training run: batches in, the best model of validation out, everything about it on disk.

The run folder holds run.json (recipe, command, commit, versions, device), log.csv (a row an epoch,
every loss apart), TensorBoard events, previews/ of a validation clip, best.safetensors, the lip
reader that was trained beside it, and last.pt: the whole state, from which `--resume` goes on as if
the run had never stopped.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from common.device import pick_device
from common.errors import UserError
from common.failures import in_words, workers_told
from common.stop_signals import Stop, exit_code
from config import Recipe
from dataset.batch_loader import PlannedLoader
from dataset.regions import find_region
from jambatalk import JambaTalk, save_checkpoint
from lip_reader import READER_FILE, load_characters, save_reader
from speech.pretrained import find_source
from training.networks import build, memory, start_components
from training.preview import Previews
from training.processes import Group, SharedUserError
from training.resume import model_mismatch, pack, size_of, unpack
from training.run_log import BEST_FILE, Log, set_aside, write_record
from training.state_file import (
    STATE_FILE,
    disk_errors,
    generators,
    low_disk_warning,
    save_state,
    set_generators,
)
from training.step import Optimization
from training.validation import Closures, validate


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is carried out; what it computes does not depend on it."""

    precision: str = "auto"  # auto, fp32 or bf16
    save_minutes: float = 10.0  # between two states in the middle of an epoch
    cache: str | None = None  # folder of what is computed once a clip
    arguments: tuple[str, ...] = ()  # of the command line, for the record


class Run:
    """A training run in a folder, on one process of a group.

    start: a model whose weights to begin with; state: of `resume.find_state`, where an earlier
    process stopped; stop: asked for between two steps.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        options: Options,
        group: Group | None = None,
        start: JambaTalk | None = None,
        state: dict[str, Any] | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.recipe, self.folder, self.options, self.state = recipe, folder, options, state
        self.group, self.stop = group or Group(), stop or Stop()
        self.device, self.dtype, why = pick_device(self.group.local_rank)
        if options.precision != "auto":
            self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.precision]
            why = f"{self.device.type}, --precision {options.precision}"
        self.say(f"device: {why}" + f", {self.group.world} processes" * (self.group.world > 1))
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        torch.manual_seed(recipe.train.seed)
        np.random.seed(recipe.train.seed)  # transformers draws SpecAugment's masks from it
        self.region = find_region(recipe.dataset, "lips")
        self.lips = torch.from_numpy(self.region.indices).to(self.device)
        self.nets = build(recipe, self.device, len(self.lips))
        c = recipe.model
        self.say(f"network: {c.layout}, {c.d_model} wide, encoder {recipe.wav2vec2}")
        self.fresh = start is None
        if start is not None:
            if wrong := model_mismatch(start.config, self.nets.model.config):
                raise UserError(
                    f"--init: a model of another network: {wrong}; --set makes the recipe's alike"
                )
            self.nets.model.load_state_dict(start.state_dict())
        self.best, self.epoch, self.sums = math.inf, 1, dict[str, float]()
        self.trained_s = 0.0  # spent on the steps of the epoch at hand, by earlier processes too

    def say(self, line: str) -> None:
        """Print, on the first process alone."""
        if self.group.is_first:
            tqdm.write(line)

    def fit(self, batches: PlannedLoader, validation: Dataset) -> Path:
        """Train all epochs; returns the path of the best model of validation.

        Raises `SystemExit` when it was asked to stop and has saved its state.
        """
        config = self.recipe.train
        self._begin(batches)
        log = Log(self.folder, self.epoch - 1) if self.group.is_first else None
        shown = log is not None and config.preview_every
        previews = Previews(self.recipe.dataset, validation, self.folder) if shown else None
        with self.stop.saving():
            while self.epoch <= config.epochs:
                row = {"epoch": self.epoch, "steps": self.epoch * self.steps}
                row |= self._epoch(batches)
                begun = time.time()
                row |= self._validate(validation, batches)
                row["learning_rate"] = self.optimization.schedule.get_last_lr()[0]
                row["clips_per_s"] = round(batches.plan.clips / max(self.trained_s, 1e-3), 2)
                row["seconds"] = round(self.trained_s + time.time() - begun, 1)
                if log is not None:
                    with disk_errors(self.folder):
                        log.add(row, config.epochs)
                self.epoch, self.sums, self.trained_s = self.epoch + 1, {}, 0.0
                self._save(batches)
                if previews is not None and self._shows(self.epoch - 1):
                    previews.add(self.nets.best, self.epoch - 1, log.events, self._asked)
                self._save_if_due(batches)  # asked to stop while it validated or filmed
        if log is not None:
            log.close()
        return self.folder / BEST_FILE

    def _begin(self, batches: PlannedLoader) -> None:
        """Everything that stands before the first step: weights, optimizer, earlier state."""
        config, nets, state = self.recipe.train, self.nets, self.state
        if self.group.is_first and state is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if aside := set_aside(self.folder):
                self.say(f"an earlier run in this folder was moved to {aside}")
            write_record(
                self.folder, self.recipe, self.options.arguments,
                device=self.device, precision=self.dtype, world=self.group.world,
            )  # fmt: skip
        if state is None and self.fresh:
            start_components(nets.model, batches.sample())
        self.steps = -(-len(batches) // config.accumulate)  # an epoch
        self.optimization = Optimization(
            nets, self.lips, config, config.epochs * self.steps, self.group, self.dtype
        )
        torch.manual_seed(config.seed + self.group.rank)  # dropout differs from rank to rank,
        np.random.seed(config.seed + self.group.rank)  # and so do SpecAugment's masks
        if state is not None:
            self._restore(state, batches)
        self.state = None  # its memory is wanted
        self.optimization.listen(self.options.cache, batches.items.sounds())
        self.say(f"memory: {memory(nets, self.optimization.optimizer)}")
        self.all_requests, self.kept, self.saved = None, None, time.time()
        if self.group.is_first:
            size = size_of(nets, self.optimization.optimizer)
            if lack := low_disk_warning(self.folder, size):
                self.say(f"warning: {lack}")

    def _epoch(self, batches: PlannedLoader) -> dict[str, float]:
        """The rest of an epoch: means of every loss over its steps."""
        config, nets, plan = self.recipe.train, self.nets, batches.plan
        nets.model.train()
        nets.reader.train()
        batches.set_epoch(self.epoch)
        done = -(-plan.position // config.accumulate)
        before_s, begun = self.trained_s, time.time()
        bar = tqdm(
            total=plan.clips, initial=plan.clips_used, desc=f"epoch {self.epoch}/{config.epochs}",
            unit="clip", leave=False, mininterval=5, disable=not self.group.is_first,
        )  # fmt: skip
        source = iter(batches)
        with bar, workers_told():
            for step in range(done, self.steps):
                for name, value in self._try_step(source, batches).items():
                    self.sums[name] = self.sums.get(name, 0.0) + value
                self.trained_s = before_s + time.time() - begun
                bar.set_postfix({k: f"{v / (step + 1):.4g}" for k, v in self.sums.items()}, False)
                bar.update(plan.clips_used - bar.n)
                self._save_if_due(batches)
        return {name: value / self.steps for name, value in self.sums.items()}

    def _try_step(self, source: Any, batches: PlannedLoader) -> dict[str, float]:
        """A step over the next batches; one that bad input spoils is undone, the state saved."""
        plan, drawn, several, fault = batches.plan, generators(), [], ""
        position = plan.position
        try:
            several = list(islice(source, self.recipe.train.accumulate))
        except (UserError, RuntimeError, MemoryError, OSError) as error:
            if not (fault := in_words(error, several)):
                raise
            if self.group.world > 1:  # all of them are to hear of it
                fault = f"{self.group.place}: {fault}"
        try:
            return self._step(several, batches, fault)
        except (UserError, RuntimeError, MemoryError, OSError) as error:
            said = in_words(error, several)
            if not said:
                raise
            if self.optimization.untouched and (
                isinstance(error, SharedUserError) or self.group.world == 1
            ):
                plan.position = position
                self.optimization.free_gradients()
                self._save(batches, drawn)
                said += f". {self.folder / STATE_FILE} has the state before this step"
            raise (SharedUserError if isinstance(error, SharedUserError) else UserError)(
                said
            ) from error

    def _step(
        self, several: Sequence[dict[str, Any]], batches: PlannedLoader, fault: str
    ) -> dict[str, float]:
        found, self.all_requests = self.optimization.step(
            several, batches.plan, fault, self._stop_requests()
        )
        return found

    def _validate(self, clips: Dataset, batches: PlannedLoader) -> dict[str, float]:
        """Validate, keep the model if it is the best so far; val_... of `validate`."""
        nets, gain = self.nets, self.recipe.train.closure_gain
        self.optimization.free_gradients()
        closures = Closures(nets.inner_lips, gain, nets.reach) if gain else None
        lips = self.region.indices
        try:
            found = validate(
                nets.best, clips, lips, self.device, self.group, closures,
                lambda: self._save_if_due(batches),
            )  # fmt: skip
            if not math.isfinite(found["lve"]):
                raise SharedUserError(f"epoch {self.epoch}: the validation error is not finite")
        except UserError as error:
            if (
                isinstance(error, SharedUserError) or self.group.world == 1
            ):  # else others are elsewhere
                self._save(batches)
            raise
        if found["choice"] < self.best:
            self.best = found["choice"]
            if self.group.is_first:
                teacher = self.recipe.wav2vec2
                characters = load_characters(find_source(teacher))
                path = self.folder / READER_FILE
                source = self.region.source
                with disk_errors(self.folder):
                    save_checkpoint(self.folder / BEST_FILE, self.nets.best, self.recipe.dataset)
                    save_reader(path, self.nets.reader, self.lips, source, teacher, characters)
        return {name if "router" in name else f"val_{name}": v for name, v in found.items()}

    def _shows(self, epoch: int) -> bool:
        """Whether an epoch that has ended gets a preview: every nth, and the last."""
        config = self.recipe.train
        return epoch % config.preview_every == 0 or epoch == config.epochs

    # State: what _save writes, _restore reads.

    def _asked(self) -> bool:
        return self.stop.asked

    def _stop_requests(self) -> list[float]:
        """1 for each that is true here: a scheduler's signal, Ctrl-C, time for a state."""
        due = time.time() - self.saved > 60 * self.options.save_minutes
        return [float(self.stop.terminated), float(self.stop.interrupted), float(due)]

    def _save_if_due(self, batches: PlannedLoader) -> None:
        """Between two steps or clips: save when it is time, save and end when asked on any rank."""
        stop_requests = self.all_requests or self.group.add(self._stop_requests(), self.device)
        self.all_requests = (
            None  # of a step; between clips of the validation they are exchanged here
        )
        terminated, interrupted, _ = stop_requests
        moment = (self.epoch, batches.plan.epoch, batches.plan.position)
        if any(stop_requests) and self.kept != moment:
            self._save(batches)
        if terminated or interrupted:
            self.say(f"stopped as asked; {self.folder / STATE_FILE} goes on with --resume")
            raise SystemExit(exit_code(interrupted=bool(interrupted)))

    def _save(self, batches: PlannedLoader, drawn: dict[str, Any] | None = None) -> None:
        """Write last.pt, on the first process, with the generators of all, now or as `drawn`."""
        states = self.group.gather(drawn or generators())
        self.saved = time.time()  # whatever the disk says, the same on every rank
        self.kept = (self.epoch, batches.plan.epoch, batches.plan.position)
        if not self.group.is_first:
            return
        made = self.optimization
        state = pack(self.nets, made.optimizer, made.schedule) | {
            "recipe": dataclasses.asdict(self.recipe),
            "precision": str(self.dtype),
            "batches": batches.plan.state_dict(),
            "generators": states,
            "epoch": self.epoch,
            "sums": self.sums,
            "trained_s": self.trained_s,
            "best_choice": self.best,
        }
        if problem := save_state(self.folder / STATE_FILE, state):
            self.say(f"warning: {problem}")

    def _restore(self, state: dict[str, Any], batches: PlannedLoader) -> None:
        """Stand where `_save` stood."""
        batches.load_state_dict(state["batches"])
        unpack(state, self.nets, self.optimization.optimizer, self.optimization.schedule)
        self.epoch = state["epoch"]
        if self.epoch == batches.plan.epoch:  # else it was saved between two epochs
            self.sums = dict(state["sums"])
            self.trained_s = state.get("trained_s", 0.0)
        # "best" of older states may be an LVE where closures count: no measure for what comes
        older = math.inf if self.recipe.train.closure_gain else state.get("best", math.inf)
        self.best = state.get("best_choice", older)
        set_generators(state["generators"][self.group.rank])
        used = batches.plan.position if self.epoch == batches.plan.epoch else 0
        self.say(f"resumed: epoch {self.epoch} of {self.recipe.train.epochs}, {used} of "
                 f"{len(batches)} batches used")  # fmt: skip
        if (then := state.get("precision", str(self.dtype))) != str(self.dtype):
            self.say(
                f"warning: precision was {then}, is {self.dtype}: training goes on, though not "
                "bit for bit"
            )
