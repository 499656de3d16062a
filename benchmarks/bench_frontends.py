"""Transfer of speech front-ends from synthetic to human voices.

    python -m benchmarks.bench_frontends

Trains small networks from speech to lip curves on the same pool, with the same loss, for the same
wall time (or steps). Each is scored on both halves of the human recordings (lips.py), with its
curves applied to the head so that meshes are compared. The shipped model is the last row.

mel_conv   normalised log-mel, six convolutions: the baseline
moonshine  the mean of the frozen encoder's states, five convolutions
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.bench_lips import groups, score_model
from benchmarks.lip_tables import COLUMNS
from benchmarks.lips import LipScores, score_curves_on_head
from benchmarks.phone_tables import FPS
from benchmarks.real_speech import EXTRA_FOLDER, load_real_clips
from benchmarks.speech_crops import N_CHANNELS, Crop, CropBatches, FrozenStates, draw_crop
from common.errors import Parser, UserError, run_cli
from config import BUNDLED_MODEL, PROJECT_ROOT, SAMPLE_RATE
from speech.audio import normalise
from speech.features import (
    MEL_HOP,
    fold,
    log_mel,
    mel_filters,
    mix_states,
    normalise_over_time,
    povey_window,
)
from speech.phone_head import ContextLayer
from speech.pretrained import find_source
from speech.timing import AUDIO_FPS, audio_frames
from synthetic.head import load_head
from synthetic.phones import PHONES
from synthetic.pretrain_encoder import Plan, fit, load_frozen
from synthetic.speech import SpeechPool

WIDTH, N_LAYERS = 192, 5
W_PHONE, W_CURVE, W_CURVE_VELOCITY = 0.7, 1.0, 1.0
STATISTICS_CROPS = 200  # of the pool, for mean and deviation of the curves
KINDS = ("mel_conv", "moonshine")
ENCODER = "synthetic/encoder"

Features = Callable[[np.ndarray], Tensor]  # of normalised audio (S,): (A, ...)


class FrontEnd(nn.Module):
    """Features of a batch to phone logits (B, A, K) and curves (B, A, channels).

    first: features to (B, A, WIDTH). Residual convolutions and two heads follow.
    """

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.layers = nn.ModuleList(ContextLayer(WIDTH, 0.1) for _ in range(N_LAYERS))
        self.phone_head = nn.Linear(WIDTH, len(PHONES))
        self.curve_head = nn.Linear(WIDTH, N_CHANNELS)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features: (B, A, 160) log-mel or (B, A, L, C) states."""
        x = F.gelu(self.first(features.float()))
        for layer in self.layers:
            x = layer(x, None)
        return self.phone_head(x), self.curve_head(x)


class MelConv(nn.Module):
    """A convolution of log-mel (B, A, 160)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(160, WIDTH, 5, padding=2)

    def forward(self, mel: Tensor) -> Tensor:
        return self.conv(mel.transpose(1, 2)).transpose(1, 2)


class StateMean(nn.Module):
    """A linear map of the learnt mean of states (B, A, L, C)."""

    def __init__(self, n_states: int, d_states: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(n_states))
        self.project = nn.Linear(d_states, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        return self.project(mix_states(states, self.mix))


class LogMel:
    """Normalised log-mel energies, two frames of 10 ms side by side, as a function of audio."""

    def __init__(self) -> None:
        self.filters, self.window = mel_filters(), povey_window()

    def __call__(self, audio: np.ndarray) -> Tensor:
        """Energies (A, 160) of audio (S,)."""
        padded = F.pad(torch.from_numpy(audio)[None], (0, MEL_HOP))
        mel = normalise_over_time(log_mel(padded, self.filters, self.window))
        return fold(mel, 2)[0, : audio_frames(len(audio))]


def front_end(kind: str) -> tuple[FrontEnd, Features]:
    """An untrained network and the function that computes its features."""
    if kind == "mel_conv":
        return FrontEnd(MelConv()), LogMel()
    states = FrozenStates(load_frozen(find_source(ENCODER)))
    config = states.body.config
    return FrontEnd(StateMean(states.kind.n_states(config), config.hidden_size)), states


def curve_statistics(pool: SpeechPool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each curve over the pool: (channels,), (channels,)."""
    rng = np.random.default_rng(0)
    sample = np.concatenate(
        [draw_crop(pool, rng, 3.0, AUDIO_FPS, clean=True).curves for _ in range(STATISTICS_CROPS)]
    )
    return torch.from_numpy(sample.mean(0)), torch.from_numpy(sample.std(0))


def train(net: FrontEnd, features: Features, pool: SpeechPool, plan: Plan) -> FrontEnd:
    """The network trained on phones and curves of the pool, with averaged weights."""
    mean, std = curve_statistics(pool)
    with torch.no_grad():
        net.curve_head.bias.copy_(mean)
        net.curve_head.weight.mul_(0.3)
    weight = 1.0 / (std + 0.02)

    def encode(crop: Crop) -> tuple[Tensor, Tensor, Tensor]:
        values = features(crop.audio), crop.curves, crop.phones
        return tuple(map(torch.as_tensor, values))

    def loss_of(
        net: FrontEnd, features: Tensor, curves: Tensor, phones: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        logits, predicted = net(features)
        phone = F.cross_entropy(
            logits.float().flatten(0, 1), phones.flatten(), label_smoothing=0.05
        )
        error = (predicted.float() - curves) * weight.to(curves.device)
        curve = error.square().mean()
        velocity = (error[:, 1:] - error[:, :-1]).square().mean()
        parts = {"phone": phone.item(), "curve": curve.item(), "velocity": velocity.item()}
        return W_PHONE * phone + W_CURVE * curve + W_CURVE_VELOCITY * velocity, parts

    return fit(net, CropBatches(pool, encode, plan), loss_of, plan)


def predictor(net: FrontEnd, features: Features) -> Callable[[np.ndarray], np.ndarray]:
    """Function of audio (S,) at 16 kHz that returns curves (T, channels) at 30 fps."""

    @torch.no_grad()
    def predict(audio: np.ndarray) -> np.ndarray:
        curves = net(features(normalise(audio))[None])[1][0].float().numpy()
        times = np.arange(len(audio) * FPS // SAMPLE_RATE) / FPS * AUDIO_FPS
        grid = np.arange(len(curves))
        return np.stack([np.interp(times, grid, column) for column in curves.T], axis=1)

    return predict


def row(name: str, clips: str, scores: LipScores) -> str:
    """A line of the table."""
    values = [f"{title} {getattr(scores, field).value:.3f}" for field, title in COLUMNS]
    return f"{name:14s} {clips:12s} " + "  ".join(values)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kinds", default=",".join(KINDS), help=f"comma-separated, from {','.join(KINDS)}"
    )
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="training time of each, wall clock"
    )
    parser.add_argument(
        "--max_steps", type=int, default=0, help="training steps of each, instead of --minutes"
    )
    parser.add_argument("--learning_rate", type=float, default=Plan.learning_rate)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pool", default=str(PROJECT_ROOT / "synthetic/data/speech"))
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED_MODEL, help="see bench_lips")
    parser.add_argument("--extra_wav", default=EXTRA_FOLDER, help="see bench_lips")
    parser.add_argument("--asterisk", help="see bench_lips")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train and score each front-end, then score the shipped model; print the table and JSON."""
    args = parse(argv)
    kinds = args.kinds.split(",")
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise UserError(f"--kinds: expected some of {', '.join(KINDS)}, got {', '.join(unknown)}")
    head = load_head()
    sets = {
        f"{half} {group}": clips
        for half in ("dev", "test")
        for group, clips in groups(load_real_clips(half, args.extra_wav, args.asterisk)).items()
    }
    pool = SpeechPool(args.pool)
    plan = Plan(args.minutes, args.max_steps, args.learning_rate, seed=args.seed)
    results: dict[str, dict] = {}

    def report(kind: str, score: Callable[[list], LipScores]) -> None:
        for name, clips in sets.items():
            scores = score(clips)
            print(row(kind, name, scores), flush=True)
            results[f"{kind} {name}"] = scores.as_row()

    for kind in kinds:
        torch.manual_seed(args.seed)
        net, features = front_end(kind)
        predict = predictor(train(net, features, pool, plan), features)
        report(kind, lambda clips, predict=predict: score_curves_on_head(predict, clips, head))
    report("shipped model", lambda clips: score_model(args.checkpoint, clips, head))
    print(json.dumps(results))


if __name__ == "__main__":
    sys.exit(run_cli(main))
