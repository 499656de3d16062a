"""Train the phone head of a frozen speech encoder: `python -m synthetic.pretrain_encoder`.

Takes of the pool have a time for every phone and cached features (`synthetic.feature_store`). The
head (`speech.phone_head`) is trained on them frame by frame, by cross-entropy on the phone of each
50 Hz frame. Silence is class 0 and the CTC blank, so the result is a CTC model over phones: the lip
reader's teacher. The encoder's own weights do not change.
"""

import argparse
import json
import math
import os
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, IterableDataset

from common.device import pick_device
from common.errors import Parser, UserError, run_cli, writable_folder
from config import PROJECT_ROOT, RECIPES, SAMPLE_RATE
from files.models import save_model_file
from speech.kinds import kind_of
from speech.phone_head import PHONE_HEAD_FILE, PhoneHead
from speech.pretrained import find_source, load_body, load_config
from speech.timing import HOP, WINDOW, audio_frames
from synthetic.feature_store import TAKE_S, FeatureStore, fill
from synthetic.phones import PHONE_INDEX, PHONES, SILENCE
from synthetic.speech import phones_at

HEAD = {"width": 160, "n_layers": 3}
LABEL_SMOOTHING = 0.05
EMA_DECAY = 0.998
WARMUP_STEPS, LOG_EVERY = 100, 100
HELD_OUT_PERIOD, HELD_OUT_BATCHES = 20, 8  # one take in 20 measures the result

Loss = Callable[..., tuple[Tensor, dict[str, float]]]  # of a network and a batch: loss, parts


@dataclass(frozen=True)
class Plan:
    """Length and learning rate of the training; `max_steps` > 0 takes precedence over `minutes`."""

    minutes: float
    max_steps: int = 0
    learning_rate: float = 2e-3
    batch_size: int = 8
    crop_s: float = 6.0
    seed: int = 1

    def rate(self, step: int, started: float) -> float:
        """Learning rate of a step: a linear warm-up, then a cosine to zero; -1 at the end."""
        progress = (time.time() - started) / 60 / self.minutes
        if self.max_steps:
            progress = step / self.max_steps
        if progress >= 1:
            return -1.0
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        return self.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * progress))


class StoredTakes(IterableDataset):
    """Infinite random batches of a store's takes: states (B, A, L, C) float16, phones (B, A).

    numbers: of the takes that are used.
    """

    def __init__(self, store: FeatureStore, numbers: Sequence[int], plan: Plan) -> None:
        self.store, self.numbers, self.plan = store, list(numbers), plan

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(self.plan.seed)
        while True:
            crops = [self.crop(rng) for _ in range(self.plan.batch_size)]
            yield tuple(map(torch.stack, zip(*crops, strict=True)))

    def crop(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """States (A, L, C) and phones (A,) of a random stretch of a random take."""
        take, kind = self.store[int(rng.choice(self.numbers))], self.store.kind
        n_samples = round(self.plan.crop_s * SAMPLE_RATE)
        stretch, start_s = self.store.stretch(take, rng, n_samples)
        conv = torch.from_numpy(stretch.astype(np.float32))[None]
        states = kind.states(self.store.body, kind.at_audio_rate(conv, n_samples, None))[0]
        frames = np.arange(audio_frames(n_samples)) * HOP + WINDOW // 2
        instants = start_s + frames / SAMPLE_RATE
        return states.half(), torch.from_numpy(phones_at(take.segments, instants))


def phone_loss(head: PhoneHead, states: Tensor, phones: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of phones (B, A) given states (B, A, L, C), and the share that is right."""
    logits = head(head.latents(states.float())).float().flatten(0, 1)  # (B·A, K)
    phones = phones.flatten()
    loss = F.cross_entropy(logits, phones, label_smoothing=LABEL_SMOOTHING)
    right = (logits.argmax(1) == phones).float().mean()
    return loss, {"phone": loss.item(), "right": right.item()}


@torch.no_grad()
def update_average(averaged: list[Tensor], current: list[Tensor], n_averaged: Tensor) -> None:
    """Exponential average of weights, whose decay begins low so that a short run is averaged, too.

    Decay min(EMA_DECAY, (1 + n) / (10 + n)) after n steps, as TensorFlow's moving average has it.
    """
    n = int(n_averaged)
    weight = 1 - min(EMA_DECAY, (1 + n) / (10 + n))
    for mean, value in zip(averaged, current, strict=True):
        mean.lerp_(value, weight)


def fit(
    net: nn.Module,
    batches: IterableDataset,
    loss_of: Loss,
    plan: Plan,
    log: Callable[[str], None] = print,
) -> nn.Module:
    """Train a network on batches that a process of its own prepares; returns the averaged one.

    loss_of: loss and named parts of it, of the network and the tensors of a batch.
    """
    device, dtype, why = pick_device()
    log(f"device: {why}")
    torch.manual_seed(plan.seed)
    net = net.to(device)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.02, betas=(0.9, 0.98))
    average = AveragedModel(net, multi_avg_fn=update_average)
    source = iter(DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4))
    started, step, sums = time.time(), 0, Counter()
    while (rate := plan.rate(step, started)) >= 0:
        optimizer.param_groups[0]["lr"] = rate
        batch = [x.to(device) for x in next(source)]
        net.train()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss, parts = loss_of(net, *batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update_parameters(net)
        step += 1
        sums.update(parts)
        if step % LOG_EVERY == 0:
            values = "  ".join(f"{name} {value / LOG_EVERY:.3f}" for name, value in sums.items())
            pace = (time.time() - started) / step
            log(f"step {step}  {step * pace / 60:.1f} min  {values}  {pace:.3f} s/step")
            sums.clear()
    return average.module.cpu().eval()


@torch.no_grad()
def measure(head: PhoneHead, held_out: StoredTakes) -> dict[str, float]:
    """Mean loss and share of right frames over some batches; {} where no take is held out."""
    if not held_out.numbers:
        return {}
    sums: Counter = Counter()
    for states, phones in islice(iter(held_out), HELD_OUT_BATCHES):
        sums.update(phone_loss(head, states, phones)[1])
    return {name: round(value / HELD_OUT_BATCHES, 4) for name, value in sums.items()}


def save(source: Path, out: Path, head: PhoneHead, record: dict[str, Any]) -> None:
    """Write a copy of the folder `source` with this head, in half precision, to `out`.

    The complete folder replaces an older one, which may be `source` itself.
    """
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    config = json.loads((partial / "config.json").read_text())
    config |= {"phone_head": HEAD, "vocab_size": len(PHONES), "pad_token_id": PHONE_INDEX[SILENCE]}
    (partial / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    weights = {name: value.half() for name, value in head.state_dict().items()}
    save_model_file(partial / PHONE_HEAD_FILE, weights, "training", record)
    (partial / "vocab.json").write_text(json.dumps(PHONE_INDEX) + "\n")
    (partial / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    replace_folder(partial, out)


def replace_folder(new: Path, out: Path) -> None:
    """Rename `new` to `out`; a folder that is there is deleted after that.

    Where the process is killed between the two renames, the older one is `<out>.replaced`.
    """
    older = out.with_name(out.name + ".replaced")
    if out.exists():
        shutil.rmtree(older, ignore_errors=True)
        out.rename(older)
    new.rename(out)
    shutil.rmtree(older, ignore_errors=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    pool = str(PROJECT_ROOT / "synthetic/data/speech")
    parser.add_argument("--pool", default=pool, help="folder of the speech pool")
    parser.add_argument(
        "--encoder", default="synthetic/encoder", help="folder of the frozen encoder"
    )
    n_takes = RECIPES["synthetic"].train.takes
    parser.add_argument("--takes", type=int, default=n_takes, help="takes made of the pool")
    parser.add_argument("--minutes", type=float, default=8.0, help="wall time in minutes")
    parser.add_argument(
        "--max_steps", type=int, default=0, help="number of steps instead of --minutes"
    )
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument(
        "--out", help="output folder, replaced if it exists (default: that of --encoder)"
    )
    return parser.parse_args(argv)


def load_frozen(source: str) -> nn.Module:
    """The body of a frozen encoder in a local folder.

    Raises `UserError` for a hub name, or an encoder whose transformer is trained.
    """
    if not Path(source).is_dir():
        raise UserError(f"--encoder {source}: expected a local folder, got a hub name")
    kind = kind_of(load_config(source).model_type)
    if kind.transformer_is_trained:
        raise UserError(
            f"--encoder {source}: expected an encoder that stays frozen, such as "
            f"synthetic/encoder, got a {kind.transformers_prefix}, which is trained with its head"
        )
    return load_body(source).eval().requires_grad_(False)


def main(argv: Sequence[str] | None = None) -> None:
    """Check the flags, train the head, measure it on takes held out, save it."""
    args = parse(argv)
    for name, is_valid, expected in (
        ("minutes", args.minutes > 0, "more than 0"),
        ("takes", args.takes >= 1, "at least 1"),
        ("max_steps", args.max_steps >= 0, "at least 0"),
        ("seed", args.seed >= 0, "at least 0"),
    ):
        if not is_valid:
            raise UserError(f"--{name}: expected {expected}, got {getattr(args, name)}")
    source = find_source(args.encoder)
    out = Path(args.out or source)
    writable_folder(out.parent)
    body = load_frozen(source)
    store = FeatureStore(Path(args.pool), source)
    fill(store, range(args.takes), os.cpu_count() or 1)
    held_out = range(0, args.takes, HELD_OUT_PERIOD) if args.takes >= HELD_OUT_PERIOD else range(0)
    torch.manual_seed(args.seed)
    head = PhoneHead(store.kind.n_states(body.config), body.config.hidden_size, len(PHONES), **HEAD)
    n_million = sum(p.numel() for p in head.parameters()) / 1e6
    print(f"phone head: {n_million:.2f} M parameters, {args.takes} takes of {TAKE_S:g} s")
    plan = Plan(args.minutes, args.max_steps, seed=args.seed)
    training = [number for number in range(args.takes) if number not in held_out]
    batches = StoredTakes(store, training, plan)
    head = fit(head, batches, phone_loss, plan, log=lambda line: print(line, flush=True))
    flags = shlex.join(sys.argv[1:] if argv is None else argv)
    record = {
        "command": f"python -m synthetic.pretrain_encoder {flags}".strip(),
        "takes": args.takes,
        "held_out": measure(head, StoredTakes(store, held_out, plan)),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    print(f"takes held out: {record['held_out']}")
    save(Path(source), out, head, record)
    print(out)


if __name__ == "__main__":
    sys.exit(run_cli(main))
