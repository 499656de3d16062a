"""What the first bytes of a sound file say: text or sound, and how many bytes of sound it has.

libsndfile and ffmpeg read a truncated file to its end and say nothing, so its header is compared
with the size of the file. Formats: RIFF and RIFX wav, RF64, W64, AIFF, AU, CAF, NIST SPHERE; of MP3
and Ogg, whose headers hold no number of bytes, see `states_frames` and `is_unfinished_ogg`.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SNIFFED_BYTES = 4096
TEXT_CONTROLS = b"\t\n\v\f\r\x1b"  # control characters that text may have
RIFF_UNKNOWN = 0x7FFFF000  # lengths from here on mean "written to a pipe", not a length
UNKNOWN_64 = (1 << 63) - 1  # as RIFF_UNKNOWN in formats with lengths of 64 bits
W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
OGG_PAGE_BYTES = 65_307  # the largest page
OGG_HEADER_BYTES = 27
OGG_LAST_PAGE = 4  # flag in a page's header
LONGEST_COUNT = 18  # digits of a number in a header of NIST SPHERE


@dataclass(frozen=True)
class SoundBytes:
    """The bytes of sound in a file: `declared` by its header, `available` behind `start`.

    declared: None where the header has no length, because the file was written to a pipe. length:
    width in bytes and byte order of the field that holds it, which ends at `field_end`.
    """

    start: int
    declared: int | None
    available: int
    field_end: int = 0
    length: tuple[int, str] = (4, "little")

    @property
    def never_closed(self) -> bool:
        """Whether the length is 0 and sound follows: a recorder stopped before it wrote it."""
        return self.declared == 0 and self.available > 0 and self.field_end > 0


def is_text(path: Path) -> bool:
    """Whether a file begins like text, as playlists do. All formats of sound have other bytes."""
    with path.open("rb") as file:
        head = file.read(SNIFFED_BYTES)
    return not any(byte < 32 and byte not in TEXT_CONTROLS for byte in head)


def find_sound(path: Path) -> SoundBytes | None:
    """The bytes of sound of a file, or None for other formats and headers without sound."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
            return _find_riff(file, size, "big" if head[:4] == b"RIFX" else "little")
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return _find_aiff(file, size)
        if head[:4] == b"riff" and head[4:8] == b"\x2e\x91\xcf\x11":
            return _find_w64(file, size)
        if head[:4] == b"caff":
            return _find_caf(file, size)
        if head[:4] in (b".snd", b"dns."):
            order = "big" if head[:4] == b".snd" else "little"
            start, length = (int.from_bytes(head[i : i + 4], order) for i in (4, 8))
            return SoundBytes(start, length if length < RIFF_UNKNOWN else None, size - start)
        if head[:8] == b"NIST_1A\n":
            return _find_nist(file, size)
    return None


def _chunks(file: BinaryIO, first: int, order: str) -> Iterator[tuple[bytes, int]]:
    """(name, length) of each chunk of RIFF or AIFF, with the file at the chunk's content."""
    file.seek(first)
    while len(chunk := file.read(8)) == 8:
        length, start = int.from_bytes(chunk[4:], order), file.tell()
        yield chunk[:4], length
        file.seek(start + length + length % 2)


def _find_riff(file: BinaryIO, size: int, order: str) -> SoundBytes | None:
    long_length = None
    for name, length in _chunks(file, 12, order):
        start = file.tell()
        if name == b"ds64":
            long_length = start + 16, int.from_bytes(file.read(16)[8:], "little")
        if name != b"data":
            continue
        if length >= RIFF_UNKNOWN and long_length is not None:
            field_end, length = long_length
            return _known(SoundBytes(start, length, size - start, field_end, (8, "little")))
        sound = SoundBytes(start, length, size - start, start, (4, order))
        if sound.never_closed and _ends_with_chunks(file, start, size, order):
            return SoundBytes(start, 0, 0)
        return _known(sound, RIFF_UNKNOWN)
    return None


def _ends_with_chunks(file: BinaryIO, start: int, size: int, order: str) -> bool:
    """Whether the bytes from `start` on are whole chunks, which sound is not."""
    return any(
        file.tell() + length in (size, size - 1) for _, length in _chunks(file, start, order)
    )


def _find_aiff(file: BinaryIO, size: int) -> SoundBytes | None:
    for name, length in _chunks(file, 12, "big"):
        if name == b"SSND":
            start = file.tell() + 8  # behind offset and block size
            return _known(SoundBytes(start, max(length - 8, 0), size - start), RIFF_UNKNOWN)
    return None


def _find_w64(file: BinaryIO, size: int) -> SoundBytes | None:
    file.seek(40)
    while len(chunk := file.read(24)) == 24:
        length, start = int.from_bytes(chunk[16:], "little") - 24, file.tell()  # with the header
        if chunk[:16] == W64_DATA:
            return _known(SoundBytes(start, max(length, 0), size - start))
        if not 0 <= length <= size:
            return None
        file.seek(start + (length + 7) // 8 * 8)
    return None


def _find_caf(file: BinaryIO, size: int) -> SoundBytes | None:
    file.seek(8)
    while len(chunk := file.read(12)) == 12:
        length, start = int.from_bytes(chunk[4:], "big", signed=True), file.tell()
        if chunk[:4] == b"data":
            declared = None if length < 0 else max(length - 4, 0)  # without the edit count
            return _known(SoundBytes(start + 4, declared, size - start - 4))
        if not 0 <= length <= size:
            return None
        file.seek(start + length)
    return None


def _find_nist(file: BinaryIO, size: int) -> SoundBytes | None:
    """Lines such as "sample_count -i 16000"; the second line is the length of the header."""
    file.seek(8)
    length = file.read(8).strip()
    if not length.isdigit():
        return None
    numbers = {}
    for line in file.read(min(int(length), SNIFFED_BYTES)).splitlines():
        name, kind, value = (*line.split(), b"", b"")[:3] if line.strip() else (b"", b"", b"")
        if kind in (b"-i", b"-s1") and value.isdigit() and len(value) <= LONGEST_COUNT:
            numbers[name] = int(value)
    try:
        declared = (
            numbers[b"sample_count"] * numbers.get(b"channel_count", 1) * numbers[b"sample_n_bytes"]
        )
    except KeyError:
        return None
    return SoundBytes(int(length), declared, size - int(length))


def _known(sound: SoundBytes, unknown: int = UNKNOWN_64) -> SoundBytes:
    """`sound`, without its declared length if that means "unknown"."""
    if sound.declared is not None and sound.declared >= unknown:
        return SoundBytes(sound.start, None, sound.available)
    return sound


class ClosedFile(io.FileIO):
    """A file of a recorder that was never closed, as if its header had the length of the sound."""

    def __init__(self, path: Path, sound: SoundBytes) -> None:
        super().__init__(path)
        width, order = sound.length
        value = min(sound.available, 256**width - 1)
        self.field, self.field_end = value.to_bytes(width, order), sound.field_end

    def readinto(self, buffer) -> int:
        """Read into `buffer`, with the corrected length where the field is in it."""
        start = self.tell()
        n_read = super().readinto(buffer)
        first = self.field_end - len(self.field)
        for index, byte in enumerate(self.field, first - start):
            if 0 <= index < n_read:
                memoryview(buffer)[index : index + 1] = bytes([byte])
        return n_read


def states_frames(path: Path) -> bool:
    """Whether an MP3 has a header with its number of frames, so that its length is no estimate."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3" and len(head) == 10:
            file.seek(10 + sum(byte << 7 * (3 - i) for i, byte in enumerate(head[6:])))
        else:
            file.seek(0)
        first_frame = file.read(SNIFFED_BYTES)
    return any(name in first_frame for name in (b"Xing", b"Info", b"VBRI"))


def is_unfinished_ogg(path: Path) -> bool:
    """Whether an Ogg file ends without the page that is marked as the last of its stream."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - OGG_PAGE_BYTES))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if not page.startswith(b"OggS") or len(page) < OGG_HEADER_BYTES:
        return True
    lacing = page[OGG_HEADER_BYTES : OGG_HEADER_BYTES + page[26]]
    whole = len(lacing) == page[26] and len(page) >= OGG_HEADER_BYTES + page[26] + sum(lacing)
    return not (whole and page[5] & OGG_LAST_PAGE)
