"""Transfer of speech front-ends from synthetic to human voices.

    python -m benchmarks.bench_frontends

Trains small networks from speech to lip curves on the same pool, with the same loss, for the same
wall time (or steps). Each is scored on both halves of the human recordings (lips.py), with its
curves applied to the head so that meshes are compared. The shipped model is the last row.

mel_conv       normalised log-mel, six convolutions: the baseline
wav2vec2       the shipped encoder: raw wave, fixed filterbank, context layers, transformer
wav2vec2-bert  normalised log-mel, conformer (w2v-BERT 2.0's architecture)
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
from common.errors import Parser, UserError, run_cli
from config import BUNDLED_MODEL, ENCODERS, PROJECT_ROOT, SAMPLE_RATE
from speech.audio import normalise
from speech.context import ContextLayer
from speech.features import (
    MEL_HOP,
    fold,
    log_mel,
    mel_filters,
    normalise_over_time,
    povey_window,
)
from speech.timing import AUDIO_FPS, audio_frames
from synthetic.head import load_head
from synthetic.phones import PHONES
from synthetic.pretrain_encoder import PhoneReader, Plan, fit
from synthetic.speech import N_CHANNELS, SpeechPool

WIDTH, N_LAYERS = 192, 5
KINDS = ("mel_conv", *sorted(ENCODERS))


class MelConv(nn.Module):
    """Normalised log-mel, one plain and five residual convolutions, the heads of a PhoneReader."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", mel_filters())
        self.register_buffer("window", povey_window())
        self.first = nn.Conv1d(160, WIDTH, 5, padding=2)
        self.layers = nn.ModuleList(ContextLayer(WIDTH, 0.1) for _ in range(N_LAYERS))
        self.phone_head = nn.Linear(WIDTH, len(PHONES))
        self.curve_head = nn.Linear(WIDTH, N_CHANNELS)

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) audio to phone logits (B, A, K) and curves (B, A, channels)."""
        with torch.autocast(audio.device.type, enabled=False):
            mel = log_mel(F.pad(audio, (0, MEL_HOP)), self.filters, self.window)
            mel = fold(normalise_over_time(mel), 2)[:, : audio_frames(audio.shape[1])]
        x = F.gelu(self.first(mel.transpose(1, 2))).transpose(1, 2)
        for layer in self.layers:
            x = layer(x, None)
        return self.phone_head(x), self.curve_head(x)


def predictor(net: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """Function of audio (S,) at 16 kHz that returns curves (T, channels) at 30 fps."""

    @torch.no_grad()
    def predict(audio: np.ndarray) -> np.ndarray:
        curves = net(torch.from_numpy(normalise(audio))[None])[1][0].float().numpy()
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
    parser.add_argument("--learning_rate", type=float, default=1.5e-3)
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
        net = MelConv() if kind == "mel_conv" else PhoneReader(ENCODERS[kind])
        predict = predictor(fit(net, pool, plan))
        report(kind, lambda clips, predict=predict: score_curves_on_head(predict, clips, head))
    report("shipped model", lambda clips: score_model(args.checkpoint, clips, head))
    print(json.dumps(results))


if __name__ == "__main__":
    sys.exit(run_cli(main))
