"""One training run: batches in, the best model of validation out, everything about it on disk.

The run folder holds run.json (recipe, command, commit, versions, device), log.csv (a row an epoch,
every loss apart), TensorBoard events, previews/ of a validation clip, best.safetensors, the lip
reader that was trained beside it, and last.pt: the whole state, from which `--resume` goes on as if
the run had never stopped.
"""

import dataclasses
import math
import os
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset
from tqdm import tqdm

from batches import PlannedLoader
from config import Recipe
from distributed import Group
from errors import UserError
from jambatalk import JambaTalk, save_checkpoint
from learning import Hearing, Learner, add_sizes, batch_sizes
from lip_reader import READER_FILE, load_characters, save_reader
from losses import Sizes, total_loss
from networks import (
    build,
    make_optimizer,
    memory,
    pick_device,
    start_average,
    start_components,
)
from pretrained import find_source
from preview import Previews
from records import Log, write_record
from regions import find_region
from run_state import STATE_FILE, disk, generators, load_state, save_state, set_generators
from validation import Closures, validate

BEST_FILE = "best.safetensors"
MAY_CHANGE = (  # where files lie, and what is only looked at
    "dataset.root", "dataset.templates", "dataset.topology", "train.preview_every",
)  # fmt: skip
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is carried out; what it computes does not depend on it."""

    precision: str = "auto"  # auto, fp32 or bf16
    resume: bool = False
    save_minutes: float = 10.0  # between two states in the middle of an epoch
    cache: str | None = None  # folder of what is computed once a clip
    arguments: tuple[str, ...] = ()  # of the command line, for the record


class Run:
    """A training run in a folder, on one process of a group."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        options: Options,
        group: Group | None = None,
        start: JambaTalk | None = None,
    ) -> None:
        self.recipe, self.folder, self.options = recipe, folder, options
        self.group = group or Group()
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
        self.say(f"memory: {memory(self.nets)}")
        self.fresh = start is None
        if start is not None:
            if start.config != self.nets.model.config:
                raise UserError("--init: that model has other dimensions than the recipe's")
            self.nets.model.load_state_dict(start.state_dict())
        self.best, self.epoch, self.sums = math.inf, 1, dict[str, float]()
        self.spent_s = 0.0  # of the epoch at hand, before this process began

    def say(self, line: str) -> None:
        """Print, on the first process alone."""
        if self.group.is_first:
            tqdm.write(line)

    def fit(self, batches: PlannedLoader, validation: Dataset) -> Path:
        """Train all epochs; returns the path of the best model of validation.

        Raises `SystemExit(0)` when it was asked to stop (SIGTERM) and has saved its state.
        """
        config = self.recipe.train
        self._begin(batches)
        log = Log(self.folder, self.epoch - 1) if self.group.is_first else None
        shown = log is not None and config.preview_every
        previews = Previews(self.recipe.dataset, validation, self.folder) if shown else None
        with stopping() as self.stop:
            while self.epoch <= config.epochs:
                self.started = time.time()
                row = {"epoch": self.epoch} | self._epoch(batches)
                row |= self._validate(validation)
                row["learning_rate"] = self.schedule.get_last_lr()[0]
                row["seconds"] = round(self.spent_s + time.time() - self.started, 1)
                if log is not None:
                    with disk(self.folder):
                        log.add(row, config.epochs)
                self.epoch, self.sums, self.spent_s = self.epoch + 1, {}, 0.0
                self._save(batches)
                if previews is not None and self._shows(self.epoch - 1):
                    previews.add(self.nets.best, self.epoch - 1, log.events)
                self._save_if_due(batches)  # asked to stop while it validated
        if log is not None:
            log.close()
        return self.folder / BEST_FILE

    def _begin(self, batches: PlannedLoader) -> None:
        """Everything that stands before the first step: weights, optimizer, earlier state."""
        config, nets = self.recipe.train, self.nets
        state_file = self.folder / STATE_FILE
        state = load_state(state_file) if self.options.resume and state_file.exists() else None
        if self.group.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            if state is None:
                for name in (BEST_FILE, READER_FILE, STATE_FILE):  # of an earlier run here
                    (self.folder / name).unlink(missing_ok=True)
                write_record(
                    self.folder, self.recipe, self.options.arguments,
                    device=self.device, precision=self.dtype, world=self.group.world,
                )  # fmt: skip
        if state is None and self.fresh:
            start_components(nets.model, batches.sample())
        self.learner: nn.Module = Learner(nets, self.lips, config)
        if self.group.world > 1:  # gives every rank the first one's weights
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.learner = DistributedDataParallel(
                self.learner, ids, broadcast_buffers=False, find_unused_parameters=True
            )
        self.steps = -(-len(batches) // config.accumulate)  # an epoch
        self.optimizer, self.schedule = make_optimizer(nets, config, config.epochs * self.steps)
        start_average(nets, config.ema_decay, config.epochs * self.steps)
        torch.manual_seed(config.seed + self.group.rank)  # dropout differs from rank to rank,
        np.random.seed(config.seed + self.group.rank)  # and so do SpecAugment's masks
        if state is not None:
            self._restore(state, batches)
        self.hearing = Hearing(nets, self.options.cache, str(self.dtype))
        self.saved = time.time()

    def _epoch(self, batches: PlannedLoader) -> dict[str, float]:
        """The rest of an epoch: means of every loss over its steps."""
        config, nets = self.recipe.train, self.nets
        nets.model.train()
        nets.reader.train()
        batches.set_epoch(self.epoch)
        done = -(-batches.plan.position // config.accumulate)
        bar = tqdm(
            total=self.steps, initial=done, desc=f"epoch {self.epoch}/{config.epochs}",
            leave=False, mininterval=5, disable=not self.group.is_first,
        )  # fmt: skip
        source = iter(batches)
        for step in range(done, self.steps):
            several = list(islice(source, config.accumulate))
            try:
                parts = self._step(several, batches)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                raise UserError(too_large(several)) from error
            for name, value in parts.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            bar.set_postfix({k: f"{v / (step + 1):.4g}" for k, v in self.sums.items()}, False)
            bar.update()
            self._save_if_due(batches)
        bar.close()
        return {name: value / self.steps for name, value in self.sums.items()}

    def _step(self, several: Sequence[dict[str, Any]], batches: PlannedLoader) -> dict[str, float]:
        """One step of the optimizer over one or more batches; its losses, all ranks together."""
        config, group, nets = self.recipe.train, self.group, self.nets
        plan, before = batches.plan, generators()
        counted = []
        for _ in several:  # a filler batch keeps this rank in step and weighs nothing
            counted.append(plan.counted > 0)
            plan.advance()
        self.optimizer.zero_grad(set_to_none=True)
        mine = [batch_sizes(b) for b, counts in zip(several, counted, strict=True) if counts]
        own = torch.tensor(dataclasses.astuple(add_sizes([Sizes(0, 0, 0, 0), *mine])))
        sizes = Sizes(*group.sum(own.to(self.device)).tolist())
        totals: dict[str, Tensor] = {}
        for number, batch in enumerate(several):
            batch = self._to_device(batch)
            last = number == len(several) - 1
            alone = nullcontext() if last or group.world == 1 else self.learner.no_sync()
            with alone:
                with torch.autocast(
                    self.device.type, self.dtype, enabled=self.dtype != torch.float32
                ):
                    parts = self.learner(batch, self.hearing(batch), sizes)
                loss = total_loss(parts, config)
                weight = group.world if counted[number] else 0.0  # ranks are averaged, not added
                (loss * weight).backward()
            for name, value in {"loss": loss, **parts}.items():
                totals[name] = totals.get(name, 0.0) + value.detach() * counted[number]
        trained = [p for g in self.optimizer.param_groups for p in g["params"]]
        norm = nn.utils.clip_grad_norm_(trained, config.grad_clip)
        values = torch.stack([norm / group.world, *totals.values()])  # the ranks share one norm
        found = dict(zip(["gradient_norm", *totals], group.sum(values).tolist(), strict=True))
        if not (math.isfinite(found["loss"]) and math.isfinite(found["gradient_norm"])):
            plan.position -= len(several)
            self._stop_at_nan(totals, several, found, batches, before)
        self.optimizer.step()
        self.schedule.step()
        if nets.average is not None:
            nets.average.update_parameters(nets.model)
        return found

    def _stop_at_nan(
        self, totals: dict[str, Tensor], several: Sequence[dict], found: dict[str, float],
        batches: PlannedLoader, before: dict[str, Any],
    ) -> None:  # fmt: skip
        """Save the state that stood before the step, name the clips that spoilt it."""
        finite = all(bool(torch.isfinite(value)) for value in totals.values())
        mine = [] if finite else [name for batch in several for name in batch["names"]]
        named = sum(self.group.gather(mine), []) or [n for batch in several for n in batch["names"]]
        self.optimizer.zero_grad(set_to_none=True)
        self._save(batches, before)
        what = "loss" if not math.isfinite(found["loss"]) else "gradient"
        raise UserError(
            f"epoch {self.epoch}: the {what} is not finite on {', '.join(named[:8])}; check these "
            f"clips, or start anew with a lower --learning_rate. {self.folder / STATE_FILE} has "
            "the state before this step"
        )

    def _validate(self, clips: Dataset) -> dict[str, float]:
        """Validate, keep the model if it is the best so far; val_... of `validate`."""
        nets, gain = self.nets, self.recipe.train.closure_gain
        closures = Closures(nets.inner_lips, gain, nets.reach) if gain else None
        lips = self.region.indices
        found = validate(nets.best, clips, lips, self.device, self.group, closures)
        if not math.isfinite(found["lve"]):
            raise UserError(f"epoch {self.epoch}: the validation error is not finite")
        if found["choice"] < self.best:
            self.best = found["choice"]
            if self.group.is_first:
                teacher = self.recipe.wav2vec2
                characters = load_characters(find_source(teacher))
                path = self.folder / READER_FILE
                source = self.region.source
                with disk(self.folder):
                    save_checkpoint(self.folder / BEST_FILE, self.nets.best, self.recipe.dataset)
                    save_reader(path, self.nets.reader, self.lips, source, teacher, characters)
        return {name if "router" in name else f"val_{name}": v for name, v in found.items()}

    def _shows(self, epoch: int) -> bool:
        """Whether an epoch that has ended gets a preview: every nth, and the last."""
        config = self.recipe.train
        return epoch % config.preview_every == 0 or epoch == config.epochs

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}

    # State: what _save writes, _restore reads.

    def _save_if_due(self, batches: PlannedLoader) -> None:
        due = time.time() - self.saved > 60 * self.options.save_minutes
        wishes = torch.tensor([float(self.stop.asked), float(due)], device=self.device)
        asked, due_somewhere = self.group.sum(wishes).tolist()
        if asked or due_somewhere:
            self._save(batches)
        if asked:
            self.say(f"stopped as asked; {self.folder / STATE_FILE} goes on with --resume")
            raise SystemExit(0)

    def _save(self, batches: PlannedLoader, drawn: dict[str, Any] | None = None) -> None:
        """Write last.pt, on the first process, with the generators of all, now or as `drawn`."""
        nets, states = self.nets, self.group.gather(drawn or generators())
        self.saved = time.time()
        if not self.group.is_first:
            return
        state = {
            "recipe": dataclasses.asdict(self.recipe),
            "model": nets.model.state_dict(),
            "reader": nets.reader.state_dict(),
            "average": nets.average.state_dict() if nets.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "batches": batches.plan.state_dict(),
            "generators": states,
            "epoch": self.epoch,
            "sums": self.sums,
            "seconds": self.spent_s + time.time() - self.started,
            "best": self.best,
        }
        if problem := save_state(self.folder / STATE_FILE, state):
            self.say(f"warning: {problem}")

    def _restore(self, state: dict[str, Any], batches: PlannedLoader) -> None:
        """Stand where `_save` stood. Raises `UserError` when it was another run."""
        nets = self.nets
        if wrong := differences(state["recipe"], dataclasses.asdict(self.recipe)):
            raise UserError(
                f"--resume: {self.folder / STATE_FILE} is of another run: {'; '.join(wrong[:4])}; "
                "give the flags of then, or another --out"
            )
        batches.load_state_dict(state["batches"])
        nets.model.load_state_dict(state["model"])
        nets.reader.load_state_dict(state["reader"])
        if nets.average is not None:
            nets.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.best = state["epoch"], state["best"]
        self.sums, self.spent_s = dict(state["sums"]), state["seconds"]
        if self.epoch != batches.plan.epoch:  # saved between two epochs
            self.sums, self.spent_s = {}, 0.0
        set_generators(state["generators"][self.group.rank])
        self.say(f"resumed: epoch {self.epoch}, {batches.plan.position} batches of it used")


class Stop:
    """Whether somebody has asked this process to stop."""

    asked = False


@contextmanager
def stopping() -> Iterator[Stop]:
    """Turn SIGTERM into a wish, which the run grants between two steps."""
    stop, owner = Stop(), os.getpid()

    def ask(*_: Any) -> None:
        if os.getpid() != owner:  # a worker that loads data: it has nothing to save
            os._exit(0)
        stop.asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def differences(then: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """`path: value then, value now` of every field in which two recipes differ."""
    found = []
    for name in sorted(then.keys() | now.keys()):
        where = f"{path}{name}"
        old, new = then.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{where}.")
        elif _plain(old) != _plain(new) and where not in MAY_CHANGE:
            found.append(f"{where} was {old}, is {new}")
    return found


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory did not suffice; torch has no common class for these."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in OUT_OF_MEMORY)


def too_large(several: Sequence[dict[str, Any]]) -> str:
    """What to say, and to do, about batches that do not fit into memory."""
    frames, longest = max(
        pair
        for batch in several
        for pair in zip(batch["frames"].tolist(), batch["names"], strict=True)
    )
    return (
        f"a batch of {len(several[0]['names'])} clips does not fit into memory (the longest: "
        f"{longest}, {frames} frames); try a smaller --batch_size with --set train.accumulate=N, "
        "--set train.max_clip_s=SECONDS or --set train.checkpointing=true"
    )
