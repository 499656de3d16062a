"""Lip sync of a model on human recordings: `python -m benchmarks.bench_lips`.

Prints a table with three kinds of rows for both halves of the recordings: the model, the corpus
rules on jittered phone times (an upper bound, since the aligner has about that error), and a
motionless face. The last line is JSON with the model's scores on the speech of the test half.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from benchmarks.lips import FPS, LipScores, rule_curves, score_meshes
from benchmarks.real_speech import EXTRA_FOLDER, Clip, load_real_clips
from common.errors import Parser, UserError, run_cli
from config import BUNDLED_MODEL, SAMPLE_RATE
from synthetic.coarticulation import CHANNELS
from synthetic.head import Head, channel_basis, load_head
from synthetic.phones import Segment

JITTER_S = (0.01, 0.02)
COLUMNS = (
    ("jaw_r", "jaw r"),
    ("aperture_r", "gap r"),
    ("closed", "pbm shut"),
    ("others_closed", "others"),
    ("auc", "AUC"),
    ("sync_frames", "sync"),
    ("silence_shut", "rest shut"),
    ("silence_motion", "rest move"),
)

Predict = Callable[[np.ndarray], np.ndarray]


def main(argv: Sequence[str] | None = None) -> None:
    """Score the model and the references on both halves; print the table and JSON."""
    args = parse(argv)
    head = load_head()
    predictors = {"model": model_predictor(args.checkpoint, args.subject, head)}
    results: dict[str, LipScores] = {}
    print(f"{'':24}{'clips':>6}{'s':>6}{'pbm':>5}  " + "".join(f"{t:>10}" for _, t in COLUMNS))
    for half in ("dev", "test"):
        clips = load_real_clips(half, args.extra_wav, args.asterisk)
        for group, members in groups(clips).items():
            rows = predictors | references(members, head)
            for name, (predict, template) in rows.items():
                scores = score_meshes(predict, members, head, template)
                results[f"{half} {group} {name}"] = scores
                print_row(f"{half} {group} {name}", len(members), scores)
    if args.asterisk is None:
        print("few p b m in these clips; --asterisk adds hundreds")
    print(json.dumps(results["test speech model"].as_row()))


# fmt: off
def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description="Score a model's lip sync on human recordings.")
    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="FILE", default=BUNDLED_MODEL,
        help="default: synthetic/model.safetensors")
    add("--subject", metavar="NAME", help="subject of the head; default: its last")
    add("--extra_wav", metavar="DIR", default=EXTRA_FOLDER,
        help="folder with voca_test_sentence.wav, selftalk_test.wav; absent files are skipped")
    add("--asterisk", metavar="DIR",
        help="unpacked asterisk-core-sounds-en-g722 with core-sounds-en.txt: many more closures")
    return parser.parse_args(argv)
# fmt: on


def groups(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """The clips in two groups: connected speech and, if there are any, telephone prompts."""
    speech = [clip for clip in clips if clip.group != "asterisk"]
    prompts = [clip for clip in clips if clip.group == "asterisk"]
    return {"speech": speech} | ({"prompts": prompts} if prompts else {})


def print_row(name: str, n_clips: int, scores: LipScores) -> None:
    """Print a line of the table."""
    values = "".join(f"{getattr(scores, column):10.3f}" for column, _ in COLUMNS)
    print(f"{name:24}{n_clips:6}{scores.seconds:6.0f}{scores.n_closures:5}  {values}", flush=True)


def model_predictor(path: Path, subject: str | None, head: Head) -> tuple[Predict, np.ndarray]:
    """(function of audio (S,) that returns vertices (T, V, 3), template (V, 3)) of a checkpoint.

    Raises `UserError` for an unknown subject or a model of another topology or frame rate.
    """
    import torch

    from jambatalk import load_checkpoint
    from speech.audio import normalise

    subject = subject or list(head.templates)[-1]
    if subject not in head.templates:
        raise UserError(f"--subject: expected one of {', '.join(head.templates)}, got {subject}")
    model, spec = load_checkpoint(path)
    template = head.templates[subject]
    if spec.n_vertices != len(template) or spec.fps != FPS:
        raise UserError(
            f"{path}: expected a model of the synthetic head with {len(template)} vertices at "
            f"{FPS} fps, got {spec.n_vertices} vertices at {spec.fps} fps"
        )

    def predict(audio: np.ndarray) -> np.ndarray:
        wav = torch.from_numpy(normalise(audio))
        return model.predict(wav, torch.from_numpy(template)).numpy()

    return predict, template


def references(clips: Sequence[Clip], head: Head) -> dict[str, tuple[Predict, np.ndarray]]:
    """Row name -> predictor: the rules on exact and jittered phone times, and a motionless face."""
    template = next(iter(head.templates.values()))
    basis = channel_basis(head, CHANNELS)
    by_audio = {id(clip.audio): clip for clip in clips}

    def still(audio: np.ndarray) -> np.ndarray:
        return np.broadcast_to(template, (frame_count(audio), *template.shape))

    def jittered(sigma_s: float) -> Predict:
        rng = np.random.default_rng(1)

        def predict(audio: np.ndarray) -> np.ndarray:
            clip = with_jitter(by_audio[id(audio)], sigma_s, rng)
            return template + np.tensordot(rule_curves(clip, frame_count(audio)), basis, 1)

        return predict

    rows = {f"rules +-{1000 * s:.0f} ms": (jittered(s), template) for s in (0.0, *JITTER_S)}
    return rows | {"still": (still, template)}


def frame_count(audio: np.ndarray) -> int:
    """Frames at 30 fps of (S,) samples; the network predicts the same number or one or two less."""
    return len(audio) * FPS // SAMPLE_RATE


def with_jitter(clip: Clip, sigma_s: float, rng: np.random.Generator) -> Clip:
    """The clip with normally distributed errors on the phone boundaries, in the same order."""
    edges = np.array([segment.end_s for segment in clip.segments[:-1]])
    edges = np.maximum.accumulate(edges + rng.normal(0, sigma_s, len(edges)))
    edges = np.clip(edges, clip.segments[0].start_s, clip.segments[-1].end_s)
    starts = [clip.segments[0].start_s, *edges]
    ends = [*edges, clip.segments[-1].end_s]
    rows = zip(clip.segments, starts, ends, strict=True)
    return dataclasses.replace(clip, segments=tuple(Segment(s.phone, a, b) for s, a, b in rows))


if __name__ == "__main__":
    sys.exit(run_cli(main))
