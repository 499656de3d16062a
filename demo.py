"""From a recording to a talking head: `python demo.py --wav_path speech.wav`.

Writes `<out>/<name>.mp4`, the head speaking the recording, and `<out>/<name>.npy`, its vertices
(T, V, 3) float32 in the unit of the model's training data; <name> is that of the recording. Frame t
is the instant t / fps, and the frames cover the whole recording. `--export` adds files that other
programs open.

`--checkpoint` also takes the weights that the paper's authors published (vocaset.pth, biwi.pth);
`--dataset` names the data set whose templates and topology they are for.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import Parser, UserError, reason_of, run_cli, writable_folder
from common.whole_file import whole_file
from config import BUNDLED_MODEL, PROJECT_ROOT, RECIPES, SAMPLE_RATE, DatasetSpec
from dataset.faces import choose_face, faces_of
from export.clip import SYNTHETIC, Clip
from export.formats import FORMATS, GLB_TARGETS, check_formats, write_formats
from files.arrays import check_file, stream_npy
from files.listing import list_files
from rendering.animation import FPS_LIMITS, RENDER_THREADS
from rendering.face import appearance
from speech.encoder_backend import check_backend
from speech.timing import covering_frames
from synthetic.head import HEAD_FILE, channel_basis, load_head

if TYPE_CHECKING:
    from rendering.renderer import Renderer

DEMO_FOLDER = PROJECT_ROOT / "demo/wav"
BLINK_CLOSE_S, BLINK_HOLD_S, BLINK_OPEN_S = 0.08, 0.03, 0.16
BLINK_PAUSE_S = (2.0, 5.5)  # between the blinks of a relaxed person
BLINK_SEED = 1
YAW_LIMITS = -90, 90  # degrees
TRACK_LIMITS = 1, 999


@dataclass(frozen=True)
class Plan:
    """The checked flags of a run."""

    wav_path: Path
    audio_track: int | None  # from 1, see `speech.sound_file.open_sound`
    checkpoint: Path
    dataset: str | None  # a key of config.RECIPES
    out: Path
    subject: str | None
    template: Path | None
    fps: int | None
    size: int
    yaw: int  # degrees, see `rendering.renderer.Camera`
    background: str
    encoder_backend: str  # of `speech.encoder_backend.BACKENDS`
    renderer: str  # a key of `rendering.renderer.RENDERERS`
    video: bool
    blink: bool
    export: tuple[str, ...]  # keys of `export.formats.FORMATS`
    glb_targets: str | None  # of `export.formats.GLB_TARGETS`


# fmt: off
def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags as given. Raises `UserError` for unknown flags and values of a wrong type."""
    parser = Parser(description="Make a 3D head speak a recording.")
    add = parser.add_argument
    add("--wav_path", type=Path, metavar="FILE",
        help="speech in wav, flac, mp3, ogg, m4a, mp4 and others, any rate and channels; default: "
             "the one in demo/wav")
    add("--audio_track", type=int_argument, metavar="N",
        help="which audio track of a video speaks, from 1; default: the one flagged default, else "
             "that with the most channels, else the first")
    add("--subject", metavar="NAME",
        help="whose neutral face speaks; default: the model's first; a wrong name lists them all")
    add("--checkpoint", type=Path, metavar="FILE", default=BUNDLED_MODEL,
        help="a model that main.py trained, or published weights (vocaset.pth, biwi.pth); "
             "default: synthetic/model.safetensors")
    add("--dataset", choices=list(RECIPES),
        help="data set of published weights; default: the one with their number of vertices")
    add("--template", type=Path, metavar="FILE",
        help="a neutral face of your own in the topology and unit of the model: .ply, .obj, or "
             "the first face of a .pkl or .npz")
    add("--out", type=Path, metavar="FOLDER", default=Path("out"), help="default: out")
    add("--fps", type=int_argument, metavar="N",
        help="frames a second, 1 to 240, interpolated linearly; default: the model's own rate")
    add("--size", type=int_argument, metavar="PIXELS", default=800,
        help="side of the square picture, even, 64 to 4096; default: 800")
    add("--yaw", type=int_argument, metavar="DEGREES", default=0,
        help="turn of the head in the picture, -90 to 90, positive to the viewer's right; "
             "default: 0")
    add("--background", metavar="COLOUR", default="white",
        help="a name, #rrggbb or r,g,b; default: white")
    add("--encoder_backend", default="torch", metavar="NAME",
        help="torch, or onnx: onnxruntime with 8-bit products, for the included encoder on a "
             "processor; default: torch")
    add("--renderer", default="auto", metavar="NAME",
        help="software, gpu, pyrender; default: auto, which is gpu if moderngl is installed and a "
             "hardware GPU draws, else software")
    add("--no_video", action="store_true", help="write the vertices only")
    add("--blink", action="store_true",
        help="add blinks at random times (bundled synthetic head only)")
    add("--export", nargs="+", choices=list(FORMATS), default=[], metavar="FORMAT",
        help=f"also write files for other programs: {', '.join(FORMATS)}")
    add("--glb_targets", choices=GLB_TARGETS, metavar="TARGETS",
        help="morph targets of --export glb: pca, the fewest within 0.1 mm, or arkit, ARKit's "
             "units by name; default: pca")
    return parser.parse_args(argv)
# fmt: on


def int_argument(text: str) -> int:
    """The whole number in `text`; argparse adds the flag's name to the error."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number") from None


def check(args: argparse.Namespace) -> Plan:
    """The plan of a run. Raises `UserError` for all errors that show before a model is loaded."""
    from rendering.renderer import check_size, choose_renderer, parse_colour
    from speech.ffmpeg import find_ffmpeg

    check_size(args.size)
    check_backend(args.encoder_backend)
    parse_colour(args.background)
    for flag, value, (low, high) in (
        ("--fps", args.fps, FPS_LIMITS),
        ("--yaw", args.yaw, YAW_LIMITS),
        ("--audio_track", args.audio_track, TRACK_LIMITS),
    ):
        if value is not None and not low <= value <= high:
            raise UserError(f"{flag} {value}: expected {low} to {high}")
    if args.subject is not None and args.template is not None:
        raise UserError("--subject and --template: both name the face; give one of them")
    wav_path = args.wav_path or bundled_recording()
    for flag, path in (
        ("--wav_path", wav_path),
        ("--checkpoint", args.checkpoint),
        ("--template", args.template),
    ):
        if path is not None:
            check_file(path, flag)
    check_out(args.out, wav_path)
    if not args.no_video:
        find_ffmpeg()
    return Plan(
        wav_path=wav_path,
        audio_track=args.audio_track,
        checkpoint=args.checkpoint,
        dataset=args.dataset,
        out=args.out,
        subject=args.subject,
        template=args.template,
        fps=args.fps,
        size=args.size,
        yaw=args.yaw,
        background=args.background,
        encoder_backend=args.encoder_backend,
        renderer="software" if args.no_video else choose_renderer(args.renderer),
        video=not args.no_video,
        blink=args.blink,
        export=tuple(args.export),
        glb_targets=args.glb_targets,
    )


def check_out(out: Path, wav_path: Path) -> None:
    """Raise `UserError` unless files of this recording can be written into `out`.

    `out` itself is not created yet: that would leave an empty folder behind a failed run.
    """
    folders = out, *out.absolute().parents
    if link := next((path for path in folders if path.is_symlink() and not path.exists()), None):
        raise UserError(f"--out {out}: {link} is a link that leads nowhere; name another folder")
    nearest = next(folder for folder in folders if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"--out {out}: {nearest} is not a folder; name another")
    try:
        writable_folder(nearest)
    except UserError as error:
        raise UserError(f"--out {out}: {error}") from error
    for suffix in (".npy", ".mp4"):
        try:
            os.lstat(nearest / f"{wav_path.stem}{suffix}")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UserError(
                f"--wav_path {wav_path}: its results cannot have this name "
                f"({reason_of(error)}); rename the recording"
            ) from error
    video = out / f"{wav_path.stem}.mp4"
    if video.exists() and video.samefile(wav_path):
        raise UserError(f"--out {out}: the video would replace the recording {wav_path}; "
                        "name another folder")  # fmt: skip


def bundled_recording() -> Path:
    """The first recording in demo/wav."""
    recordings = list_files(DEMO_FOLDER, (".wav",)) + list_files(DEMO_FOLDER, (".flac",))
    if not recordings:
        raise UserError(f"no recording in {DEMO_FOLDER}; give one with --wav_path FILE")
    return recordings[0]


def blink_curve(n_frames: int, fps: int) -> NDArray[np.float32]:
    """(n_frames,) lid closure, 0 open to 1 shut, of a relaxed person who blinks now and then."""
    generator = np.random.default_rng(BLINK_SEED)
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


def make_renderer(plan: Plan, spec: DatasetSpec, face: tuple[str, NDArray]) -> "Renderer":
    """The `Renderer` of a plan; called before the prediction, so that its errors come early."""
    from rendering.renderer import Renderer

    return Renderer(
        faces_of(spec, plan.template),
        face[1],
        size=plan.size,
        background=plan.background,
        renderer=plan.renderer,
        yaw=plan.yaw,
        **appearance(spec, face[0]),
    )


def draw(plan: Plan, renderer: "Renderer", vertices: NDArray, fps: int) -> None:
    """Draw `vertices` (T, V, 3) and mux them with the recording into `<out>/<name>.mp4`."""
    from rendering.video import write_video

    frames = renderer.frames(vertices, workers=min(RENDER_THREADS, os.cpu_count() or 1))
    progress = tqdm(frames, total=len(vertices), desc=f"drawing ({plan.renderer})", unit="frame")
    path = plan.out / f"{plan.wav_path.stem}.mp4"
    write_video(path, progress, len(vertices), fps, plan.wav_path, plan.audio_track)


def topology_of(spec: DatasetSpec) -> str:
    """The topology of a data set, by the names of `export.clip.Clip`."""
    return SYNTHETIC if spec.path(spec.topology) == HEAD_FILE else spec.name


def clip_of(plan: Plan, spec: DatasetSpec, face: tuple[str, NDArray], vertices: NDArray) -> Clip:
    """What `--export` writes; face: name and template (V, 3); vertices: (T, V, 3)."""
    return Clip(
        vertices=vertices,
        template=face[1],
        faces=faces_of(spec, plan.template),
        fps=Fraction(plan.fps or spec.fps),
        metres_per_unit=spec.metres_per_unit,
        name=plan.wav_path.stem,
        colors=appearance(spec, face[0]).get("colors"),
        topology=topology_of(spec),
        audio=plan.wav_path,
    )


def run(plan: Plan) -> Path:
    """Read, predict, draw, write; the path of the video, or of the vertices with --no_video."""
    from data_loader import load_wav
    from jambatalk import load_checkpoint

    audio = load_wav(plan.wav_path, plan.audio_track)
    checkpoint = load_checkpoint(plan.checkpoint, plan.dataset, plan.encoder_backend)
    spec = checkpoint.spec
    if plan.blink and spec.path(spec.topology) != HEAD_FILE:
        raise UserError(
            f"--blink: works with the bundled synthetic head only, {plan.checkpoint} is for "
            f"{spec.name}; leave it out"
        )
    name, template = choose_face(spec, plan.subject, plan.template)
    check_formats(plan.export, topology_of(spec), plan.glb_targets)
    if plan.export:
        faces_of(spec, plan.template)  # its error comes before the prediction
    fps = plan.fps or spec.fps
    n_frames = covering_frames(len(audio), fps)
    seconds = len(audio) / SAMPLE_RATE
    print(f"{plan.wav_path}: {seconds:.2f} s for the face {name}, {n_frames} frames at {fps} fps")
    meshes = checkpoint.meshes(audio, template, fps)
    if plan.blink:
        meshes = with_blinks(meshes, n_frames, fps)
    return write(plan, spec, (name, template), meshes, n_frames)


def write(
    plan: Plan, spec: DatasetSpec, face: tuple[str, NDArray], meshes: Iterator, n_frames: int
) -> Path:
    """Write vertices and video; neither replaces an older file before both are complete."""
    target = plan.out / f"{plan.wav_path.stem}.npy"
    result = target.with_suffix(".mp4") if plan.video else target
    renderer = make_renderer(plan, spec, face) if plan.video else None
    if result.exists():
        print(f"{result} exists and will be replaced")
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as partial:
            progress = tqdm(meshes, total=n_frames, desc="predicting", unit="frame")
            stream_npy(partial, (n_frames, *face[1].shape), progress)
            vertices = np.load(partial, mmap_mode="r")
            if plan.export:
                clip = clip_of(plan, spec, face, vertices)
                print(*write_formats(clip, plan.export, plan.out, plan.glb_targets), sep="\n")
            if renderer is not None:
                draw(plan, renderer, vertices, plan.fps or spec.fps)
    except OSError as error:
        raise UserError(f"--out {plan.out}: cannot be written ({reason_of(error)})") from error
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo; the last line printed is the path of the video or of the vertices."""
    print(run(check(parse(argv))))


if __name__ == "__main__":
    sys.exit(run_cli(main))
