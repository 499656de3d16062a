"""The flags of demo.py: `check(parse(argv))` is the plan of a run."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from common.errors import Parser, UserError
from common.frame_rates import parse_rate
from config import BUNDLED_MODEL, RECIPES
from export.clip import CurveGains
from export.formats import FORMATS, GLB_TARGETS
from files.arrays import check_file
from layers import PRECISIONS
from production.arguments import float_argument, int_argument, size_argument
from production.jobs import (
    Job,
    bundled_recording,
    by_inode,
    check_job,
    check_out,
    find_recordings,
    names_of,
)
from production.shards import Shard, shard_of
from production.subtitles import subtitles_of
from rendering.animation import FPS_LIMITS
from rendering.subtitles import Cue
from rendering.video_formats import PICTURES, VIDEO_FORMATS, check_video_format
from speech.encoder_backend import check_backend

YAW_LIMITS = -90, 90  # degrees
TURN_LIMITS = 0, 90  # degrees
ZOOM_LIMITS = 0.2, 8
OFFSET_LIMITS_MS = -500, 500
SMOOTH_LIMITS_MS = 0, 200
GAIN_LIMITS = 0, 2
SEED_LIMITS = 0, 2**32 - 1
TRACK_LIMITS = 1, 999
TRANSPARENT = "transparent"  # of --background
FILE_ENDINGS = (".npy", ".mp4", ".mov", ".webm")  # with which --out names a file
# Fields of a plan.
NOT_OF_RESULTS = "jobs", "recordings", "shard", "several", "overwrite", "quiet"


@dataclass(frozen=True)
class Plan:
    """The checked flags of a run."""

    jobs: tuple[Job, ...]
    recordings: tuple[Path, ...]  # of all shards
    shard: Shard | None  # which part of the recordings this run makes
    several: bool  # more than one recording, a folder, or a shard
    audio_track: int | None  # from 1, see `speech.sound_file.open_sound`
    checkpoint: Path
    dataset: str | None  # a key of config.RECIPES
    subject: str | None
    template: Path | None
    fps: Fraction | None
    size: tuple[int, int]  # width, height in pixels
    yaw: int  # degrees, see `rendering.renderer.Camera`
    turn: int  # degrees, see `production.motion.swinging`
    zoom: float
    start_s: float
    end_s: float | None
    lip_offset_ms: int
    smooth_ms: int
    jaw: float  # gains, see `production.gains`
    lips: float
    background: str | None  # None: transparent
    precision: str  # of `layers.PRECISIONS`
    encoder_backend: str  # of `speech.encoder_backend.BACKENDS`
    renderer: str  # a key of `rendering.renderer.RENDERERS`
    video: bool
    cues: tuple[Cue, ...]
    burn_subtitles: bool
    blink: bool
    life: bool | None  # None: in the video of the synthetic head
    seed: int
    export: tuple[str, ...]  # keys of `export.formats.FORMATS`
    glb_targets: str | None  # of `export.formats.GLB_TARGETS`
    character: Path | None  # a user's own, see `export.character`
    curve_gains: CurveGains  # of single curves
    overwrite: bool
    quiet: bool

    @property
    def adds_to_files(self) -> bool:
        """Whether motion is added to the .npy and to exports."""
        return self.life is True or self.blink

    def flags(self) -> dict[str, Any]:
        """What the results depend on beside the recording, as JSON has it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in NOT_OF_RESULTS:
            del fields[name]
        for name in ("checkpoint", "template", "character"):
            if (path := fields[name]) is not None:
                fields[name] = [str(path.resolve()), path.stat().st_mtime_ns]
        return {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, int | float | list) else str(value)


# fmt: off
def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags as given. Raises `UserError` for unknown flags and values of a wrong type."""
    parser = Parser(description="Make a 3D head speak a recording.")
    add = parser.add_argument
    add("--wav_path", type=Path, nargs="+", metavar="FILE",
        help="speech in wav, flac, mp3, ogg, m4a, mp4 and others, any rate and channels; several "
             "files, and folders of them; default: the one in demo/wav")
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
    add("--out", type=Path, metavar="FOLDER", default=Path("out"),
        help="for one recording also the file: film.mp4, or film.npy with --no_video; "
             "default: out")
    add("--shard", metavar="N/M",
        help="make part N of M of the recordings, sorted by name: for job arrays, whose tasks may "
             "share --out")
    add("--overwrite", action="store_true",
        help="of several recordings, make those again whose results are complete")
    add("--fps", metavar="N",
        help="frames a second, 1 to 240, such as 25, 29.97 or 24000/1001; motion is resampled; "
             "default: the model's own rate")
    add("--start", type=float_argument, metavar="SECONDS", default=0.0,
        help="where in the recording to begin; default: 0")
    add("--end", type=float_argument, metavar="SECONDS",
        help="where in the recording to end; default: at its end")
    add("--lip_offset_ms", type=int_argument, metavar="MS", default=0,
        help="how much later than the sound the lips are, -500 to 500; default: 0")
    add("--smooth", type=int_argument, metavar="MS", default=0,
        help="smooth motion in time, standard deviation 0 to 200 ms; default: 0")
    add("--jaw", type=float_argument, metavar="FACTOR", default=1.0,
        help="open the jaw more or less, 0 to 2; lips that touch keep touching; default: 1")
    add("--lips", type=float_argument, metavar="FACTOR", default=1.0,
        help="round, spread and open the lips more or less, 0 to 2; default: 1")
    add("--size", type=size_argument, metavar="PIXELS", default=(800, 800),
        help="side of the square picture, or WIDTHxHEIGHT, even, 64 to 4096; default: 800")
    add("--yaw", type=int_argument, metavar="DEGREES", default=0,
        help="turn of the head in the picture, -90 to 90, positive to the viewer's right; "
             "default: 0")
    add("--turn", type=int_argument, metavar="DEGREES", default=0,
        help="turn the head slowly so far to both sides of --yaw, 0 to 90; default: 0")
    add("--zoom", type=float_argument, metavar="FACTOR", default=1.0,
        help="enlarge the head, 0.2 to 8; default: 1, the whole head")
    add("--background", metavar="COLOUR", default="white",
        help="a name, #rrggbb or r,g,b, or transparent for mov, webm and png; default: white")
    add("--video_format", choices=list(VIDEO_FORMATS), metavar="FORMAT",
        help="mp4, mov (ProRes), webm (VP9) or png (a folder of pictures, without sound); "
             "default: the ending of --out, else mp4")
    add("--encoder_backend", default="torch", metavar="NAME",
        help="torch, or onnx: onnxruntime with 8-bit products, for the included encoder on a "
             "processor; default: torch")
    add("--precision", choices=PRECISIONS, default="fp32",
        help="of the speech encoder's matrix products: fp32, bf16, int8 (8-bit, on a processor), "
             "or auto: bf16 where the hardware multiplies it, else fp32; default: fp32")
    add("--subtitles", type=Path, metavar="FILE.srt",
        help="a track of subtitles for the video of one recording, in time of the recording")
    add("--burn_subtitles", action="store_true",
        help="draw --subtitles into the picture instead; for every kind of video")
    add("--renderer", default="auto", metavar="NAME",
        help="software, gpu, pyrender; default: auto, which is gpu if moderngl is installed and a "
             "hardware GPU draws, else software")
    add("--no_video", action="store_true", help="write the vertices only")
    add("--blink", action="store_true",
        help="add blinks only (bundled synthetic head only)")
    add("--life", action=argparse.BooleanOptionalAction,
        help="add blinks, glances and head motion by rules, to all files; default: to the video of "
             "the synthetic head only")
    add("--seed", type=int_argument, metavar="N", default=1,
        help="of --life and --blink: another number, other times; default: 1")
    add("--export", nargs="+", choices=list(FORMATS), default=[], metavar="FORMAT",
        help=f"also write files for other programs: {', '.join(FORMATS)}")
    add("--glb_targets", choices=GLB_TARGETS, metavar="TARGETS",
        help="morph targets of --export glb: pca, the fewest within 0.1 mm, or arkit, ARKit's "
             "units by name; default: pca")
    add("--character", type=Path, metavar="FILE",
        help="your own character with named shapes, .glb, .vrm, .gltf or a folder of .obj: also "
             "write it with the animation, and its sound")
    add("--gain", nargs="+", action="extend", default=[], metavar="NAME=FACTOR",
        help="factors of single curves of --export and --character, such as jawOpen=1.2 "
             "mouthClose=0.9")
    add("--quiet", action="store_true",
        help="print the paths of the results, warnings and errors only")
    return parser.parse_args(argv)
# fmt: on


def rate_of(text: str) -> Fraction:
    """The exact frame rate of --fps. Raises `UserError`."""
    low, high = FPS_LIMITS
    try:
        rate = parse_rate(text, "--fps")
    except UserError:
        rate = Fraction(0)
    if not low <= rate <= high:
        raise UserError(
            f"--fps {text}: expected {low} to {high} frames a second, such as 25, 29.97 or "
            "24000/1001"
        )
    return rate


def check(args: argparse.Namespace) -> Plan:
    """The plan of a run. Raises `UserError` for all errors that show before a model is loaded.

    Of several recordings, those that are no files are left to the run, which goes on without them.
    """
    from rendering.renderer import check_transparent, choose_renderer
    from speech.ffmpeg import find_ffmpeg

    check_values(args)
    given = args.wav_path or [bundled_recording()]
    shard = shard_of(args.shard)
    several = len(given) > 1 or given[0].is_dir() or shard is not None
    recordings = find_recordings(given)
    jobs = plan_jobs(recordings, several, args)
    for flag, path in (
        ("--wav_path", None if several else recordings[0]),
        ("--checkpoint", args.checkpoint),
        ("--template", args.template),
    ):
        if path is not None:
            check_file(path, flag)
    if args.character is not None and not args.character.is_dir():
        check_file(args.character, "--character")
    check_out(jobs[0].npy.parent)
    if not several:
        check_job(jobs[0], by_inode(recordings))
    if not args.no_video:
        find_ffmpeg()
        for folder in filter(Path.is_dir, given):
            if args.out.exists() and args.out.samefile(folder):
                raise UserError(
                    f"--out {args.out}: its videos would be taken for recordings of --wav_path "
                    f"{folder} the next time; name another folder"
                )
    if args.no_video:
        renderer = "software"
    elif args.background == TRANSPARENT:
        check_transparent(args.renderer)
        renderer = "software"
    else:
        renderer = choose_renderer(args.renderer)
    return Plan(
        jobs=jobs if shard is None else shard.jobs(jobs),
        recordings=tuple(recordings),
        shard=shard,
        several=several,
        audio_track=args.audio_track,
        checkpoint=args.checkpoint,
        dataset=args.dataset,
        subject=args.subject,
        template=args.template,
        fps=None if args.fps is None else rate_of(args.fps),
        size=args.size,
        yaw=args.yaw,
        turn=args.turn,
        zoom=args.zoom,
        start_s=args.start,
        end_s=args.end,
        lip_offset_ms=args.lip_offset_ms,
        smooth_ms=args.smooth,
        jaw=args.jaw,
        lips=args.lips,
        background=None if args.background == TRANSPARENT else args.background,
        precision=args.precision,
        encoder_backend=args.encoder_backend,
        renderer=renderer,
        video=not args.no_video,
        cues=subtitles_of(args.subtitles, args.burn_subtitles, jobs),
        burn_subtitles=args.burn_subtitles,
        blink=args.blink,
        life=args.life,
        seed=args.seed,
        export=tuple(args.export),
        glb_targets=args.glb_targets,
        character=args.character,
        curve_gains=curve_gains_of(args.gain),
        overwrite=args.overwrite,
        quiet=args.quiet,
    )


def curve_gains_of(texts: Sequence[str]) -> CurveGains:
    """The factors of --gain. Raises `UserError`."""
    if not texts:
        return ()
    from export.gains import parse_gains  # imports scipy

    return parse_gains(texts)


def check_values(args: argparse.Namespace) -> None:
    """Raise `UserError` for values that no run can have."""
    from rendering.renderer import check_size, parse_colour

    check_size(args.size)
    check_backend(args.encoder_backend)
    if args.background != TRANSPARENT:
        parse_colour(args.background)
    if args.fps is not None:
        rate_of(args.fps)
    if args.start < 0 or (args.end is not None and args.end <= args.start):
        raise UserError(
            f"--start {args.start:g} --end {args.end}: expected seconds from 0 on, and the end "
            "after the start"
        )
    for flag, value, (low, high) in (
        ("--yaw", args.yaw, YAW_LIMITS),
        ("--turn", args.turn, TURN_LIMITS),
        ("--zoom", args.zoom, ZOOM_LIMITS),
        ("--lip_offset_ms", args.lip_offset_ms, OFFSET_LIMITS_MS),
        ("--smooth", args.smooth, SMOOTH_LIMITS_MS),
        ("--jaw", args.jaw, GAIN_LIMITS),
        ("--lips", args.lips, GAIN_LIMITS),
        ("--seed", args.seed, SEED_LIMITS),
        ("--audio_track", args.audio_track, TRACK_LIMITS),
    ):
        if value is not None and not low <= value <= high:
            raise UserError(f"{flag} {value}: expected {low} to {high}")
    if args.subject is not None and args.template is not None:
        raise UserError("--subject and --template: both name the face; give one of them")


def plan_jobs(
    recordings: Sequence[Path], several: bool, args: argparse.Namespace
) -> tuple[Job, ...]:
    """A job for each recording, with the names that --out and the recordings give its files."""
    kind = args.video_format or "mp4"
    ending = args.out.suffix.lower()
    if ending not in FILE_ENDINGS or args.out.is_dir():
        check_video_format(kind, args.background == TRANSPARENT)
        suffix = "_png" if kind == PICTURES else f".{kind}"
        return tuple(
            Job(
                path,
                args.out / f"{name}.npy",
                None if args.no_video else args.out / (name + suffix),
            )
            for path, name in zip(recordings, names_of(recordings), strict=True)
        )
    if several:
        raise UserError(
            f"--out {args.out}: expected a folder for several recordings, got the name of a file"
        )
    if args.no_video and ending != ".npy":
        raise UserError(f"--out {args.out}: expected .npy with --no_video")
    if not args.no_video and ending == ".npy":
        raise UserError(f"--out {args.out}: expected .mp4 without --no_video")
    if args.video_format not in (None, ending[1:]):
        raise UserError(
            f"--out {args.out}: expected a folder or the ending of --video_format "
            f"{args.video_format}"
        )
    if not args.no_video:
        check_video_format(ending[1:], args.background == TRANSPARENT)
    npy = args.out.with_name(f"{args.out.stem}.npy")
    return (Job(recordings[0], npy, None if args.no_video else args.out),)
