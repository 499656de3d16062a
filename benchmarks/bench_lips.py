"""How well does the shipped model's mouth follow real people? `python -m benchmarks.bench_lips`.

Prints a table of the model, the corpus rules themselves on jittered phone times (what a perfect
model can reach, for the aligner is about that far off) and a face that does not move, on both
halves of the recordings; the last line is JSON for the test half's speech.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from benchmarks.lips import LipScores, judge_meshes, rule_curves
from benchmarks.real_speech import EXTRA_FOLDER, Clip, load_real_clips
from common.errors import Parser, UserError, run_cli
from config import PROJECT_ROOT, SAMPLE_RATE
from synthetic.coarticulation import CHANNELS
from synthetic.head import Head, channel_basis, load_head
from synthetic.phones import Segment

CHECKPOINT = PROJECT_ROOT / "synthetic/model.safetensors"
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
    args = parse(argv)
    head = load_head()
    predictors = {"model": model_predictor(args.checkpoint, args.subject, head)}
    shown: dict[str, LipScores] = {}
    print(f"{'':24}{'clips':>6}{'s':>6}{'pbm':>5}  " + "".join(f"{t:>10}" for _, t in COLUMNS))
    for kind in ("dev", "test"):
        clips = load_real_clips(kind, args.extra_wav, args.asterisk)
        for group, members in groups(clips).items():
            rows = predictors | references(members, head)
            for name, (predict, template) in rows.items():
                scores = judge_meshes(predict, members, head, template)
                shown[f"{kind} {group} {name}"] = scores
                print_row(f"{kind} {group} {name}", len(members), scores)
    if args.asterisk is None:
        print("few p b m to count; --asterisk adds hundreds")
    print(json.dumps(shown["test speech model"].as_row()))


# fmt: off
def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description="Judge the model's lips on human recordings.")
    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="FILE", default=CHECKPOINT,
        help="default: synthetic/model.safetensors")
    add("--subject", metavar="NAME", help="whose face speaks; default: the head's last subject")
    add("--extra_wav", metavar="DIR", default=EXTRA_FOLDER,
        help="folder with voca_test_sentence.wav, selftalk_test.wav; left out where absent")
    add("--asterisk", metavar="DIR",
        help="asterisk-core-sounds-en-g722 unpacked, core-sounds-en.txt in it: more closures")
    return parser.parse_args(argv)
# fmt: on


def groups(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """Connected speech apart from the telephone prompts."""
    speech = [clip for clip in clips if clip.group != "asterisk"]
    prompts = [clip for clip in clips if clip.group == "asterisk"]
    return {"speech": speech} | ({"prompts": prompts} if prompts else {})


def print_row(name: str, n_clips: int, scores: LipScores) -> None:
    values = "".join(f"{getattr(scores, column):10.3f}" for column, _ in COLUMNS)
    print(f"{name:24}{n_clips:6}{scores.seconds:6.0f}{scores.n_closures:5}  {values}", flush=True)


def model_predictor(path: Path, subject: str | None, head: Head) -> tuple[Predict, np.ndarray]:
    """(audio (S,) -> vertices (T, V, 3), template (V, 3)) of a checkpoint."""
    import torch

    from jambatalk import load_checkpoint
    from speech.audio import normalise

    subject = subject or list(head.templates)[-1]
    if subject not in head.templates:
        raise UserError(f"--subject {subject}: the head has {', '.join(head.templates)}")
    model, spec = load_checkpoint(path)
    template = head.templates[subject]
    if spec.n_vertices != len(template) or spec.fps != 30:
        raise UserError(
            f"{path}: a model of {spec.n_vertices} vertices at {spec.fps} fps; this benchmark "
            f"judges models of the synthetic head, {len(template)} vertices at 30 fps"
        )

    def predict(audio: np.ndarray) -> np.ndarray:
        wav = torch.from_numpy(normalise(audio))
        return model.predict(wav, torch.from_numpy(template)).numpy()

    return predict, template


def references(clips: Sequence[Clip], head: Head) -> dict[str, tuple[Predict, np.ndarray]]:
    """The rules on jittered times, which bound every model from above, and a still face."""
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
    """Frames at 30 fps that the network gives for (S,) samples, to one or two."""
    return len(audio) * 30 // SAMPLE_RATE


def with_jitter(clip: Clip, sigma_s: float, rng: np.random.Generator) -> Clip:
    """The clip with every boundary between phones moved by a normal deviate, order kept."""
    edges = np.array([segment.end_s for segment in clip.segments[:-1]])
    edges = np.maximum.accumulate(edges + rng.normal(0, sigma_s, len(edges)))
    edges = np.clip(edges, clip.segments[0].start_s, clip.segments[-1].end_s)
    starts = [clip.segments[0].start_s, *edges]
    ends = [*edges, clip.segments[-1].end_s]
    rows = zip(clip.segments, starts, ends, strict=True)
    return dataclasses.replace(clip, segments=tuple(Segment(s.phone, a, b) for s, a, b in rows))


if __name__ == "__main__":
    sys.exit(run_cli(main))
