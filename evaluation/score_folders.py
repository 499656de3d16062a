"""The command `python metrics.py`: anybody's predictions scored against captured vertices."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.errors import Parser, UserError
from evaluation.predictions import check_step, find_pairs, is_far, read_pair, truth_step
from files.meshes import load_templates
from metrics import Scores, pool, score_clip

REGIONS = ("lips", "upper")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of `python metrics.py`."""
    parser = Parser(description="Score predicted vertices against captured ones.")
    add = parser.add_argument
    add("--pred", required=True, metavar="DIR", help="predictions: <clip>.npy, (T, V*3) each")
    add("--truth", required=True, metavar="DIR", help="captured vertices of the same names")
    region_help = "vertex indices: lips=FILE for LVE, upper=FILE for FDD (.txt, .npy, .pkl, .mat)"
    add("--regions", nargs="+", default=[], metavar="NAME=FILE", help=region_help)
    add("--templates", metavar="FILE", help="neutral faces of the subjects, for FDD (.pkl, .npz)")
    add("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


def parse_regions(given: Sequence[str]) -> dict[str, str]:
    """{"lips": FILE, "upper": FILE} of the words `lips=FILE upper=FILE`."""
    regions = {}
    for word in given:
        name, equals, file = word.partition("=")
        if name not in REGIONS or not equals or not file:
            raise UserError(f"--regions {word}: wanted lips=FILE or upper=FILE")
        regions[name] = file
    return regions


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, pair, score, print."""
    args = parse_arguments(argv)
    regions = parse_regions(args.regions)
    templates = load_templates(args.templates) if args.templates else {}
    pairs = find_pairs(Path(args.pred), Path(args.truth))
    step = truth_step(pairs)
    clips, far, missing = [], [], 0
    for pair in pairs:
        clip = read_pair(pair, step, regions, templates)
        clips.append(score_clip(clip.prediction, clip.truth, clip.template, clip.lips, clip.upper))
        missing += clip.missing
        if is_far(clips[-1].mve, clip.truth):
            far.append(pair.prediction)
    warning = check_step(pairs, step)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    if far:
        print(
            f"warning: {len(far)} of {len(pairs)} clips ({far[0].stem}, ...) are off by more than "
            "a tenth of the face: another order of vertices, axes or place than the truth's",
            file=sys.stderr,
        )
    scores = pool(clips)
    if args.json:
        print(json.dumps(asdict(scores)))
        return
    print(_table(scores, regions, step, bool(templates)))
    if missing:
        print(f"{missing} frames of the truth are behind the end of their prediction: not compared")
    left = set(Path(args.truth).rglob("*.npy")) - {pair.truth for pair in pairs}
    if left:
        print(f"{len(left)} clips of --truth have no prediction ({min(left).stem}, ...)")


def _table(scores: Scores, regions: dict[str, str], step: int, has_templates: bool) -> str:
    """The scores as lines for a person, each with its unit and its region file."""
    lips, upper = (regions.get(name, f"no {name}=FILE given") for name in ("lips", "upper"))
    upper += "" if has_templates else "; no --templates given"
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
    kept = "every frame" if step == 1 else f"one frame in {step}"
    lines.append(f"{scores.clips} clips, {scores.frames} frames; {kept} of the truth compared")
    return "\n".join(lines)
