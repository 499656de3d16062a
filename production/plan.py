"""What a run of demo.py does: `check(flags.parse(argv))` is its plan."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from common.errors import UserError
from export.clip import CurveGains
from files.arrays import check_file
from production.flags import (
    GAIN_LIMITS,
    OFFSET_LIMITS_MS,
    SEED_LIMITS,
    SMOOTH_LIMITS_MS,
    TRACK_LIMITS,
    TURN_LIMITS,
    YAW_LIMITS,
    ZOOM_LIMITS,
    rate_of,
)
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
from rendering.subtitles import Cue
from rendering.video_formats import PICTURES, check_video_format
from speech.encoder_backend import check_backend

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
