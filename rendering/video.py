"""Frames to a video with sound: `write_video` pipes frames into the ffmpeg of imageio-ffmpeg."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.whole_file import unfinished_name, whole_file, whole_folder
from rendering.sound_track import write_samples
from rendering.subtitles import Cue, part_of, srt_of
from rendering.video_formats import (
    PICTURES,
    VIDEO_FORMATS,
    YUV_INPUT,
    VideoFormat,
    is_yuv,
    kind_of,
)
from rendering.yuv import yuv_of
from speech import ffmpeg

PIPE_BYTES = 1 << 20  # the default limit of Linux, /proc/sys/fs/pipe-max-size
SAMPLE_BYTES = 8  # of two float32, the most channels that `write_samples` keeps


def write_video(
    path: Path,
    frames: Iterable[NDArray],
    n_frames: int,
    fps: Fraction | int,
    audio_path: Path | None = None,
    audio_track: int | None = None,
    start_s: float = 0.0,
    cues: Sequence[Cue] = (),
    may_end_early: bool = False,
) -> None:
    """Write a video with sound, of the kind in `VIDEO_FORMATS` that the ending of `path` names.

    A path that ends in _png becomes a folder of pictures 000001.png and so on, without sound.
    frames: `n_frames` pictures (H, W, 3) uint8 with even H and W, or (H, W, 4) with straight alpha
    for a kind that has transparency; audio_path: anything that `speech.audio.read_audio` reads, or
    None for no sound; audio_track: as there; fps: exact, as Fraction(30000, 1001); start_s: instant
    of the sound at which the video begins; cues: subtitles in time of the sound, for a track that
    players can switch on. Sound is cut to the length of the video, and more than two channels are
    mixed down to one. The same frames and sound give the same bytes. `path` is created or replaced
    only when the video is complete. may_end_early: fewer than `n_frames` frames become a shorter
    video under the name of `unfinished_name(path)`. Raises `UserError` for sound that cannot be
    read, and with ffmpeg's own message where ffmpeg fails.
    """
    frames = iter(frames)
    first = next(frames)
    name = kind_of(path)
    kind, n_written = VIDEO_FORMATS[name], 0
    whole = whole_folder if name == PICTURES else whole_file
    with (
        whole(path, lambda: path if n_written == n_frames else unfinished_name(path)) as partial,
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryDirectory() as folder,
    ):
        tracks, seconds, samples = [], float(n_frames / fps), Path(folder) / "samples"
        if audio_path is not None and kind.sound:
            sound = write_samples(audio_path, audio_track, seconds, samples, start_s)
            tracks.append((sound, kind.sound))
        if kind.subtitles and (shown := part_of(cues, start_s, seconds)):
            text = Path(folder) / "subtitles"
            text.write_text(srt_of(shown), encoding="utf-8")
            tracks.append((["-f", "srt", "-i", str(text)], ["-c:s", kind.subtitles]))
        # stderr goes to a file because a pipe that nobody reads fills up and blocks ffmpeg.
        process = ffmpeg.start(
            _arguments(partial, kind, first.shape, n_frames, fps, tracks),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            pictures = chain([first], _cutting(samples, frames, n_frames))
            n_written = _feed(process.stdin, pictures, kind)
            if process.wait() != 0:
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines()
                raise UserError(
                    f"ffmpeg cannot write {path}: {lines[-1] if lines else 'it gave no reason'}"
                )
        finally:
            process.kill()
            process.wait()
        if n_written < n_frames and may_end_early and name != PICTURES:
            _cut_tracks(partial, kind, float(n_written / fps))
        elif n_written != n_frames and not may_end_early:
            raise ValueError(f"expected {n_frames} frames, got {n_written}")


def _cutting(samples: Path, frames: Iterator[NDArray], n_frames: int) -> Iterator[NDArray]:
    """Yield the frames after the first; where they end early, cut the file of the sound as well.

    Else ffmpeg would encode all of the sound that is left. It reads sound about 1 s ahead, which
    `_cut_tracks` cuts off.
    """
    n_written = 1
    for frame in frames:
        yield frame
        n_written += 1
    if n_written < n_frames and samples.exists():
        n_blocks = samples.stat().st_size // SAMPLE_BYTES
        os.truncate(samples, n_blocks * n_written // n_frames * SAMPLE_BYTES)


def _cut_tracks(path: Path, kind: VideoFormat, seconds: float) -> None:
    """Cut all tracks of a video to `seconds`, without encoding them again."""
    with whole_file(path) as partial:
        arguments = ["-loglevel", "error", "-y", "-i", f"file:{path.absolute()}", "-map", "0"]
        arguments += ["-c", "copy", "-fflags", "+bitexact", "-t", f"{seconds:.6f}"]
        arguments += [*kind.container, f"file:{partial.absolute()}"]
        process = ffmpeg.start(arguments, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if process.wait() != 0:
            raise UserError(f"ffmpeg cannot write {path}: it gave no reason")


def _feed(pipe: BinaryIO, pictures: Iterator[NDArray], kind: VideoFormat) -> int:
    """Write all pictures to the pipe, close it, return their number; stop where ffmpeg exits."""
    n_written, shape = 0, None
    _widen(pipe)
    try:
        with pipe:
            for picture in pictures:
                shape = picture.shape if shape is None else shape
                if picture.shape != shape or picture.dtype != np.uint8:
                    raise ValueError(
                        f"frame {n_written}: {picture.shape} {picture.dtype}, "
                        f"expected {shape} uint8"
                    )
                data = yuv_of(picture) if is_yuv(kind, shape) else np.ascontiguousarray(picture)
                pipe.write(data.data)
                n_written += 1
    except BrokenPipeError:
        pass  # ffmpeg has exited; its exit code and stderr say why
    return n_written


def _widen(pipe: BinaryIO) -> None:
    """Give a pipe the largest buffer of Linux, so that programs at its ends seldom take turns."""
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):  # more than a user's share of such memory
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _arguments(
    partial: Path,
    kind: VideoFormat,
    shape: tuple[int, ...],
    n_frames: int,
    fps: Fraction | int,
    tracks: Sequence[tuple[Sequence[str], Sequence[str]]],
) -> list[str]:
    """ffmpeg's arguments; shape: of a frame; tracks: (input, encoder) of sound and subtitles."""
    height, width, channels = shape
    arguments = ["-loglevel", "error", "-y", "-f", "rawvideo"]
    rgb = "-pix_fmt", "rgba" if channels == 4 else "rgb24"
    arguments += [*(YUV_INPUT if is_yuv(kind, shape) else rgb), "-s", f"{width}x{height}"]
    arguments += ["-r", str(fps), "-i", "pipe:0"]
    arguments += [argument for track, _ in tracks for argument in track]
    arguments += ["-map", "0:v:0"]
    for number, (_, encoder) in enumerate(tracks, 1):
        arguments += ["-map", str(number), *encoder]
    arguments += kind.transparent if channels == 4 else kind.opaque
    # Without bitexact the muxer may write times and versions into the file.
    arguments += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"]
    # -t instead of -shortest, which misses the end by up to one packet of sound.
    arguments += ["-t", f"{float(n_frames / fps):.6f}", *kind.container]
    target = str(partial.absolute())
    if partial.is_dir():  # a % in the folder's name is doubled, as it is a pattern
        target = f"{target.replace('%', '%%')}/%06d.png"
    return [*arguments, f"file:{target}"]
