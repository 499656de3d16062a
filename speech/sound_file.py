"""Sound files of any format, decoded in blocks: the one way in which files are heard and muxed.

libsndfile reads the formats that it supports, ffmpeg all others. What a file leaves open is
decided here and said once on stderr: the audio track, a recorder that was never closed, a file
that ends early.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, printable, reason_of
from files.arrays import check_file
from speech import ffmpeg
from speech.headers import ClosedFile, find_sound, is_text, is_unfinished_ogg, states_frames
from speech.resampling import RATES

BLOCK_VALUES = 1 << 20  # samples of all channels decoded at once
MAX_HOURS = 6
FREE_VALUES, VALUES_PER_BYTE = 1 << 24, 256  # samples of all channels that a file may unfold to
UNKNOWN_FRAMES = 2**62  # libsndfile has larger numbers for lengths that it does not know
MAX_LEVEL = 2.0**32  # of a float file, whose samples may be integers of 32 bits
MISSING_S = 0.1  # less than this at the end of a file is a warning, more an error
MP3 = ("MP3", "MPEG")  # libsndfile's names of the format
# libsndfile's names of formats in which a truncated file is noticed.
CHECKED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", *MP3)
MISSING_FRAMES = 4 * 1152  # the same for MP3, in samples: delay and padding of the encoder


@dataclass(frozen=True)
class Sound:
    """A sound file that can be decoded. declared: sample frames, None where unknown.

    read: yields blocks (n, channels) float32 at `rate` Hz; before: frames of silence before them.
    stored_rate: Hz of the sound in the file, where the decoder resamples it. tracks: descriptions
    of the audio tracks, if the format has tracks.
    """

    path: Path
    rate: int
    channels: int
    read: Callable[[], Iterator[NDArray[np.float32]]]
    before: int = 0
    declared: int | None = None
    stored_rate: int | None = None
    tracks: tuple[str, ...] = ()

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Blocks (n, channels) float32; full scale of the file is 1.

        Raises `UserError` for damaged and truncated files, for NaN, infinite and huge samples, and
        for more sound than `MAX_HOURS` or than a file of this size can hold.
        """
        n_frames = 0
        for block in self._all_blocks():
            n_frames += len(block)
            self.check_amount(n_frames)
            self._check_values(block, n_frames)
            yield block
        self._check_end(n_frames - self.before)

    def _all_blocks(self) -> Iterator[NDArray[np.float32]]:
        step = max(BLOCK_VALUES // self.channels, 1)
        for first in range(0, self.before, step):
            yield np.zeros((min(step, self.before - first), self.channels), np.float32)
        yield from self.read()

    def check_amount(self, n_frames: int) -> None:
        """Raise `UserError` where `n_frames` sample frames are too many for a file of this size."""
        hours = n_frames / self.rate / 3600
        n_values = n_frames * (self.stored_rate or self.rate) // self.rate * self.channels
        if hours > MAX_HOURS:
            raise UserError(
                f"audio {self.path}: {hours:.1f} hours of sound, expected at most {MAX_HOURS}; cut "
                "it into parts"
            )
        size = self.path.stat().st_size
        if n_values > FREE_VALUES + VALUES_PER_BYTE * size:
            raise UserError(
                f"audio {self.path}: {size} bytes with {n_values} samples or more, expected at "
                f"most {VALUES_PER_BYTE} samples a byte; it is damaged, or silence: give a wav"
            )

    def _check_values(self, block: NDArray[np.float32], end: int) -> None:
        if len(block) == 0 or (block.max() <= MAX_LEVEL and block.min() >= -MAX_LEVEL):
            return
        index, channel = np.argwhere(~(np.abs(block) <= MAX_LEVEL))[0]  # NaN as well
        at_s = (end - len(block) + index) / self.rate
        value = f"{block[index, channel]:g}".replace("nan", "NaN")
        raise UserError(
            f"audio {self.path}: a sample is {value} at {at_s:.3f} s, expected "
            "-1 to 1, or integers of 32 bits; export it again"
        )

    def _check_end(self, n_frames: int) -> None:
        """Raise `UserError` or warn where the file ends before its sound; n_frames: decoded."""
        sound = find_sound(self.path)
        if sound is None or not sound.declared or sound.declared <= sound.available:
            return
        missing_s = n_frames / self.rate * (sound.declared / max(sound.available, 1) - 1)
        if sound.available <= 0 or missing_s > MISSING_S:
            raise UserError(
                f"audio {self.path}: truncated: {max(sound.available, 0)} bytes of sound, expected "
                f"{sound.declared}; copy or download it again"
            )
        say(
            f"warning: audio {self.path}: the last {sound.declared - sound.available} bytes "
            f"({1000 * missing_s:.1f} ms) are missing; the rest is used"
        )


@functools.cache
def say(line: str) -> None:
    """Print a line on stderr, once in a process: files are decoded more than once."""
    print(printable(" ".join(line.split())), file=sys.stderr)


def open_sound(path: str | Path, track: int | None = None, ffmpeg_rate: int | None = None) -> Sound:
    """A sound file, ready to be decoded.

    track: number of the audio track, from 1; None for ffmpeg's choice: the track flagged default,
    else that with the most channels, else the first. ffmpeg_rate: Hz to which ffmpeg resamples,
    None for the file's own. Raises `UserError` for a file that is missing, empty, text or without
    sound, and as `Sound.blocks` for what headers already say.
    """
    path = check_file(path, "audio")
    if is_text(path):
        raise UserError(
            f"audio {path}: it is text (a playlist?), expected sound; give the sound file itself"
        )
    _check_wav(path)
    sound = _open_libsndfile(path)
    if sound is None:
        sound = _open_ffmpeg(path, track, ffmpeg_rate)
    elif track not in (None, 1):
        raise UserError(f"audio {path}: no audio track {track}, it has 1; correct --audio_track")
    sound.check_amount(max(sound.declared or 0, sound.before))
    return sound


def _check_wav(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE" and find_sound(path) is None:
        raise UserError(f"audio {path}: wav header without sound; copy or download it again")


def _open_libsndfile(path: Path) -> Sound | None:
    """The file as libsndfile reads it; None if it does not support the format.

    It cannot read a FLAC that was written to a pipe, whose header has no length.
    """
    import soundfile

    try:
        with (
            _source(path) as source,
            _quiet_library(),
            soundfile.SoundFile(source, closefd=False) as file,
        ):
            rate, channels, frames = file.samplerate, file.channels, file.frames
            format_name = file.format
    except soundfile.LibsndfileError:
        return None
    check_rate(path, rate)
    if frames >= UNKNOWN_FRAMES:
        return None
    if format_name not in CHECKED:
        say(
            f"warning: audio {path}: whether a file of the format {format_name} is complete is not "
            "checked; give a wav"
        )
    read = functools.partial(_read_libsndfile, path, format_name, frames)
    declared = None if format_name in MP3 else frames  # which may be an estimate
    return Sound(path, rate, channels, read, declared=declared)


def check_rate(path: Path, rate: int) -> None:
    """Raise `UserError` for a sample rate that no recording has."""
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(
            f"audio {path}: sample rate {rate} Hz, expected {RATES[0]} to {RATES[1]} Hz; its "
            "header may be damaged: copy or download it again"
        )


@contextlib.contextmanager
def _source(path: Path) -> Iterator[bytes | str | int | BinaryIO]:
    """What libsndfile opens: the file's name, from which it knows a few formats, or an open file.

    The suffix .raw would mean samples without a header, so such files are opened without it.
    """
    sound = find_sound(path)
    if sound is not None and sound.never_closed:
        say(
            f"warning: audio {path}: its header has a length of 0, as a recorder leaves it that "
            "was never closed; it is read to its end"
        )
        with ClosedFile(path, sound) as file:
            yield file
    elif path.suffix.lower() == ".raw":
        with path.open("rb") as file:
            yield file.fileno()
    else:
        yield str(path) if os.name == "nt" else os.fsencode(path)


def _read_libsndfile(path: Path, format_name: str, frames: int) -> Iterator[NDArray[np.float32]]:
    """Blocks (n, channels); frames: what the header declares. Raises `UserError` as `blocks`."""
    import soundfile

    n_read = 0
    try:
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(_source(path))
            with _quiet_library():
                file = stack.enter_context(soundfile.SoundFile(source, closefd=False))
            step = max(BLOCK_VALUES // file.channels, 1)
            while True:
                with _quiet_library():
                    block = file.read(step, dtype="float32", always_2d=True)
                if not len(block):
                    break
                n_read += len(block)
                yield block
            rate = file.samplerate
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"audio {path}: damaged after {n_read} samples ({reason_of(error)}); copy or download "
            "it again"
        ) from error
    _check_compressed(path, format_name, n_read, frames, rate)


def _check_compressed(path: Path, format_name: str, n_read: int, frames: int, rate: int) -> None:
    """Raise `UserError` or warn where a FLAC, MP3 or Ogg file ends before its sound."""
    if n_read < frames and format_name == "FLAC":
        raise UserError(
            f"audio {path}: truncated: {n_read} samples, expected {frames}; copy or download it "
            "again"
        )
    short = frames is not None and n_read + MISSING_FRAMES < frames and format_name in MP3
    if short and states_frames(path):
        say(
            f"warning: audio {path}: {n_read / rate:.2f} s of sound, its header says "
            f"{frames / rate:.2f} s; is it truncated?"
        )
    if format_name == "OGG" and is_unfinished_ogg(path):
        say(
            f"warning: audio {path}: it ends after {n_read / rate:.2f} s without the mark of its "
            "end; is it truncated?"
        )


@contextlib.contextmanager
def _quiet_library() -> Iterator[None]:
    """Discard stderr inside the block: libsndfile's mp3 decoder prints to it."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def _open_ffmpeg(path: Path, number: int | None, rate: int | None) -> Sound:
    """A track of the file as ffmpeg reads it, with the silence before it."""
    track = ffmpeg.find_track(path, number)
    check_rate(path, track.rate)
    if number is None and len(track.tracks) > 1:
        say(
            f"audio {path}: track {track.number} of its {len(track.tracks)} audio tracks is used: "
            f"{ffmpeg.listed(track.tracks)}; demo.py --audio_track N takes another"
        )
    rate = rate or track.rate
    sound = Sound(
        path=path,
        rate=rate,
        channels=track.channels,
        read=functools.partial(_read_ffmpeg, path, track, rate),
        before=round(track.start_s * rate),
        stored_rate=track.rate,
        tracks=track.tracks,
    )
    sound.check_amount(round((track.duration_s or 0.0) * rate))
    return sound


def _read_ffmpeg(path: Path, track: ffmpeg.Track, rate: int) -> Iterator[NDArray[np.float32]]:
    problem = yield from ffmpeg.decode(path, track, rate)
    if problem:
        say(f"warning: audio {path}: {problem}")
