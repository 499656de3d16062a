"""The command `python metrics.py`: scores folders of predicted vertices against captured ones."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

from common.errors import Parser, UserError
from common.frame_rates import parse_rate
from evaluation.predictions import (
    check_lengths,
    check_step,
    find_pairs,
    is_far,
    read_pair,
    truth_step,
)
from files.listing import list_files
from files.meshes import load_templates
from metrics import Scores, pool, score_clip

REGIONS = ("lips", "upper")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags as given. Raises `UserError` for unknown flags."""
    parser = Parser(description="Score predicted vertices against captured ones.")
    add = parser.add_argument
    add("--pred", required=True, metavar="DIR", help="predictions, <clip>.npy of (T, V*3)")
    add("--truth", required=True, metavar="DIR", help="captured vertices of the same names")
    region_help = "lips=FILE for LVE, upper=FILE for FDD (.txt, .npy, .npz, .pkl or .mat)"
    add("--regions", nargs="+", default=[], metavar="NAME=FILE", help=region_help)
    add("--templates", metavar="FILE", help="neutral faces of the subjects, for FDD (.pkl, .npz)")
    add("--pred_fps", metavar="RATE", help="frames a second of the predictions, such as 30")
    truth_help = "frames a second of the truth, such as 29.97; it is resampled in time"
    add("--truth_fps", metavar="RATE", help=truth_help)
    add("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


def parse_regions(given: Sequence[str]) -> dict[str, str]:
    """{"lips": FILE, "upper": FILE} from words `lips=FILE`, `upper=FILE`."""
    regions = {}
    for word in given:
        name, equals, file = word.partition("=")
        if name not in REGIONS or not equals or not file:
            raise UserError(f"--regions {word}: expected lips=FILE or upper=FILE")
        regions[name] = file
    return regions


def given_step(args: argparse.Namespace) -> Fraction | None:
    """Frames of the truth for each predicted frame, from the rates; None without them."""
    if (args.pred_fps is None) != (args.truth_fps is None):
        raise UserError("--pred_fps and --truth_fps: expected both or neither; add the other one")
    if args.pred_fps is None:
        return None
    return parse_rate(args.truth_fps, "--truth_fps") / parse_rate(args.pred_fps, "--pred_fps")


def main(argv: Sequence[str] | None = None) -> None:
    """Pair the files of two folders, score every pair, print the pooled scores."""
    args = parse_arguments(argv)
    regions = parse_regions(args.regions)
    templates = load_templates(args.templates) if args.templates else {}
    pairs = find_pairs(Path(args.pred), Path(args.truth))
    given = given_step(args)
    if given is not None:
        check_lengths(pairs, given)
    step = given or truth_step(pairs)
    clips, far, unscored = [], [], 0
    for pair in pairs:
        clip = read_pair(pair, step, regions, templates)
        clips.append(score_clip(clip.prediction, clip.truth, clip.template, clip.lips, clip.upper))
        unscored += clip.unscored
        if is_far(clips[-1].mve, clip.truth):
            far.append(pair.prediction)
    _warn("" if given else check_step(pairs, step), far, len(pairs))
    scores = pool(clips)
    if args.json:
        print(json.dumps(asdict(scores)))
        return
    print(_table(scores, regions, step, bool(templates)))
    if unscored:
        print(f"frames of the truth after the end of their prediction, not scored: {unscored}")
    rest = set(list_files(Path(args.truth), (".npy",), deep=True)) - {pair.truth for pair in pairs}
    if rest:
        print(f"clips of --truth without a prediction: {len(rest)} ({min(rest).stem}, ...)")


def _warn(step_warning: str, far: list[Path], n_pairs: int) -> None:
    if step_warning:
        print(f"warning: {step_warning}", file=sys.stderr)
    if far:
        print(
            f"warning: {len(far)} of {n_pairs} clips ({far[0].stem}, ...) differ from the truth by "
            "more than a tenth of the face; bring the order of vertices, the axes and the position "
            "to those of the truth",
            file=sys.stderr,
        )


def _table(scores: Scores, regions: dict[str, str], step: Fraction, has_templates: bool) -> str:
    """The scores as text lines, each with its unit and the vertices that it uses."""
    lips, upper = (
        f"vertices of {regions[name]}" if name in regions else f"needs --regions {name}=FILE"
        for name in REGIONS
    )
    upper += "" if has_templates else "; needs --templates FILE"
    rows = [
        ("LVE", scores.lve, "unit²", lips),
        ("FDD", scores.fdd, "unit²", upper),
        ("|FDD|", scores.abs_fdd, "unit²", upper),
        ("MVE", scores.mve, "unit", "all vertices"),
    ]
    lines = [
        f"{name:6}{'-' if value is None else format(value, '.4e'):>12} {unit:6} {region}"
        for name, value, unit, region in rows
    ]
    if step.denominator > 1:
        sampling = "the truth is resampled to the predictions' rate"
    else:
        sampling = f"{'every frame' if step == 1 else f'one frame in {step}'} of the truth is used"
    lines.append(f"{scores.clips} clips, {scores.frames} frames; {sampling}")
    return "\n".join(lines)
