"""Pre-train the small speech encoder on phones and lips: `python -m synthetic.pretrain_encoder`.

The pool has a time for every phone, so the encoder is trained frame by frame: cross-entropy on the
phone of each 50 Hz frame, and squared error of the lip curves of the same phones. Silence is class
0 and the CTC blank, so the result is a CTC model. It is saved in transformers' format
(Wav2Vec2ForCTC or Wav2Vec2BertForCTC). With `--encoder` main.py uses it as the initial encoder
and as the teacher of the lip reader.
"""

import argparse
import copy
import json
import math
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset

from common.device import pick_device
from common.errors import Parser, UserError, run_cli, writable_folder
from config import ENCODERS, PROJECT_ROOT
from speech.bodies import body_of, build_ctc, transformers_config
from speech.kinds import kind_of
from speech.timing import AUDIO_FPS
from synthetic.filterbank import init_filterbank
from synthetic.phones import PHONES
from synthetic.speech import N_CHANNELS, SpeechPool

W_PHONE, W_CURVE, W_CURVE_VELOCITY = 0.7, 1.0, 1.0
BRANCH_ENDS = (
    "attention.out_proj.weight", "feed_forward.output_dense.weight",  # wav2vec 2.0
    "ffn1.output_dense.weight", "ffn2.output_dense.weight", "self_attn.linear_out.weight",
    "conv_module.pointwise_conv2.weight", "pos_conv_embed.conv.parametrizations.weight.original0",
)  # fmt: skip
EMA_DECAY = 0.999
WARMUP_STEPS, LOG_EVERY = 200, 100
STATISTICS_CROPS = 200  # of the pool, for mean and deviation of the curves


class PhoneReader(nn.Module):
    """A CTC model with an additional head for lip curves."""

    def __init__(self, encoder: dict) -> None:
        super().__init__()
        self.model = phone_ctc(encoder)
        self.body = body_of(self.model)
        self.kind = kind_of(self.body.config.model_type)(self.body.config)
        self.curve_head = nn.Linear(self.model.config.hidden_size, N_CHANNELS)

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) audio to phone logits (B, A, K) and curves (B, A, channels)."""
        conv = self.kind.convolve(self.body, audio)
        hidden, _ = self.body.feature_projection(self.kind.add_context(self.body, conv))
        if self.training and self.body.config.apply_spec_augment:
            hidden = self.body._mask_hidden_states(hidden)
        hidden = self.body.encoder(hidden).last_hidden_state
        return self.model.lm_head(hidden), self.curve_head(hidden)


def phone_ctc(encoder: dict) -> nn.Module:
    """A new CTC model over the phone set: filterbank set, residual branches at zero."""
    values = encoder | {"vocab_size": len(PHONES), "pad_token_id": 0, "bos_token_id": None,
                        "eos_token_id": None}  # fmt: skip
    model = build_ctc(transformers_config(values))
    if getattr(model.config, "hand_set_layers", 0):
        init_filterbank(model.wav2vec2.feature_extractor)
    start_quiet(model)
    return model


@torch.no_grad()
def start_quiet(model: nn.Module) -> None:
    """Set the output of every residual branch to zero, so that the transformer is the identity.

    The heads then read the convolutions from the first step. Without this, a small encoder needs
    most of an hour until signals pass through it (reason: De and Smith 2020, arXiv:2002.10444).
    """
    for name, parameter in model.named_parameters():
        if name.endswith(BRANCH_ENDS):
            parameter.zero_()


class EndlessCrops(IterableDataset):
    """Infinite random batches: audio (B, S), curves (B, A, channels), phones (B, A)."""

    def __init__(self, pool: SpeechPool, batch_size: int, seconds: float, seed: int) -> None:
        self.pool, self.batch_size, self.seconds, self.seed = pool, batch_size, seconds, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        rng = np.random.default_rng(self.seed)
        while True:
            crops = [self.pool.crop(rng, self.seconds, AUDIO_FPS) for _ in range(self.batch_size)]
            rows = zip(*((c.audio, c.curves, c.phones) for c in crops), strict=True)
            yield tuple(torch.from_numpy(np.stack(row)) for row in rows)


def curve_statistics(pool: SpeechPool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each curve over the pool: (channels,), (channels,)."""
    rng = np.random.default_rng(0)
    sample = np.concatenate(
        [pool.crop(rng, 3.0, AUDIO_FPS, clean=True).curves for _ in range(STATISTICS_CROPS)]
    )
    return torch.from_numpy(sample.mean(0)), torch.from_numpy(sample.std(0))


def reader_loss(
    logits: Tensor, predicted: Tensor, curves: Tensor, phones: Tensor, scale: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Phone cross-entropy plus scaled curve and curve-velocity errors; and each term's value."""
    phone = F.cross_entropy(logits.float().flatten(0, 1), phones.flatten(), label_smoothing=0.05)
    error = (predicted.float() - curves) * scale
    curve = error.square().mean()
    velocity = (error[:, 1:] - error[:, :-1]).square().mean()
    total = W_PHONE * phone + W_CURVE * curve + W_CURVE_VELOCITY * velocity
    return total, {"phone": phone.item(), "curve": curve.item(), "velocity": velocity.item()}


@dataclass(frozen=True)
class Plan:
    """Length and learning rate of the training; `max_steps` > 0 takes precedence over `minutes`."""

    minutes: float
    max_steps: int = 0
    learning_rate: float = 1.5e-3
    batch_size: int = 16
    crop_s: float = 3.0
    seed: int = 1

    def rate(self, step: int, started: float) -> float:
        """Learning rate of a step: 200 steps of warm-up, then a cosine to zero; -1 at the end."""
        progress = (time.time() - started) / 60 / self.minutes
        if self.max_steps:
            progress = step / self.max_steps
        if progress >= 1:
            return -1.0
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        return self.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * progress))


def fit(
    reader: nn.Module, pool: SpeechPool, plan: Plan, log: Callable[[str], None] = print
) -> nn.Module:
    """Train a reader (audio -> phone logits, curves); returns it with averaged weights (EMA)."""
    device, dtype, why = pick_device()
    log(f"device: {why}")
    torch.manual_seed(plan.seed)
    np.random.seed(plan.seed)  # transformers draws SpecAugment's masks from this generator
    mean, std = curve_statistics(pool)
    with torch.no_grad():
        reader.curve_head.bias.copy_(mean)
        reader.curve_head.weight.mul_(0.3)
    reader, scale = reader.to(device), (1.0 / (std + 0.02)).to(device)
    trained = [p for p in reader.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.02, betas=(0.9, 0.98))
    average = AveragedModel(reader, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    crops = EndlessCrops(pool, plan.batch_size, plan.crop_s, plan.seed)
    source = iter(DataLoader(crops, batch_size=None, num_workers=1, prefetch_factor=4))
    started, step, sums = time.time(), 0, Counter()
    while (rate := plan.rate(step, started)) >= 0:
        optimizer.param_groups[0]["lr"] = rate
        audio, curves, phones = (x.to(device) for x in next(source))
        reader.train()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits, predicted = reader(audio)
        loss, parts = reader_loss(logits, predicted, curves, phones, scale)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update_parameters(reader)
        step += 1
        sums.update(parts)
        if step % LOG_EVERY == 0:
            values = "  ".join(f"{name} {value / LOG_EVERY:.3f}" for name, value in sums.items())
            pace = (time.time() - started) / step
            log(f"step {step}  {step * pace / 60:.1f} min  {values}  {pace:.3f} s/step")
            sums.clear()
    return average.module.cpu().eval()


def save(reader: PhoneReader, folder: Path, record: dict) -> None:
    """Write a folder in transformers' format, in half precision, with the list of phones.

    The complete folder replaces an older one.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy.deepcopy(reader.model).half().save_pretrained(partial)
    (partial / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(PHONES)}) + "\n")
    (partial / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    for file in partial.iterdir():
        file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description=__doc__.splitlines()[0])
    pool = str(PROJECT_ROOT / "synthetic/data/speech")
    parser.add_argument("--pool", default=pool, help="folder of the speech pool")
    parser.add_argument("--encoder", default="wav2vec2", choices=sorted(ENCODERS))
    parser.add_argument("--minutes", type=float, default=28.0, help="wall time in minutes")
    parser.add_argument(
        "--max_steps", type=int, default=0, help="number of steps instead of --minutes"
    )
    parser.add_argument("--learning_rate", type=float, default=Plan.learning_rate)
    parser.add_argument("--batch_size", type=int, default=Plan.batch_size)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    out = str(PROJECT_ROOT / "synthetic/encoder")
    parser.add_argument("--out", default=out, help="output folder, replaced if it exists")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Check the flags, train the encoder, save it."""
    args = parse(argv)
    for name, is_valid, expected in (
        ("minutes", args.minutes > 0, "more than 0"),
        ("max_steps", args.max_steps >= 0, "at least 0"),
        ("learning_rate", 0 < args.learning_rate < 1, "between 0 and 1"),
        ("batch_size", args.batch_size >= 1, "at least 1"),
        ("seed", args.seed >= 0, "at least 0"),
    ):
        if not is_valid:
            raise UserError(f"--{name}: expected {expected}, got {getattr(args, name)}")
    out = Path(args.out)
    writable_folder(out.parent)
    pool = SpeechPool(args.pool)
    torch.manual_seed(args.seed)
    reader = PhoneReader(ENCODERS[args.encoder])
    n_million = sum(p.numel() for p in reader.parameters()) / 1e6
    print(f"{args.encoder}: {n_million:.2f} M parameters, {pool.minutes:.0f} minutes of speech")
    plan = Plan(args.minutes, args.max_steps, args.learning_rate, args.batch_size, seed=args.seed)
    reader = fit(reader, pool, plan, log=lambda line: print(line, flush=True))
    flags = shlex.join(sys.argv[1:] if argv is None else argv)
    command = f"python -m synthetic.pretrain_encoder {flags}".strip()
    record = {"command": command, "pool_minutes": round(pool.minutes, 1)}
    save(reader, out, record | {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d")})
    print(out)


if __name__ == "__main__":
    sys.exit(run_cli(main))
