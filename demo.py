"""From a recording to a talking head: `python demo.py --wav_path speech.wav`.

Writes `<out>/<name>.mp4`, the head speaking the recording, and `<out>/<name>.npy`, its vertices
(T, V, 3) float32 in the unit of the model's training data. Frame t is the instant t / fps; the
frames cover the whole recording.

`--checkpoint` also takes the weights that the paper's authors published (vocaset.pth, biwi.pth,
see `release`); `--dataset` says whose templates and topology they are for.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import Parser, UserError, run_cli, writable_folder
from config import PROJECT_ROOT, RECIPES, SAMPLE_RATE, DatasetSpec
from dataset.faces import choose_face, faces_of
from files.arrays import check_file
from rendering.animation import count_frames
from rendering.face import appearance
from synthetic.head import HEAD_FILE, channel_basis, load_head

DEMO_FOLDER = PROJECT_ROOT / "demo/wav"
CHECKPOINT = PROJECT_ROOT / "synthetic/model.safetensors"
RENDER_THREADS = 4  # at most; each holds a z-buffer of its own
BLINK_CLOSE_S, BLINK_HOLD_S, BLINK_OPEN_S = 0.08, 0.03, 0.16
BLINK_PAUSE_S = (2.0, 5.5)  # between blinks of a person at ease


@dataclass(frozen=True)
class Plan:
    """What will be made, checked as far as that is cheap."""

    wav_path: Path
    checkpoint: Path
    dataset: str | None  # a key of config.RECIPES
    out: Path
    subject: str | None
    template: Path | None
    fps: int | None
    size: int
    background: str
    renderer: str  # a key of `renderer.RENDERERS`
    video: bool
    blink: bool


# fmt: off
def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Raises `UserError` for flags that do not exist or do not fit."""
    parser = Parser(description="Make a 3D head speak a recording.")
    add = parser.add_argument
    add("--wav_path", type=Path, metavar="FILE",
        help="speech in wav, flac, mp3 or ogg, any rate and channels; default: the one in demo/wav")
    add("--subject", metavar="NAME",
        help="whose neutral face speaks; default: the model's first; a wrong name lists them all")
    add("--checkpoint", type=Path, metavar="FILE", default=CHECKPOINT,
        help="a model that main.py trained, or published weights (vocaset.pth, biwi.pth); "
             "default: synthetic/model.safetensors")
    add("--dataset", choices=list(RECIPES),
        help="whose faces the published weights move; default: the one with as many vertices")
    add("--template", type=Path, metavar="FILE",
        help="a neutral face of your own in the topology and unit of the model: .ply or .obj; "
             "of a .pkl or .npz the first")
    add("--out", type=Path, metavar="FOLDER", default=Path("out"), help="default: out")
    add("--fps", type=whole, metavar="N",
        help="frames a second; other than the model's own, motion is interpolated linearly")
    add("--size", type=whole, metavar="PIXELS", default=800,
        help="side of the square picture, even, 64 to 4096; default: 800")
    add("--background", metavar="COLOUR", default="white",
        help="a name, #rrggbb or r,g,b; default: white")
    add("--renderer", default="auto", metavar="NAME",
        help="software, gpu, pyrender; default: auto, which is gpu where a real one answers")
    add("--no_video", action="store_true", help="write the vertices only")
    add("--blink", action="store_true",
        help="add blinks, which no recording tells of (built-in synthetic head only)")
    return parser.parse_args(argv)
# fmt: on


def whole(text: str) -> int:
    """The number in `text`; argparse makes one line of the refusal."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: a whole number is wanted") from None


def check(args: argparse.Namespace) -> Plan:
    """The plan of a run. Raises `UserError` for all that can be seen wrong without loading much."""
    from rendering.renderer import check_size, choose_renderer, parse_colour

    check_size(args.size)
    parse_colour(args.background)
    if args.fps is not None and not 1 <= args.fps <= 240:
        raise UserError(f"--fps {args.fps}: give 1 to 240 frames a second")
    if args.subject is not None and args.template is not None:
        raise UserError("--subject and --template both name the face; give one of them")
    wav_path = args.wav_path or bundled_recording()
    for flag, path in (
        ("--wav_path", wav_path),
        ("--checkpoint", args.checkpoint),
        ("--template", args.template),
    ):
        if path is not None:
            check_file(path, flag)
    nearest = next(folder for folder in (args.out, *args.out.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"--out {args.out}: {nearest} is not a folder that can be written to")
    try:
        writable_folder(nearest)
    except UserError as error:
        raise UserError(f"--out {args.out}: {error}") from error
    if (args.out / f"{wav_path.stem}.mp4").resolve() == wav_path.resolve():
        raise UserError(f"--out {args.out}: the video would replace the recording {wav_path}")
    return Plan(
        wav_path=wav_path,
        checkpoint=args.checkpoint,
        dataset=args.dataset,
        out=args.out,
        subject=args.subject,
        template=args.template,
        fps=args.fps,
        size=args.size,
        background=args.background,
        renderer="software" if args.no_video else choose_renderer(args.renderer),
        video=not args.no_video,
        blink=args.blink,
    )


def bundled_recording() -> Path:
    """The first recording in demo/wav."""
    recordings = sorted(DEMO_FOLDER.glob("*.wav")) + sorted(DEMO_FOLDER.glob("*.flac"))
    if not recordings:
        raise UserError(f"no recording in {DEMO_FOLDER}; give one with --wav_path FILE")
    return recordings[0]


def blink_curve(n_frames: int, fps: int, seed: int = 1) -> NDArray[np.float32]:
    """(n_frames,) lid closure, 0 open to 1 shut, of a person who blinks at ease."""
    generator = np.random.default_rng(seed)
    time = np.arange(n_frames) / fps
    closure = np.zeros(n_frames)
    start = generator.uniform(0.4, 2.0)
    while start < n_frames / fps:
        after = time - start
        closing = np.clip(after / BLINK_CLOSE_S, 0.0, 1.0)
        opening = np.clip((after - BLINK_CLOSE_S - BLINK_HOLD_S) / BLINK_OPEN_S, 0.0, 1.0)
        closure = np.maximum(closure, closing * (1.0 - opening * opening * (3.0 - 2.0 * opening)))
        start += generator.uniform(*BLINK_PAUSE_S)
    return closure.astype(np.float32)


def with_blinks(meshes: Iterator[NDArray], n_frames: int, fps: int) -> Iterator[NDArray]:
    """The meshes of the synthetic head, with blinks added."""
    shut = channel_basis(load_head(), ["eyeBlink"])[0]
    for mesh, closure in zip(meshes, blink_curve(n_frames, fps), strict=True):
        yield mesh + closure * shut


def save_vertices(path: Path, meshes: Iterator[NDArray], shape: tuple[int, int, int]) -> None:
    """Stream `meshes` (V, 3) into the .npy `path` (T, V, 3) float32; memory for one is enough."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for mesh in meshes:
            file.write(np.ascontiguousarray(mesh, dtype="<f4").data)


def make_renderer(plan: Plan, spec: DatasetSpec, face: tuple[str, NDArray]):
    """The `Renderer` of the plan; fails here, before the network's work, where it cannot draw."""
    from rendering.renderer import Renderer

    return Renderer(
        faces_of(spec, plan.template),
        face[1],
        size=plan.size,
        background=plan.background,
        renderer=plan.renderer,
        **appearance(spec, face[0]),
    )


def draw(plan: Plan, renderer, vertices: NDArray, fps: int) -> None:
    """Draw `vertices` (T, V, 3) and mux them with the recording into `<out>/<name>.mp4`."""
    from rendering.video import write_video

    frames = renderer.frames(vertices, workers=min(RENDER_THREADS, os.cpu_count() or 1))
    progress = tqdm(frames, total=len(vertices), desc=f"drawing ({plan.renderer})", unit="frame")
    path = plan.out / f"{plan.wav_path.stem}.mp4"
    write_video(path, progress, len(vertices), fps, plan.wav_path)


def run(plan: Plan) -> Path:
    """Read, predict, draw, write; the path of the video, or of the vertices with --no_video."""
    from data_loader import load_wav
    from jambatalk import load_checkpoint

    audio = load_wav(plan.wav_path)
    checkpoint = load_checkpoint(plan.checkpoint, plan.dataset)
    spec = checkpoint.spec
    if plan.blink and spec.path(spec.topology) != HEAD_FILE:
        raise UserError(f"--blink: only the synthetic head can, this model is for {spec.name}")
    name, template = choose_face(spec, plan.subject, plan.template)
    fps = plan.fps or spec.fps
    n_frames = count_frames(len(audio), fps)
    seconds = len(audio) / SAMPLE_RATE
    print(f"{plan.wav_path}: {seconds:.2f} s for the face {name}, {n_frames} frames at {fps} fps")
    meshes = checkpoint.meshes(audio, template, fps)
    if plan.blink:
        meshes = with_blinks(meshes, n_frames, fps)
    return write(plan, spec, (name, template), meshes, n_frames)


def write(
    plan: Plan, spec: DatasetSpec, face: tuple[str, NDArray], meshes: Iterator, n_frames: int
) -> Path:
    """Write vertices and video; both appear under their names only when both are whole."""
    name = plan.wav_path.stem
    partial = plan.out / f".{name}.partial.npy"
    target = plan.out / f"{name}.npy"
    renderer = make_renderer(plan, spec, face) if plan.video else None
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        progress = tqdm(meshes, total=n_frames, desc="predicting", unit="frame")
        save_vertices(partial, progress, (n_frames, *face[1].shape))
        if renderer is not None:
            draw(plan, renderer, np.load(partial, mmap_mode="r"), plan.fps or spec.fps)
        os.replace(partial, target)
    except OSError as error:
        raise UserError(f"cannot write into {plan.out}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target.with_suffix(".mp4") if plan.video else target


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo and print, last, the path of what it made."""
    print(run(check(parse(argv))))


if __name__ == "__main__":
    sys.exit(run_cli(main))
