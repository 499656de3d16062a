"""A clip's speech, decoded and resampled once and kept on disk, where that is the faster.

16 kHz mono wav is not: reading 4 s of it takes 0.35 ms, an entry of the cache 0.3 ms. Of the same
length 22 kHz wav takes 3 ms, 44.1 kHz wav, flac, mp3 or ogg 9 to 12 ms (one core, files in memory).

An entry holds what `audio.read_audio` returns, before anything is cut, changed or normalised
for the network: so crops and augmented clips are served by it, too.
"""

import os
import struct
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from config import SAMPLE_RATE
from files.arrays import check_file
from files.cache import Cache
from files.content_index import hash_file
from speech import audio
from speech.audio import read_audio

PLAIN_FORMATS = (1, 3, 0xFFFE)  # of a wav: whole numbers, floats, "extensible": one of these
DECODERS = ("soundfile", "scipy", "numpy", "imageio-ffmpeg")  # packages whose work is kept


class DecodedAudio:
    """`read_audio` with a memory on disk; folder: of the cache, None for none."""

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = folder

    @cached_property
    def cache(self) -> Cache:
        """The cache, made with its folder when the first file needs it: plain wav never does."""
        return Cache(self.folder, _made_by())

    def read(self, path: str | Path) -> NDArray[np.float32]:
        """Speech (S,) float32 at 16 kHz, the same bits with a cache and without; see `read_audio`.

        Raises `UserError` as that does, and for a file that changes while it is read.
        """
        path = check_file(path, "audio")
        if self.folder is None or is_plain(path):
            return read_audio(path)
        key = self.cache.content_key(path)

        def make() -> NDArray[np.float32]:
            audio = read_audio(path)
            if self.cache.content_key(path) != key:
                raise UserError(f"audio {path}: changed while it was read; start again")
            return audio

        return np.array(self.cache.get(key, make))


def is_plain(path: Path) -> bool:
    """Whether a file is a wav of 16 kHz and one channel, that needs no work but reading."""
    with path.open("rb") as file:
        head = file.read(28)
    if head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt " or len(head) < 28:
        return False
    kind, channels, rate = struct.unpack("<HHI", head[20:28])
    return kind in PLAIN_FORMATS and channels == 1 and rate == SAMPLE_RATE


def _made_by() -> dict[str, str]:
    """What decoded audio depends on: our code with its constants, and the packages it calls."""
    import soundfile

    return {
        "what": "decoded audio",
        "code": hash_file(Path(audio.__file__)),
        "libsndfile": soundfile.__libsndfile_version__,
        "ffmpeg": os.environ.get("IMAGEIO_FFMPEG_EXE", ""),
        **{name: version(name) for name in DECODERS},
    }
