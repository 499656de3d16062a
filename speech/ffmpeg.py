"""The ffmpeg of imageio-ffmpeg as a child process: started, limited, and as a decoder of sound.

Children are killed with this process (Linux). The decoder gets one local file of a known binary
format: no playlists, no network, one block of memory of at most 256 MB, and a time limit.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason_of

# Containers and raw streams with sound inside. Formats that name other files are not among them:
# concat, hls, dash, image2, sdp, imf.
FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,aptx,asf,au,avi,caf,dsf,dts,dtshd,dv,eac3,flac,flv,g722,gsm,"
    "gxf,iff,ircam,loas,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,ogg,oma,rm,sbc,"
    "sln,sox,tak,truehd,tta,voc,w64,wav,wtv,wv,xwma"
)
MAX_BLOCK_BYTES = 1 << 28  # of memory that ffmpeg may ask for at once
MAX_DATA_BYTES, MAX_FILE_BYTES = 1 << 30, 1 << 24  # of the decoder's memory; of its messages
READ_BYTES = 1 << 20  # of its messages that are read
STALL_S = 10  # without a block of sound, then the decoder is stopped; more for large files
BYTES_PER_S = 20_000_000  # at least, of a disk
BLOCK_FRAMES = 1 << 18  # sample frames decoded at once
MISSING_S = 0.5  # less than this at the end is the delay of an encoder
EARLIEST_S = 0.01  # sound that starts less than this after the file starts with it
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Track:
    """The chosen audio track of a file: `number` from 1, of those in `tracks` (descriptions).

    stream: ffmpeg's index; start_s: seconds after the start of the file at which it begins;
    duration_s: of the file; None if it is unknown, or that of other streams.
    """

    number: int
    tracks: tuple[str, ...]
    stream: int
    rate: int
    channels: int
    start_s: float
    duration_s: float | None


def find_ffmpeg() -> str:
    """The path of ffmpeg; raises `UserError` where there is none."""
    import imageio_ffmpeg

    try:
        path = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(
            "no ffmpeg: pip install imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE"
        ) from error
    if shutil.which(path) is None:
        raise UserError(
            f"no ffmpeg: {path} is no program; pip install imageio-ffmpeg, or correct "
            "IMAGEIO_FFMPEG_EXE"
        )
    return path


def start(arguments: list[str], limits: bool = False, **pipes: Any) -> subprocess.Popen:
    """ffmpeg with `arguments`, killed when the calling thread ends, which must wait for it.

    It has a session of its own, so that Ctrl-C in the terminal reaches the caller alone.
    limits: for untrusted input; memory and the size of written files are bounded. pipes: stdin,
    stdout, stderr of `subprocess.Popen`. Raises `UserError` where ffmpeg cannot be started.
    """
    command = [find_ffmpeg(), "-hide_banner", *arguments]
    try:
        return subprocess.Popen(
            command, preexec_fn=_before_ffmpeg(limits), start_new_session=True, **pipes
        )
    except OSError as error:
        raise UserError(
            f"ffmpeg {command[0]}: cannot be started ({reason_of(error)}); is it for another "
            "system?"
        ) from error


def _before_ffmpeg(limits: bool) -> Callable[[], None] | None:
    """What the child does before it becomes ffmpeg; on Linux only, as prctl."""
    if sys.platform != "linux":
        return None
    import resource

    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call above
            os._exit(1)
        if limits:
            resource.setrlimit(resource.RLIMIT_DATA, (MAX_DATA_BYTES, MAX_DATA_BYTES))
            resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))

    return prepare


def _input(path: Path) -> list[str]:
    """Arguments that name an untrusted input file; no name is taken for a pattern or a protocol."""
    return ["-nostdin", "-max_alloc", str(MAX_BLOCK_BYTES), "-protocol_whitelist", "file",
            "-format_whitelist", FORMATS, "-threads", "1", "-i", f"file:{path.absolute()}",
            "-vn", "-sn", "-dn"]  # fmt: skip


def find_track(path: Path, number: int | None) -> Track:
    """Audio track `number` (from 1) of a file, or ffmpeg's choice: that flagged default, the first.

    Raises `UserError` for a file that ffmpeg cannot read, that has no sound or no such track.
    """
    chosen = [] if number is None else ["-map", f"0:a:{number - 1}"]
    # copyts: else the times of an MPEG-TS would begin with the chosen track
    arguments = ["-v", "info", "-copyts", *_input(path), *chosen]
    arguments += ["-af", "ashowinfo", "-frames:a", "1", "-f", "null", "-"]
    with _decoder(path, arguments) as (process, messages):
        _read(process, 1, _stall_s(path))
        process.wait()
        text = messages()
    about_input = re.split(r"^(?:Stream mapping:|Output #0)", text, flags=re.MULTILINE)[0]
    streams = re.findall(r"^  Stream #0:(\d+)\S*: (\w+): (.*)$", about_input, re.MULTILINE)
    if not streams:
        raise _unreadable(path, text, process)
    audio = [(int(index), about) for index, kind, about in streams if kind == "Audio"]
    tracks = tuple(re.sub(r" \([^()]* / 0x\w+\)", "", about) for _, about in audio)
    if not audio:
        raise UserError(
            f"audio {path}: no sound track in it, only {', '.join(k for _, k, _ in streams)}; give "
            "a file with sound"
        )
    if number is not None and number > len(audio):
        raise UserError(
            f"audio {path}: no audio track {number}, it has {len(audio)}: {listed(tracks)}; "
            "correct --audio_track"
        )
    frame = re.search(r" pts_time:(\S+) .*?channels:(\d+) .*?rate:(\d+) ", text)
    used = re.search(r"^  Stream #0:(\d+) -> ", text, re.MULTILINE)
    indices = [index for index, _ in audio]
    if frame is None or used is None or int(used[1]) not in indices:
        raise _unreadable(path, text, process)
    stream = int(used[1])
    return Track(
        number=indices.index(stream) + 1,
        tracks=tracks,
        stream=stream,
        rate=int(frame[3]),
        channels=int(frame[2]),
        start_s=_start_s(frame[1], text) if len(streams) > 1 else 0.0,
        duration_s=_duration_s(text) if len(streams) == 1 else None,
    )


def listed(tracks: tuple[str, ...]) -> str:
    """Numbered descriptions of tracks."""
    return ", ".join(f"{number} ({about})" for number, about in enumerate(tracks, 1))


def _start_s(first: str, text: str) -> float:
    """Seconds from the start of a file to its first decoded sample, 0 if it is almost at once.

    first: time of that sample. A file starts with its earliest stream, but at 0 where that one
    starts before 0, with the encoder's delay.
    """
    begins = re.search(r"^  Duration: .* start: ([\d.]+)", text, re.MULTILINE)
    try:
        start_s = float(first) - (float(begins[1]) if begins else 0.0)
    except ValueError:  # NOPTS
        return 0.0
    return start_s if start_s >= EARLIEST_S else 0.0


def _duration_s(text: str) -> float | None:
    found = re.search(r"^  Duration: (\d+):(\d+):([\d.]+)", text, re.MULTILINE)
    return None if found is None else 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])


def decode(path: Path, track: Track, rate: int) -> Generator[NDArray[np.float32], None, str]:
    """Yield blocks (n, channels) of a track at `rate` Hz; return what is wrong with it, or "".

    Without the silence before `track.start_s`. Raises `UserError` where ffmpeg fails or stalls.
    """
    arguments = ["-v", "error", *_input(path), "-map", f"0:{track.stream}"]
    # asetpts: samples are consecutive, whatever the times of their packets say
    arguments += ["-af", "asetpts=N/SR/TB", "-ar", str(rate)]
    arguments += ["-c:a", "pcm_f32le", "-f", "f32le", "pipe:1"]
    frame_bytes, n_frames = 4 * track.channels, 0
    with _decoder(path, arguments) as (process, messages):
        n_bytes = max(BLOCK_FRAMES // track.channels, 1) * frame_bytes
        while block := _read(process, n_bytes, _stall_s(path)):
            whole = len(block) // frame_bytes * frame_bytes
            n_frames += whole // frame_bytes
            yield np.frombuffer(block[:whole], dtype="<f4").reshape(-1, track.channels)
        if process.wait():
            raise _unreadable(path, messages(), process)
        complaint = _reason(path, messages())
    end_s = track.start_s + n_frames / rate
    if track.duration_s is not None and track.duration_s - end_s > MISSING_S:
        return f"{end_s:.2f} s of sound, its header says {track.duration_s:.2f} s; is it truncated?"
    return complaint and f"{end_s:.2f} s of sound, then or in it an error ({complaint})"


def _reason(path: Path, text: str) -> str:
    """The last of ffmpeg's messages without what names its parts and the file; "" for none."""
    lines = [line for line in text.strip().splitlines() if "Last message repeated" not in line]
    lines = lines or [""]
    return re.sub(r"^(\[[^]]*\] )+", "", lines[-1]).removeprefix(f"file:{path.absolute()}: ")[:160]


def _unreadable(path: Path, text: str, process: subprocess.Popen) -> UserError:
    """The error for a file that ffmpeg cannot decode; text: its messages."""
    if process.returncode == -getattr(signal, "SIGKILL", 9):
        reason = f"ffmpeg found no sound in {_stall_s(path):.0f} s and was stopped"
    else:
        reason = _reason(path, text) or "no sound in it"
    return UserError(
        f"audio {path}: neither libsndfile nor ffmpeg can read it ({reason}); give a wav, flac or "
        "mp3 file"
    )


@contextmanager
def _decoder(
    path: Path, arguments: list[str]
) -> Iterator[tuple[subprocess.Popen, Callable[[], str]]]:
    """An ffmpeg for untrusted input with its messages, killed at the end of the block."""
    with tempfile.TemporaryFile() as errors:
        process = start(
            arguments,
            limits=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            yield process, partial(_messages, errors)
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def _messages(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(READ_BYTES).decode(errors="replace")


def _stall_s(path: Path) -> float:
    return STALL_S + path.stat().st_size / BYTES_PER_S


def _read(process: subprocess.Popen, n_bytes: int, limit_s: float) -> bytes:
    """Up to `n_bytes` of ffmpeg's output; it is killed when they take longer than `limit_s`."""
    timer = threading.Timer(limit_s, process.kill)
    timer.daemon = True
    timer.start()
    try:
        return process.stdout.read(n_bytes)
    finally:
        timer.cancel()
