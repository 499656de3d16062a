"""torch and onnxruntime for the frozen encoder: `python -m benchmarks.bench_backends`.

Both encode the recordings in demo/wav and predict the lips. Times are processor time of one thread,
measured in turn, so that other work on the machine disturbs both; their ratio is the median of the
pairs. The last line is JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench_length import lips_of
from common.errors import Parser, UserError, run_cli
from config import BUNDLED_MODEL, SAMPLE_RATE
from jambatalk import Checkpoint, load_checkpoint
from production.jobs import DEMO_FOLDER
from speech.audio import normalise, read_audio
from speech.encoder_backend import BACKENDS

TIMED_S = 10.0  # of speech


def main(argv: Sequence[str] | None = None) -> None:
    """Compare features, lips and times of both backends; print them and JSON."""
    args = _parser().parse_args(argv)
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: expected at least 1")
    torch.set_num_threads(1)
    checkpoints = [load_checkpoint(args.checkpoint, encoder_backend=name) for name in BACKENDS]
    recordings = [read_audio(path) for path in sorted(DEMO_FOLDER.iterdir())
                  if path.suffix in (".wav", ".flac")]  # fmt: skip
    results = accuracy(checkpoints, recordings)
    clip = np.resize(np.concatenate(recordings), round(TIMED_S * SAMPLE_RATE))
    for name, run in (("encoding", encode), ("lips", lips_of)):
        seconds = times(run, checkpoints, clip, args.rounds)
        for backend, column in zip(BACKENDS, seconds.T, strict=True):
            results[f"{name} {backend} s"] = float(np.median(column))
        results[f"{name} ratio"] = float(np.median(seconds[:, 1] / seconds[:, 0]))
    for name, value in results.items():
        print(f"{name:28}{value:10.4f}")
    print(json.dumps({name: round(value, 5) for name, value in results.items()}))


def accuracy(
    checkpoints: Sequence[Checkpoint], recordings: Sequence[np.ndarray]
) -> dict[str, float]:
    """Relative error of all states, and distances of lip vertices in mm."""
    states, distances = [[], []], []
    for audio in recordings:
        for checkpoint, parts in zip(checkpoints, states, strict=True):
            parts.append(encode(checkpoint, audio).flatten())
        lips = [lips_of(checkpoint, audio) for checkpoint in checkpoints]
        distances.append(np.linalg.norm(lips[1] - lips[0], axis=2).flatten())
    exact, ours = (torch.cat(parts) for parts in states)
    distance = np.concatenate(distances)
    return {
        "relative error of states": float((ours - exact).norm() / exact.norm()),
        "lips mean mm": float(distance.mean()),
        "lips 99 % mm": float(np.quantile(distance, 0.99)),
        "lips largest mm": float(distance.max()),
    }


@torch.inference_mode()
def encode(checkpoint: Checkpoint, audio: np.ndarray) -> Tensor:
    """The encoder's states (1, N, L·C) of audio (S,)."""
    return checkpoint.model.encoder.convolve(torch.from_numpy(normalise(audio))[None])


def times(
    run: Callable[[Checkpoint, np.ndarray], object],
    checkpoints: Sequence[Checkpoint],
    clip: np.ndarray,
    rounds: int,
) -> np.ndarray:
    """Processor seconds of `run` (rounds, 2), after one call that is not counted."""
    seconds = np.empty((rounds + 1, len(checkpoints)))
    for row in seconds:
        for i, checkpoint in enumerate(checkpoints):
            start = time.process_time()
            run(checkpoint, clip)
            row[i] = time.process_time() - start
    return seconds[1:]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.bench_backends", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED_MODEL, help="model file")
    parser.add_argument("--rounds", type=int, default=9, help="timed pairs; default: 9")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
