"""Pictures for papers: `python -m evaluation.figures --pred runs/pred --dataset synthetic`.

Writes errors.png, the mean error of every vertex over all clips on the face, and <clip>.png, stills
of truth, prediction and error. The predictions are those of any method, in the layout that
metrics.py reads, at the frame rate of the data set's recipe.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray

from common.errors import Parser, UserError, reason_of, run_cli, writable_folder
from common.frame_rates import parse_rate
from common.whole_file import whole_file
from config import RECIPES, DatasetSpec
from dataset.faces import find_faces, missing_faces, templates_of
from dataset.prepared import locate
from evaluation.pictures import SIZE, YAWS, error_map, strip, upper_limit
from evaluation.predictions import Clip, Pair, check_lengths, find_pairs, read_pair, subject_of
from metrics import errors_by_vertex
from rendering.face import appearance
from rendering.renderer import Renderer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STILLS = 6
FORMATS = ("png", "pdf", "svg")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags as given. Raises `UserError` for unknown flags and values of a wrong type."""
    parser = Parser(prog="python -m evaluation.figures",
                    description="Draw errors and stills of predictions.")  # fmt: skip
    add = parser.add_argument
    add("--pred", required=True, type=Path, metavar="DIR",
        help="predictions of any method, <clip>.npy of (T, V*3)")  # fmt: skip
    add("--dataset", required=True, metavar="NAME",
        help=f"{', '.join(RECIPES)}, or a folder of your own data: truth and faces")  # fmt: skip
    add("--clips", nargs="+", metavar="CLIP", help="clips to draw (default: all)")
    add("--times", nargs="+", type=float, metavar="SECONDS",
        help=f"instants of the stills (default: {STILLS}, evenly spaced)")  # fmt: skip
    add("--max_mm", type=float, metavar="MM",
        help="end of the colour scales, mm; the same for all methods that are compared "
        "(default: from the errors)")  # fmt: skip
    add("--format", choices=FORMATS, default="png", help="of the files (default png, 300 dpi)")
    add("--out", default="runs/figures", metavar="DIR", help="default runs/figures")
    args = parser.parse_args(argv)
    if args.max_mm is not None and not 0 < args.max_mm < np.inf:
        raise UserError(f"--max_mm {args.max_mm:g}: expected millimetres, more than 0")
    return args


@dataclass(frozen=True)
class Source:
    """Pairs of predictions and truth of a data set, with what is needed to draw them."""

    spec: DatasetSpec
    pairs: list[Pair]
    faces: NDArray
    templates: dict[str, NDArray]

    @classmethod
    def open(cls, spec: DatasetSpec, pred: Path, clips: Sequence[str] | None = None) -> "Source":
        """The pairs of the folder `pred`, or of some clips; raises `UserError` as `find_pairs`."""
        faces = find_faces(spec)
        if faces is None:
            raise UserError(missing_faces(spec))
        pairs = find_pairs(pred, spec.path(spec.root) / "vertices_npy")
        names = [pair.name for pair in pairs]
        if unknown := sorted(set(clips or ()) - set(names)):
            raise UserError(
                f"--clips {unknown[0]}: no such clip in {pred}, expected one of "
                f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            )
        pairs = [pair for pair in pairs if not clips or pair.name in clips]
        source = cls(spec, pairs, faces, templates_of(spec))
        check_lengths(pairs, source.step)
        return source

    @property
    def step(self) -> Fraction:
        """Captured frames for each predicted one."""
        return parse_rate(self.spec.source_fps, "source_fps") / self.spec.fps

    def clip(self, pair: Pair) -> Clip:
        """The meshes of a pair at the predictions' frame rate."""
        return read_pair(pair, self.step, {}, self.templates)

    def renderer(self, pair: Pair, yaw: float = 0.0) -> Renderer:
        """Draws the face of a pair's subject in front of white."""
        subject = subject_of(pair, self.templates)
        colours = appearance(self.spec, subject)
        return Renderer(self.faces, self.templates[subject], SIZE, yaw=yaw, **colours)

    def errors_mm(self) -> NDArray[np.float64]:
        """(V,) mean distance of every vertex over the frames of all clips, mm."""
        total, n_frames = np.zeros(self.spec.n_vertices), 0
        for clip in map(self.clip, self.pairs):
            total += errors_by_vertex(clip.prediction, clip.truth) * len(clip.truth)
            n_frames += len(clip.truth)
        return total / n_frames * self.spec.metres_per_unit * 1e3


def draw_errors(source: Source, max_mm: float | None = None) -> "Figure":
    """The figure of the mean errors of a source, on the neutral face of its first clip."""
    errors = source.errors_mm()
    views = [source.renderer(source.pairs[0], yaw) for yaw in YAWS]
    return error_map(views, errors, max_mm or upper_limit(errors))


def choose_frames(clip: Clip, fps: int, times: Sequence[float] | None, name: str) -> NDArray:
    """Frames (n,) at `times` in seconds, or evenly spaced; `UserError` beyond the clip's end."""
    length = len(clip.truth)
    if times is None:
        n = min(STILLS, length)
        return ((np.arange(n) + 0.5) * length / n).astype(int)
    frames = np.round(np.array(times) * fps).astype(int)
    if frames.min() < 0 or frames.max() >= length:
        raise UserError(
            f"--times {max(times, key=abs):g}: expected 0 to {(length - 1) / fps:.2f} seconds, the "
            f"length of {name}"
        )
    return frames


def draw_strips(
    source: Source,
    pairs: Sequence[Pair],
    times: Sequence[float] | None = None,
    max_mm: float | None = None,
) -> Iterator["Figure"]:
    """Figures of stills of clips at `times` in seconds, or evenly spaced; one scale for all."""
    stills = []
    for pair in pairs:
        clip = source.clip(pair)
        frames = choose_frames(clip, source.spec.fps, times, pair.name)
        prediction, truth = clip.prediction[frames], clip.truth[frames]
        errors = np.linalg.norm(prediction.astype(np.float64) - truth, axis=2)
        errors *= source.spec.metres_per_unit * 1e3
        stills.append((prediction, truth, errors, frames / source.spec.fps))
    limit = max_mm or upper_limit(np.concatenate([errors for _, _, errors, _ in stills]))
    for pair, still in zip(pairs, stills, strict=True):
        yield strip(source.renderer(pair), *still, limit)


def figures(source: Source, args: argparse.Namespace) -> Iterator[tuple[str, "Figure"]]:
    """Names and figures, one at a time."""
    yield "errors", draw_errors(source, args.max_mm)
    strips = draw_strips(source, source.pairs, args.times, args.max_mm)
    yield from zip((pair.name for pair in source.pairs), strips, strict=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw what the flags say. Raises `UserError` for bad flags and files."""
    args = parse(argv)
    from training.recipe import named_recipe

    spec, _ = locate(named_recipe(args.dataset, None)[0].dataset)
    source = Source.open(spec, args.pred, args.clips)
    out = writable_folder(args.out)
    for name, figure in figures(source, args):
        path = out / f"{name}.{args.format}"
        try:
            with whole_file(path) as partial:
                figure.savefig(partial)
        except OSError as error:
            raise UserError(f"figure {path}: cannot be written ({reason_of(error)})") from error
        print(path)


if __name__ == "__main__":
    sys.exit(run_cli(main))
