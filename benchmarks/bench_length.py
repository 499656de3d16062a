"""Does the length of a recording change the motion? `python -m benchmarks.bench_length`.

The same speech is animated alone and inside longer recordings, between other speech or in silence.
The lips of the two are compared in the frames that are away from the clip's ends, where the
encoder's windows contain the same sound. Prints a table; the last line is JSON.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
import torch

from benchmarks.real_speech import load_real_clips
from common.errors import Parser, UserError, run_cli
from config import BUNDLED_MODEL, SAMPLE_RATE
from dataset.faces import choose_face
from dataset.regions import find_regions
from jambatalk import Checkpoint, load_checkpoint
from speech.audio import normalise

EDGE_S = 4.5  # windows, level and decoder reach this far
OFFSETS_S = (0.0, 2.016, 20.16, 21.37, 40.0)  # of the clip in a minute; 2.016 s is a window's step


def main(argv: Sequence[str] | None = None) -> None:
    """Compare one clip alone with the same clip at several places of longer recordings."""
    args = _parser().parse_args(argv)
    if args.minutes <= 0:
        raise UserError(f"--minutes {args.minutes}: expected more than 0")
    checkpoint = load_checkpoint(args.checkpoint)
    clips = [clip.audio for clip in load_real_clips("dev")]
    clip = np.resize(np.concatenate(clips), 16 * SAMPLE_RATE)
    other = np.concatenate(clips[::-1])
    alone = lips_of(checkpoint, clip)
    rows = {}
    for around in ("speech", "silence"):
        for offset_s in OFFSETS_S:
            inside = place(clip, other if around == "speech" else 0 * other, offset_s, 60.0)
            rows[f"{around} 1 min {offset_s:g} s"] = difference(
                alone, lips_of(checkpoint, inside), offset_s, checkpoint.spec.fps
            )
    offset_s = (args.minutes - 1) * 60.0
    if offset_s > 0:
        inside = place(clip, other, offset_s, args.minutes * 60)
        rows[f"speech {args.minutes:g} min"] = difference(
            alone, lips_of(checkpoint, inside), offset_s, checkpoint.spec.fps
        )
    print(f"{'inside':24}{'mean mm':>10}{'99 %':>8}{'largest':>9}")
    for name, (mean, high, largest) in rows.items():
        print(f"{name:24}{mean:10.3f}{high:8.3f}{largest:9.3f}")
    print(json.dumps({name: [round(value, 4) for value in row] for name, row in rows.items()}))


def place(clip: np.ndarray, other: np.ndarray, offset_s: float, seconds: float) -> np.ndarray:
    """`clip` (S,) at `offset_s` of a recording of `seconds` that is filled with `other` (S2,)."""
    recording = np.resize(other, round(seconds * SAMPLE_RATE))
    start = round(offset_s * SAMPLE_RATE)
    recording[start : start + len(clip)] = clip[: len(recording) - start]
    return recording


def lips_of(checkpoint: Checkpoint, audio: np.ndarray) -> np.ndarray:
    """The motion (T, L, 3) of the lips' vertices in mm."""
    spec = checkpoint.spec
    face = choose_face(spec, None, None)[1]
    lips = find_regions(spec)["lips"].indices
    parts = checkpoint.model.stream(torch.from_numpy(normalise(audio)), torch.from_numpy(face))
    offsets = np.concatenate([part[:, lips].numpy() for part in parts]) - face[lips]
    return offsets * 1000 * spec.metres_per_unit


def difference(
    alone: np.ndarray, inside: np.ndarray, offset_s: float, fps: int
) -> tuple[float, float, float]:
    """Mean, 99th percentile and largest distance of lip vertices, mm, away from the clip's ends.

    Where the offset is no whole number of frames, `inside` is interpolated linearly.
    """
    edge = round(EDGE_S * fps)
    frames = np.arange(edge, len(alone) - edge)
    position = frames + offset_s * fps
    low = np.floor(position).astype(int)
    share = (position - low)[:, None, None]
    moved = (1 - share) * inside[low] + share * inside[low + 1]
    distance = np.linalg.norm(moved - alone[frames], axis=2)
    return float(distance.mean()), float(np.quantile(distance, 0.99)), float(distance.max())


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.bench_length", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED_MODEL, help="model file")
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="length of the longest recording"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
