"""Lip sync of a model on human recordings: `python -m benchmarks.bench_lips`.

Prints a table with three kinds of rows for both halves of the recordings: the model, the corpus
rules on jittered phone times (an upper bound, since the aligner has about that error), and a
motionless face. Below each row stand bootstrap intervals, below the model's row the shape of its
lips and what they do on single phones. The last line is JSON with the model's scores on the speech
of the test half.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from benchmarks.degraded import KINDS, degraded
from benchmarks.lip_tables import COLUMNS, SHAPE_COLUMNS, header, lines, phone_lines
from benchmarks.lips import (
    LipScores,
    Pair,
    Predict,
    mesh_pairs,
    rule_curves,
    score_lips,
    score_meshes,
)
from benchmarks.measures import LipMeter
from benchmarks.non_speech import Rest, rest, second_over_first, softer_voices, sounds
from benchmarks.phone_tables import FPS
from benchmarks.real_speech import EXTRA_FOLDER, HALVES, Clip, load_real_clips
from common.errors import Parser, UserError, run_cli
from config import BUNDLED_MODEL, SAMPLE_RATE
from synthetic.coarticulation import CHANNELS
from synthetic.head import Head, channel_basis, load_head
from synthetic.phones import Segment

JITTER_S = (0.01, 0.02)


def main(argv: Sequence[str] | None = None) -> None:
    """Score the model and the references on both halves; print the tables and JSON."""
    args = parse(argv)
    head = load_head()
    predict, template = model_predictor(args.checkpoint, args.subject, head, args.encoder_backend)
    row = None
    for half in HALVES if args.half is None else (args.half,):
        clips = load_real_clips(half, args.extra_wav, args.asterisk)
        for group, members in groups(clips).items():
            print(header())
            pairs = mesh_pairs(predict, members, head, template)
            scores = score_lips(pairs)
            print_model(f"{half} {group}", pairs, scores, args.per_clip)
            if args.references:
                for name, (reference, neutral) in references(members, head).items():
                    reference_scores = score_meshes(reference, members, head, neutral)
                    print(lines(f"  {name}", len(members), reference_scores), flush=True)
            if args.degraded:
                print_degraded(predict, template, members, head)
            row = scores if group == "speech" else row
    if args.non_speech:
        print_non_speech(predict, template, head, args.asterisk)
    if args.asterisk is None:
        print("few p b m in these clips; --asterisk adds hundreds")
    print(json.dumps(row.as_row()))


# fmt: off
def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description="Score a model's lip sync on human recordings.")
    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="FILE", default=BUNDLED_MODEL,
        help="default: synthetic/model.safetensors")
    add("--subject", metavar="NAME", help="subject of the head; default: its last")
    add("--encoder_backend", default="torch", metavar="NAME", help="as of demo.py")
    add("--half", choices=HALVES, help="score this half only; default: both")
    add("--extra_wav", metavar="DIR", default=EXTRA_FOLDER,
        help="folder with voca_test_sentence.wav, selftalk_test.wav, two_cities.wav; absent "
             "files are skipped")
    add("--asterisk", metavar="DIR",
        help="unpacked asterisk-core-sounds-en-g722 with core-sounds-en.txt: many more closures")
    add("--references", action=argparse.BooleanOptionalAction, default=True,
        help="rows of the rules and of a motionless face; default: yes")
    add("--degraded", action=argparse.BooleanOptionalAction, default=False,
        help="score degraded copies of the clips as well: telephone, noise, music, babble, "
             "reverberation, clipping, speed, level; ten times as long; default: no")
    add("--non_speech", action=argparse.BooleanOptionalAction, default=True,
        help="lips in sounds without speech, and in a voice that becomes softer; default: yes")
    add("--per_clip", action="store_true", help="a row for each clip as well")
    return parser.parse_args(argv)
# fmt: on


def groups(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """The clips in groups: connected speech and, if there are any, two_cities and prompts."""
    names = {"asterisk": "prompts", "two_cities": "two_cities"}
    members: dict[str, list[Clip]] = {"speech": []}
    for clip in clips:
        members.setdefault(names.get(clip.group, "speech"), []).append(clip)
    return members


def score_model(
    model: Path | Predict, clips: Sequence[Clip], head: Head, subject: str | None = None
) -> LipScores:
    """Scores of a checkpoint or of a function: audio (S,) -> vertices (T, V, 3) at 30 fps.

    The function must predict the head of `subject`; default: the last subject of the head.
    Raises `UserError` for an unknown subject or a model of another topology or frame rate.
    """
    if isinstance(model, Path):
        model, template = model_predictor(model, subject, head)
    else:
        template = head.templates[_known_subject(subject, head)]
    return score_meshes(model, clips, head, template)


def print_model(name: str, pairs: Sequence[Pair], scores: LipScores, per_clip: bool) -> None:
    """Print the model's row, its clips if asked for, its shape and its phones."""
    if per_clip:
        for pair in sorted(pairs, key=lambda pair: -pair.clip.duration_s):
            print(lines(f"  {pair.clip.name[-23:]}", 1, score_lips([pair])))
    print(lines(f"{name} model", len(pairs), scores, COLUMNS))
    print(header(SHAPE_COLUMNS))
    print(lines("  over the rules' amplitude", len(pairs), scores, SHAPE_COLUMNS))
    print("\n".join(phone_lines(scores)), flush=True)


def print_degraded(
    predict: Predict, template: np.ndarray, clips: Sequence[Clip], head: Head
) -> None:
    """Print a row for each kind of degraded copies."""
    for kind in KINDS:
        scores = score_meshes(predict, degraded(clips, kind), head, template)
        print(lines(f"  {kind}", len(clips), scores), flush=True)


def print_non_speech(
    predict: Predict, template: np.ndarray, head: Head, asterisk: str | None
) -> None:
    """Print open frames and the largest opening in each sound, then the soft voices."""
    meter = LipMeter(head)
    print(f"{'sounds without speech':26}{'frames':>8}{'open':>8}{'largest mm':>12}")
    rests = {}
    for name, audio in sounds(asterisk).items():
        rests[name] = rest(meter.of_meshes(predict(audio), template))
    n, n_open, largest = zip(*rests.values(), strict=True)
    for name, of in (rests | {"all": Rest(sum(n), sum(n_open), max(largest))}).items():
        print(f"  {name:24}{of.frames:8}{of.open_frames / of.frames:8.3f}{of.largest_mm:12.2f}")
    print("the same voice softer: mean opening over that at full level")
    for decibels, audio in softer_voices().items():
        ratio = second_over_first(meter.of_meshes(predict(audio), template))
        print(f"  {f'{decibels} dB':24}{ratio:8.2f}", flush=True)


def model_predictor(
    path: Path, subject: str | None, head: Head, encoder_backend: str = "torch"
) -> tuple[Predict, np.ndarray]:
    """(function of audio (S,) that returns vertices (T, V, 3), template (V, 3)) of a checkpoint.

    Raises `UserError` for an unknown subject or a model of another topology or frame rate.
    """
    from jambatalk import load_checkpoint

    subject = _known_subject(subject, head)
    model, spec = load_checkpoint(path, encoder_backend=encoder_backend)
    template = head.templates[subject]
    if spec.n_vertices != len(template) or spec.fps != FPS:
        raise UserError(
            f"{path}: expected a model of the synthetic head with {len(template)} vertices at "
            f"{FPS} fps, got {spec.n_vertices} vertices at {spec.fps} fps"
        )

    return predictor_of(model, template), template


def predictor_of(model: Any, template: np.ndarray) -> Predict:
    """Function of audio (S,) that returns the vertices (T, V, 3) of a model; template: (V, 3)."""
    import torch

    from speech.audio import normalise

    def predict(audio: np.ndarray) -> np.ndarray:
        wav = torch.from_numpy(normalise(audio))
        return model.predict(wav, torch.from_numpy(template)).numpy()

    return predict


def _known_subject(subject: str | None, head: Head) -> str:
    subject = subject or list(head.templates)[-1]
    if subject not in head.templates:
        raise UserError(f"--subject: expected one of {', '.join(head.templates)}, got {subject}")
    return subject


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
