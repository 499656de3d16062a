"""Pictures for papers: `python -m evaluation.figures --pred runs/pred --dataset synthetic`.

Of all clips: errors.png, the mean error of every vertex on the face, and motion.png, how much every
vertex moves. Of every clip: <clip>.png, stills of truth, prediction and error, <clip>_opening.png,
the mouth's opening over the waveform, and on demand <clip>.mp4, truth beside prediction. The
predictions are those of any method, in the layout that metrics.py reads, at the frame rate of the
data set's recipe.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray

from common.errors import Parser, UserError, reason_of, run_cli, writable_folder
from common.whole_file import whole_file
from config import RECIPES, SAMPLE_RATE
from dataset.prepared import locate
from dataset.regions import find_inner_lips, given_inner_lips
from evaluation.comparison import HEIGHT, Comparison, Layout
from evaluation.opening import Opening, opening_figure
from evaluation.phones import Segments, load_phones, read_phones
from evaluation.pictures import YAWS, error_map, motion_map, strip, upper_limit
from evaluation.predictions import Clip, Pair
from evaluation.source import Source
from metrics import mouth_opening

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STILLS = 6
FORMATS = ("png", "pdf", "svg")
KINDS = {  # of --draw -> what it is
    "errors": "mean error of every vertex",
    "motion": "mean and standard deviation of every vertex's motion",
    "stills": "truth, prediction and error at some instants",
    "opening": "mouth opening of truth and prediction over the waveform",
    "video": "truth beside prediction with the sound, <clip>.mp4",
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags as given. Raises `UserError` for unknown flags and values of a wrong type."""
    parser = Parser(prog="python -m evaluation.figures",
                    description="Draw errors, motion and stills of predictions.")  # fmt: skip
    add = parser.add_argument
    add("--pred", required=True, type=Path, metavar="DIR",
        help="predictions of any method, <clip>.npy of (T, V*3)")  # fmt: skip
    add("--dataset", required=True, metavar="NAME",
        help=f"{', '.join(RECIPES)}, or a folder of your own data: truth, sound, faces"
        )  # fmt: skip
    add("--draw", nargs="+", choices=list(KINDS), metavar="KIND",
        help="; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
        + " (default: all but video)")  # fmt: skip
    add("--clips", nargs="+", metavar="CLIP", help="clips to draw (default: all)")
    add("--times", nargs="+", type=float, metavar="SECONDS",
        help=f"instants of the stills (default: {STILLS}, evenly spaced)")  # fmt: skip
    add("--max_mm", type=float, metavar="MM",
        help="end of the errors' colour scales, mm; the same for all methods that are compared "
        "(default: from the errors)")  # fmt: skip
    add("--error_panel", action="store_true",
        help="with video: the error as a third panel")  # fmt: skip
    add("--inner_lips", nargs="+", type=int, metavar="VERTEX",
        help="for opening: upper and lower vertex that touch when the mouth is shut, 3533 3509 for "
        "FLAME; several pairs are averaged (default: those of the data set)")  # fmt: skip
    add("--phones", type=Path, metavar="FILE",
        help="for opening: phones of the clips, a line of JSON each: name, and segments "
        "[[phone, start_s, end_s], ...] (default: those of the data set, if it has any)"
        )  # fmt: skip
    add("--format", choices=FORMATS, default="png", help="of pictures (default png, 300 dpi)")
    add("--out", default="runs/figures", metavar="DIR", help="default runs/figures")
    args = parser.parse_args(argv)
    if args.max_mm is not None and not 0 < args.max_mm < np.inf:
        raise UserError(f"--max_mm {args.max_mm:g}: expected millimetres, more than 0")
    if args.error_panel and "video" not in (args.draw or ()):
        raise UserError("--error_panel: a panel of videos; add --draw video")
    return args


def draw_errors(source: Source, max_mm: float | None = None) -> "Figure":
    """The figure of the mean errors of a source, on the neutral face of its first clip."""
    errors = source.errors_mm()
    views = [source.renderer(source.pairs[0], yaw) for yaw in YAWS]
    return error_map(views, errors, max_mm or upper_limit(errors))


def draw_motion(source: Source) -> "Figure":
    """The figure of every vertex's motion, on the neutral face of the first clip."""
    return motion_map(source.renderer(source.pairs[0]), source.motion_mm(), source.spec.fps)


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


def error_limit(
    source: Source, pairs: Sequence[Pair], times: Sequence[float] | None = None
) -> float:
    """The end in mm of one scale for the stills of all pairs, see `draw_strips`."""
    errors = []
    for pair in pairs:
        clip = source.clip(pair)
        frames = choose_frames(clip, source.spec.fps, times, pair.name)
        errors.append(source.frame_errors_mm(clip, frames))
    return upper_limit(np.concatenate(errors))


def draw_strips(
    source: Source,
    pairs: Sequence[Pair],
    times: Sequence[float] | None = None,
    max_mm: float | None = None,
) -> Iterator["Figure"]:
    """Figures of stills of clips at `times` in seconds, or evenly spaced; one scale for all."""
    limit = max_mm or error_limit(source, pairs, times)
    for pair in pairs:
        clip = source.clip(pair)
        frames = choose_frames(clip, source.spec.fps, times, pair.name)
        errors = source.frame_errors_mm(clip, frames)
        meshes = clip.prediction[frames], clip.truth[frames]
        yield strip(source.renderer(pair), *meshes, errors, frames / source.spec.fps, limit)


def clip_opening(
    source: Source, pair: Pair, inner_lips: tuple[list[int], list[int]], phones: dict[str, Segments]
) -> Opening:
    """The mouth opening of a pair; inner_lips: vertices of the upper and of the lower lip.

    Raises `UserError` where the clip has no recording.
    """
    from speech.audio import read_audio

    clip = source.clip(pair)
    truth, prediction = (
        mouth_opening(mesh, *inner_lips) * source.mm_per_unit
        for mesh in (clip.truth, clip.prediction)
    )
    sound = read_audio(source.audio(pair))
    return Opening(
        truth, prediction, source.spec.fps, sound, SAMPLE_RATE, phones.get(pair.name, [])
    )


def opening_parts(
    source: Source, args: argparse.Namespace
) -> tuple[tuple[list[int], list[int]], dict[str, Segments]]:
    """Vertices of the upper and lower inner lip, and the phones of clips ({} if unknown).

    Raises `UserError` where the vertices are not named or out of range, and for missing files.
    """
    spec = source.spec
    if args.inner_lips:
        inner_lips = given_inner_lips(args.inner_lips, spec.n_vertices)
    else:
        inner_lips = find_inner_lips(spec)
    if inner_lips is None:
        raise UserError(
            f"{spec.name} names no vertices of the inner lips; give --inner_lips UPPER LOWER"
        )
    phones = read_phones(args.phones) if args.phones else load_phones(spec)
    for pair in source.pairs:
        source.audio(pair)
    return inner_lips, phones


def draw_openings(source: Source, args: argparse.Namespace) -> Iterator[tuple[str, "Figure"]]:
    """Names and figures of mouth openings; none, and a line why, where nobody named them."""
    try:
        parts = opening_parts(source, args)
    except UserError as error:
        if args.draw or args.inner_lips or args.phones:
            raise
        print(f"no mouth opening: {error}")
        return
    for pair in source.pairs:
        yield f"{pair.name}_opening", opening_figure(clip_opening(source, pair, *parts))


def pictures(source: Source, args: argparse.Namespace) -> Iterator[tuple[str, "Figure"]]:
    """Names and figures, one at a time."""
    kinds = args.draw or list(KINDS)
    if "errors" in kinds:
        yield "errors", draw_errors(source, args.max_mm)
    if "motion" in kinds:
        yield "motion", draw_motion(source)
    if "stills" in kinds:
        strips = draw_strips(source, source.pairs, args.times, args.max_mm)
        yield from zip((pair.name for pair in source.pairs), strips, strict=True)
    if "opening" in kinds:
        yield from draw_openings(source, args)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of the path's ending. Raises `UserError`."""
    try:
        with whole_file(path) as partial:
            figure.savefig(partial)
    except OSError as error:
        raise UserError(f"figure {path}: cannot be written ({reason_of(error)})") from error


def draw_videos(source: Source, args: argparse.Namespace, out: Path) -> Iterator[Path]:
    """Write the videos of all clips; their paths, one at a time. Raises `UserError`."""
    for pair in source.pairs:
        source.audio(pair)  # a missing recording is an error before the first video
    layout = Layout(HEIGHT, args.error_panel)
    limit = args.max_mm or error_limit(source, source.pairs)
    for pair in source.pairs:
        path = out / f"{pair.name}.mp4"
        Comparison(source, pair, layout, limit).write(path)
        yield path


def main(argv: Sequence[str] | None = None) -> None:
    """Draw what the flags say. Raises `UserError` for bad flags and files."""
    args = parse(argv)
    from training.recipe import named_recipe

    spec, _ = locate(named_recipe(args.dataset, None)[0].dataset)
    source = Source.open(spec, args.pred, args.clips)
    out = writable_folder(args.out)
    for name, figure in pictures(source, args):
        path = out / f"{name}.{args.format}"
        save(figure, path)
        print(path, flush=True)
    if "video" in (args.draw or ()):
        for path in draw_videos(source, args, out):
            print(path, flush=True)


if __name__ == "__main__":
    sys.exit(run_cli(main))
