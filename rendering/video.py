"""Frames to a video with sound: `write_video` pipes frames into the ffmpeg of imageio-ffmpeg."""

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.whole_file import whole_file


def write_video(
    path: Path,
    frames: Iterable[NDArray],
    n_frames: int,
    fps: float,
    audio_path: Path | None = None,
) -> None:
    """Write an mp4 of H.264 video and AAC sound in one pass.

    frames: `n_frames` pictures (H, W, 3) uint8 with even H and W; audio_path: anything that ffmpeg
    reads, or None for no sound. Sound is cut to the length of the video, and more than two channels
    are mixed down to two. `path` is created or replaced only when the video is complete. Raises
    `UserError` with ffmpeg's own message where ffmpeg fails.
    """
    frames = iter(frames)
    first = next(frames)
    with whole_file(path) as partial, tempfile.TemporaryFile() as errors:
        # stderr goes to a file because a pipe that nobody reads fills up and blocks ffmpeg.
        process = subprocess.Popen(
            _ffmpeg_command(partial, first.shape, n_frames, fps, audio_path),
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


def _ffmpeg_command(
    partial: Path, shape: tuple[int, ...], n_frames: int, fps: float, audio_path: Path | None
) -> list[str]:
    import imageio_ffmpeg

    try:
        ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(
            "no ffmpeg: pip install imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE"
        ) from error
    height, width = shape[:2]
    command = [ffmpeg, "-hide_banner", "-loglevel", "error", "-y"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}"]
    command += ["-i", "pipe:0"]
    if audio_path is not None:
        command += ["-i", str(Path(audio_path).resolve()), "-map", "0:v:0", "-map", "1:a:0"]
        command += ["-c:a", "aac", "-b:a", "160k", "-ac", "2"]
    # BT.709 is what players assume for HD video; yuv420p is what all of them decode.
    hd = "scale=out_color_matrix=bt709:out_range=tv,setparams=color_primaries=bt709:color_trc=bt709"
    command += ["-vf", hd, "-pix_fmt", "yuv420p"]
    command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "18"]
    # -t instead of -shortest, which misses the end by up to one packet of sound.
    command += ["-t", f"{n_frames / fps:.6f}", "-movflags", "+faststart", "-f", "mp4"]
    return [*command, str(partial.resolve())]
