"""Frames to a video with sound: `write_video` pipes frames into the ffmpeg of imageio-ffmpeg."""

import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.whole_file import whole_file, whole_folder
from rendering.sound_track import write_samples
from rendering.subtitles import Cue, part_of, srt_of
from rendering.video_formats import PICTURES, VIDEO_FORMATS, VideoFormat, kind_of
from speech import ffmpeg


def write_video(
    path: Path,
    frames: Iterable[NDArray],
    n_frames: int,
    fps: Fraction | int,
    audio_path: Path | None = None,
    audio_track: int | None = None,
    start_s: float = 0.0,
    cues: Sequence[Cue] = (),
) -> None:
    """Write a video with sound, of the kind in `VIDEO_FORMATS` that the ending of `path` names.

    A path that ends in _png becomes a folder of pictures 000001.png and so on, without sound.
    frames: `n_frames` pictures (H, W, 3) uint8 with even H and W, or (H, W, 4) with straight alpha
    for a kind that has transparency; audio_path: anything that `speech.audio.read_audio` reads, or
    None for no sound; audio_track: as there; fps: exact, as Fraction(30000, 1001); start_s: instant
    of the sound at which the video begins; cues: subtitles in time of the sound, for a track that
    players can switch on. Sound is cut to the length of the video, and more than two channels are
    mixed down to one. The same frames and sound give the same bytes. `path` is created or replaced
    only when the video is complete. Raises `UserError` for sound that cannot be read, and with
    ffmpeg's own message where ffmpeg fails.
    """
    frames = iter(frames)
    first = next(frames)
    name = kind_of(path)
    kind = VIDEO_FORMATS[name]
    with (
        (whole_folder if name == PICTURES else whole_file)(path) as partial,
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryDirectory() as folder,
    ):
        tracks, seconds = [], float(n_frames / fps)
        if audio_path is not None and kind.sound:
            samples = Path(folder) / "samples"
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
            n_written = _feed(process.stdin, first, frames)
            if process.wait() != 0:
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines()
                raise UserError(
                    f"ffmpeg cannot write {path}: {lines[-1] if lines else 'it gave no reason'}"
                )
        finally:
            process.kill()
            process.wait()
        if n_written != n_frames:
            raise ValueError(f"expected {n_frames} frames, got {n_written}")


def _feed(pipe: BinaryIO, first: NDArray, frames: Iterator[NDArray]) -> int:
    """Write all frames to the pipe, close it and return their number; stop where ffmpeg exits."""
    n_written = 0
    try:
        with pipe:
            for frame in chain([first], frames):
                if frame.shape != first.shape or frame.dtype != np.uint8:
                    raise ValueError(
                        f"frame {n_written}: {frame.shape} {frame.dtype}, "
                        f"expected {first.shape} uint8"
                    )
                pipe.write(np.ascontiguousarray(frame).data)
                n_written += 1
    except BrokenPipeError:
        pass  # ffmpeg has exited; its exit code and stderr say why
    return n_written


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
    arguments += ["-pix_fmt", "rgba" if channels == 4 else "rgb24", "-s", f"{width}x{height}"]
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
