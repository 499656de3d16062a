"""The command `python metrics.py`: scores folders of predicted vertices against captured ones.

`score_folder` is the same for other programs.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import Parser, UserError
from common.frame_rates import parse_rate
from common.units import UNNAMED, guess_unit, metric_units
from dataset.regions import given_inner_lips
from evaluation.misalignment import Misalignment, temporal_misalignment
from evaluation.predictions import (
    Clip,
    check_lengths,
    check_step,
    find_pairs,
    is_far,
    read_pair,
    truth_step,
)
from files.listing import list_files
from files.meshes import load_templates
from metrics import Scores, mouth_opening, mouth_opening_correlation, pool, score_clip

REGIONS = ("lips", "upper")


@dataclass(frozen=True)
class Protocol:
    """How predictions are scored: what all methods that are compared have to have in common.

    regions: "lips", "upper" -> file; pred_fps: needed for MTM; step: frames of the truth for each
    predicted one, None to infer it; inner_lips: vertices in pairs, upper, lower, ...; unit: of the
    vertices, "" to infer it from the size of the faces.
    """

    regions: dict[str, str] = field(default_factory=dict)
    templates: dict[str, NDArray] = field(default_factory=dict)
    pred_fps: Fraction | None = None
    step: Fraction | None = None
    inner_lips: tuple[int, ...] = ()
    unit: str = ""


@dataclass(frozen=True)
class Result:
    """Scores of a folder of predictions; those of the mouth are None without inner lips.

    unit: of the vertices; is_inferred: whether the faces' size told it; notes: lines on frames and
    clips that were not scored.
    """

    scores: Scores
    opening_r: float | None
    mtm_ms: float | None
    mtm_extrema: int | None
    unit: str
    is_inferred: bool
    step: Fraction
    notes: list[str]

    def as_json(self) -> dict:
        """All figures, None for missing ones, and their units."""
        mouth = {name: getattr(self, name) for name in ("opening_r", "mtm_ms", "mtm_extrema")}
        figures = asdict(self.scores) | mouth
        units = {k: unit for k, unit in metric_units(self.unit).items() if k in figures}
        return figures | {"units": units}


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
    add("--inner_lips", nargs="+", type=int, default=[], metavar="VERTEX",
        help="upper and lower vertex that touch when the mouth is shut, or several such pairs, for "
        "MTM and the correlation of the mouth's opening; needs --pred_fps")  # fmt: skip
    add("--unit", default="", metavar="NAME",
        help="unit of the vertices, such as m or mm (default: by the size of the faces)"
        )  # fmt: skip
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
    if args.inner_lips and args.pred_fps is None:
        raise UserError("--inner_lips: MTM is in milliseconds; add --pred_fps and --truth_fps")
    if args.pred_fps is None:
        return None
    return parse_rate(args.truth_fps, "--truth_fps") / parse_rate(args.pred_fps, "--pred_fps")


def score_folder(pred: Path, truth: Path, protocol: Protocol) -> Result:
    """Pair the files of two folders and score every pair; warnings go to stderr.

    Raises `UserError` for files that do not fit each other or the protocol.
    """
    pairs = find_pairs(pred, truth)
    if protocol.step is not None:
        check_lengths(pairs, protocol.step)
    step = protocol.step or truth_step(pairs)
    clips, far, unscored, mouths, extent = [], [], 0, [], 0.0
    for pair in pairs:
        clip = read_pair(pair, step, protocol.regions, protocol.templates)
        clips.append(score_clip(clip.prediction, clip.truth, clip.template, clip.lips, clip.upper))
        unscored += clip.unscored
        extent = max(extent, float(np.ptp(clip.truth[0], axis=0).max()))
        if protocol.inner_lips:
            mouths.append(_mouth(clip, protocol))
        if is_far(clips[-1].mve, clip.truth):
            far.append(pair.prediction)
    _warn("" if protocol.step else check_step(pairs, step), far, len(pairs))
    notes = [f"frames of the truth after the end of their prediction, not scored: {unscored}"]
    notes = notes if unscored else []
    rest = set(list_files(truth, (".npy",), deep=True)) - {pair.truth for pair in pairs}
    if rest:
        notes.append(f"clips of --truth without a prediction: {len(rest)} ({min(rest).stem}, ...)")
    unit = protocol.unit or guess_unit(extent)
    return Result(pool(clips), *_pooled(mouths), unit, not protocol.unit, step, notes)


def _mouth(clip: Clip, protocol: Protocol) -> tuple[float, Misalignment]:
    """Correlation of the opening with the truth's, and the MTM, of a clip."""
    sides = given_inner_lips(protocol.inner_lips, clip.truth.shape[1])
    predicted, true = (mouth_opening(v, *sides) for v in (clip.prediction, clip.truth))
    misalignment = temporal_misalignment(predicted, true, float(protocol.pred_fps))
    return mouth_opening_correlation(predicted, true), misalignment


def _pooled(
    mouths: list[tuple[float, Misalignment]],
) -> tuple[float | None, float | None, int | None]:
    """Means over the clips that have a value: opening r and MTM in ms; number of extrema."""
    if not mouths:
        return None, None, None
    columns = [r for r, _ in mouths], [misalignment.ms for _, misalignment in mouths]
    valid = [[value for value in column if not np.isnan(value)] for column in columns]
    means = [float(np.mean(values)) if values else None for values in valid]
    return means[0], means[1], sum(misalignment.extrema for _, misalignment in mouths)


def main(argv: Sequence[str] | None = None) -> None:
    """Pair the files of two folders, score every pair, print the pooled scores."""
    args = parse_arguments(argv)
    step = given_step(args)
    protocol = Protocol(
        parse_regions(args.regions),
        load_templates(args.templates) if args.templates else {},
        parse_rate(args.pred_fps, "--pred_fps") if args.pred_fps else None,
        step, tuple(args.inner_lips), args.unit,
    )  # fmt: skip
    result = score_folder(Path(args.pred), Path(args.truth), protocol)
    if args.json:
        print(json.dumps(result.as_json()))
        return
    print("\n".join([_table(result, protocol), *result.notes]))


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


def _table(result: Result, protocol: Protocol) -> str:
    """The scores as text lines, each with its unit and the vertices that it uses."""
    scores, regions = result.scores, protocol.regions
    lips, upper = (
        f"vertices of {regions[name]}" if name in regions else f"needs --regions {name}=FILE"
        for name in REGIONS
    )
    upper += "" if protocol.templates else "; needs --templates FILE"
    units = metric_units(result.unit)
    rows = [
        ("LVE", scores.lve, units["lve"], lips),
        ("FDD", scores.fdd, units["fdd"], upper),
        ("|FDD|", scores.abs_fdd, units["fdd"], upper),
        ("MVE", scores.mve, units["mve"], "all vertices"),
    ]
    if protocol.inner_lips:
        inner = f"inner lips {' '.join(map(str, protocol.inner_lips))}"
        rows += [
            ("gap r", result.opening_r, "", inner),
            ("MTM", result.mtm_ms, "ms", f"{inner}; {result.mtm_extrema} matched extrema"),
        ]
    lines = [
        f"{name:6}{'-' if value is None else format(value, '.4e'):>12} {unit:6} {region}"
        for name, value, unit, region in rows
    ]
    if result.is_inferred and result.unit != UNNAMED:
        lines.append(f"unit: {result.unit}, by the size of the faces; --unit names another")
    elif result.is_inferred:
        lines.append("unit: that of the files; --unit names it")
    step = result.step
    if step.denominator > 1:
        sampling = "the truth is resampled to the predictions' rate"
    else:
        sampling = f"{'every frame' if step == 1 else f'one frame in {step}'} of the truth is used"
    lines.append(f"{scores.clips} clips, {scores.frames} frames; {sampling}")
    return "\n".join(lines)
