"""Human recordings with timed phones, for the lip sync benchmarks.

pocketsphinx, a recogniser independent of our network, aligns a recording with its transcript. The
alignments are cached in synthetic/data/alignments.

The clips are divided into two fixed halves: "dev" may be used to choose recipes and checkpoints,
"test" is only for reporting.
"""

import hashlib
import json
import re
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.voicing import vowels_are_voiced
from common.errors import UserError
from common.whole_file import write_whole
from config import PROJECT_ROOT, SAMPLE_RATE
from speech.audio import read_audio
from synthetic.phones import PHONE_INDEX, Segment

LIBRIVOX_FOLDER = PROJECT_ROOT / "demo/wav"
EXTRA_FOLDER = "../shared/data/wav"  # relative to the project
ALIGNMENT_FOLDER = PROJECT_ROOT / "synthetic/data/alignments"
LONG_PAUSE_S = 0.3
LOUDEST_PAUSE = 0.5  # RMS of a clip's long pauses over that of its phones
HALVES = ("dev", "test")
DEV_CLIPS = ("sense_and_sensibility_0890", "sense_and_sensibility_0930")

# Well-known recordings of this field, not part of this repository. selftalk_test has no published
# transcript: this is what two recognisers and the aligner agree on (`check_transcripts`).
# two_cities.wav is in PyPI's moonshine-voice 0.1.5: the opening of A Tale of Two Cities, 1859.
KNOWN_TRANSCRIPTS = {
    "voca_test_sentence": "severe myopia contributed to ron's inferiority complex",
    "selftalk_test": (
        "in full time over a decade ago i was unprepared for the amount of grants i'd have to "
        "write turns out that a lot of being a professional artist is fundraising for your own "
        "salary so i got good at grants i got so good at grants i started writing grants for other "
        "people in one year alone through writing grants for folks running people's fundraising "
        "campaign"
    ),
    "two_cities": (
        "it was the best of times it was the worst of times it was the age of wisdom "
        "it was the age of foolishness it was the epoch of belief it was the epoch of incredulity "
        "it was the season of light it was the season of darkness it was the spring of hope "
        "it was the winter of despair we had everything before us we had nothing before us "
        "we were all going direct to heaven we were all going direct the other way "
        "in short the period was so far like the present period that some of its noisiest "
        "authorities insisted on its being received for good or for evil in the superlative "
        "degree of comparison only"
    ),
}


@dataclass(frozen=True)
class Clip:
    """A recording with its timed phones; audio (S,) float32 at 16 kHz in -1..1."""

    name: str
    group: str  # "librivox", "extra", "two_cities" or "asterisk"
    audio: np.ndarray
    segments: tuple[Segment, ...]
    text: str
    clean: np.ndarray | None = None  # of a degraded copy: the sound that the rules take

    @property
    def duration_s(self) -> float:
        """Length of the audio in seconds."""
        return len(self.audio) / SAMPLE_RATE

    @property
    def split(self) -> str:
        """The half that the clip belongs to: "dev" or "test"."""
        if self.group == "asterisk":
            return "dev" if zlib.crc32(self.name.encode()) % 2 else "test"
        return "dev" if self.name in DEV_CLIPS or self.group == "two_cities" else "test"


def load_real_clips(
    half: str, extra_wav: str | Path = EXTRA_FOLDER, asterisk: str | Path | None = None
) -> list[Clip]:
    """Aligned clips of one half, "dev" or "test".

    Always the LibriVox sentences; the well-known recordings present in `extra_wav` (a folder,
    absolute or relative to the project); the prompts in `asterisk`, an unpacked
    asterisk-core-sounds-en with core-sounds-en.txt beside the .g722 files. Raises `UserError` when
    an alignment needs pocketsphinx and it is not installed, or when `asterisk` has no prompts.
    """
    if half not in HALVES:
        raise ValueError(f"half: expected 'dev' or 'test', got {half!r}")
    clips = _folder_clips(LIBRIVOX_FOLDER, read_transcripts(LIBRIVOX_FOLDER), "librivox")
    for name, text in KNOWN_TRANSCRIPTS.items():
        group = "two_cities" if name == "two_cities" else "extra"
        clips += _folder_clips(PROJECT_ROOT / extra_wav, {name: text}, group)
    if asterisk is not None:
        prompts = _folder_clips(Path(asterisk), read_transcripts(Path(asterisk)), "asterisk")
        if not prompts:
            raise UserError(
                f"{asterisk}: expected the .g722 files of asterisk-core-sounds-en and "
                "core-sounds-en.txt in one folder, got no prompt with a transcript"
            )
        clips += prompts
    return [clip for clip in clips if clip.split == half]


def read_transcripts(folder: Path) -> dict[str, str]:
    """Name -> words to align, from the `name: text` lines of a transcript file.

    The file is transcripts.txt or core-sounds-en.txt. Raises `UserError` when neither exists.
    """
    for file in (folder / "transcripts.txt", folder / "core-sounds-en.txt"):
        if file.is_file():
            lines = (line.partition(":") for line in file.read_text().splitlines())
            pairs = ((name.removesuffix(".wav"), spoken_words(text)) for name, _, text in lines)
            return {name: text for name, text in pairs if text}
    raise UserError(f"{folder}: no transcripts.txt or core-sounds-en.txt in it")


_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SYMBOLS = {"*": " star ", "#": " pound ", ".": " "}


def spoken_words(text: str) -> str:
    """A transcript as words of pocketsphinx's dictionary; empty if it has more than words."""
    if re.search(r"\d\d|[\[(&@]", text):
        return ""
    for symbol, word in _SYMBOLS.items():
        text = text.replace(symbol, word)
    text = re.sub(r"\d", lambda digit: f" {_DIGITS[int(digit[0])]} ", text)
    text = re.sub(r"\b[A-Z]{2,4}\b|\b[B-HJ-Z]\b", lambda m: " ".join(f"{c}." for c in m[0]), text)
    words = re.findall(r"[a-z]\.(?=\s|$)|[a-z']+", text.lower().replace("-", " "))
    return " ".join(words)


def _folder_clips(folder: Path, transcripts: dict[str, str], group: str) -> list[Clip]:
    clips = []
    for name, text in transcripts.items():
        for suffix in (".wav", ".flac", ".g722"):
            path = folder / f"{name}{suffix}"
            if path.is_file():
                audio = read_recording(path)
                segments = align_clip(name, audio, text)
                fits = pauses_are_quiet(audio, segments) and vowels_are_voiced(audio, segments)
                if segments and fits:
                    clips.append(Clip(name, group, audio, segments, text))
                break
    return clips


def read_recording(path: Path) -> np.ndarray:
    """(S,) float32 mono at 16 kHz; .g722 is decoded by ffmpeg."""
    if path.suffix != ".g722":
        return read_audio(path)
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "g722", "-i", str(path)]
    command += ["-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
    result = subprocess.run(command, capture_output=True)
    if result.returncode:
        raise UserError(f"{path}: ffmpeg cannot decode it ({result.stderr.decode()[:200]})")
    return np.frombuffer(result.stdout, np.float32)


def align_clip(name: str, audio: np.ndarray, text: str) -> tuple[Segment, ...]:
    """Timed phones of the clip, from the cache or pocketsphinx; empty when it has unknown words."""
    samples = (audio / max(np.abs(audio).max(), 1e-6) * 0.7 * 32767).astype("<i2").tobytes()
    digest = hashlib.sha1(samples + text.encode()).hexdigest()[:12]
    file = ALIGNMENT_FOLDER / f"{name.replace('/', '-')}-{digest}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(_align(samples, text)))
    return tuple(Segment(*row) for row in json.loads(file.read_text()))


def pauses_are_quiet(audio: np.ndarray, segments: Sequence[Segment]) -> bool:
    """Whether the aligned pauses of at least 0.3 s are quieter than the phones.

    If they are not, the recording does not match its transcript, and the clip is left out.
    """
    power = {True: [], False: []}
    for phone, start_s, end_s in segments:
        if phone != "sil" or end_s - start_s >= LONG_PAUSE_S:
            part = audio[int(start_s * SAMPLE_RATE) : int(end_s * SAMPLE_RATE)]
            power[phone == "sil"].append(np.square(part))
    pause, speech = (np.concatenate([*parts, np.zeros(1)]).mean() for parts in power.values())
    return bool(np.sqrt(pause) <= LOUDEST_PAUSE * np.sqrt(speech))


def _align(samples: bytes, text: str) -> list[tuple[str, float, float]]:
    """(phone, start_s, end_s) in 10 ms steps, by two passes of pocketsphinx: words, then phones."""
    decoder = _decoder()
    if any(decoder.lookup_word(word) is None for word in text.split()):
        return []
    decoder.set_align_text(text)
    _decode(decoder, samples)
    if decoder.hyp() is None:
        return []
    decoder.set_alignment()
    _decode(decoder, samples)
    segments = []
    for word in decoder.get_alignment():
        for phone in word:
            name = phone.name.lower()
            name = name if name in PHONE_INDEX else "sil"  # SIL, +NOISE+, +SPN+
            segments.append((name, phone.start / 100, (phone.start + phone.duration) / 100))
    return segments


def _decode(decoder, samples: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(samples, full_utt=True)
    decoder.end_utt()


@cache
def _decoder():
    """A pocketsphinx decoder with beams wide enough for the correct alignment."""
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise UserError(
            "pocketsphinx is not installed; run pip install pocketsphinx (it aligns the recordings)"
        ) from error
    wide = dict(beam=1e-80, wbeam=1e-60, pbeam=1e-80)
    return Decoder(samprate=SAMPLE_RATE, loglevel="FATAL", bestpath=False, **wide)
