"""The judge of lip sync on real human speech: forced alignment plus the corpus rules are the truth.

A recording and its transcript are aligned by pocketsphinx (a recogniser that shares nothing with
our network); `synthetic.coarticulation` turns the phones into the lips that they ask for, and a
predictor's lips are compared with those: correlations pooled over clips of 3 s and more, lips shut
on p b m and open on the other consonants, sync, stillness in silence.

Clips come in two fixed halves: "dev" may steer the choice of a recipe or early stopping, "test" is
only reported.
"""

import hashlib
import json
import re
import subprocess
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config import PROJECT_ROOT, SAMPLE_RATE
from errors import UserError
from synthetic.coarticulation import CHANNEL_INDEX, CLOSED, aperture, curves, loudness
from synthetic.phones import PHONE_INDEX, Segment

FPS = 30  # rate at which predictors are judged
LONG_CLIP_S = 3.0  # shorter clips are too noisy for a correlation; their closures still count
BILABIALS = ("p", "b", "m")
OTHER_CONSONANTS = ("t", "d", "n", "k", "g", "s", "z", "l", "hh", "ng", "th", "dh")
MARGIN_S = 0.01  # a phone is looked at this far beyond its ends: the aligner's step
SETTLED_S = 0.2  # the mouth may take this long to come to rest in a pause
MAX_LAG = 8  # frames of misalignment that are searched for the sync offset

LIBRIVOX_FOLDER = PROJECT_ROOT / "demo/wav"
CACHE_FOLDER = PROJECT_ROOT / "synthetic/data/alignments"
DEV_CLIPS = ("sense_and_sensibility_0890", "sense_and_sensibility_0930")

# Recordings that users of this field know; read where they lie, never shipped. The second came
# without words: these are pocketsphinx's, mended until every word aligned well.
KNOWN_TRANSCRIPTS = {
    "voca_test_sentence": "severe myopia contributed to ron's inferiority complex",
    "selftalk_test": (
        "a full time over a decade ago i was unprepared for the amount of grants i have to write "
        "turns out that a lot of being a professional artist is fundraising for your own salary "
        "so i got good at grants i got so good at grants i started writing grants for other people "
        "up in when you're alone through writing grants for folks running people's fundraising "
        "campaign"
    ),
}


class Lips(NamedTuple):
    """What the judge sees of a face: two tracks at 30 fps in one unit, and what counts as shut."""

    jaw: np.ndarray  # (T,)
    aperture: np.ndarray  # (T,)
    closed: float  # apertures below this are shut lips


@dataclass(frozen=True)
class Clip:
    """A recording with its phones; audio (S,) float32 at 16 kHz in -1..1."""

    name: str
    group: str  # "librivox", "extra" or "asterisk"
    audio: np.ndarray
    segments: tuple[Segment, ...]
    text: str

    @property
    def duration_s(self) -> float:
        return len(self.audio) / SAMPLE_RATE

    @property
    def split(self) -> str:
        """Which half the clip belongs to: "dev" or "test"."""
        if self.group == "asterisk":
            return "dev" if zlib.crc32(self.name.encode()) % 2 else "test"
        return "dev" if self.name in DEV_CLIPS else "test"


@dataclass(frozen=True)
class LipScores:
    """How a predictor's lips compare with those that the phones ask for; NaN where undefined."""

    jaw_r: float  # correlation of the jaw, frames of long clips pooled
    aperture_r: float  # the same for the opening between the lips
    closed: float  # share of p b m on which the lips shut
    others_closed: float  # share of t d n k g s z l hh ng th dh on which they shut
    auc: float  # P(lips are nearer on a p b m than on one of the others)
    sync_frames: float  # > 0: the face runs late
    silence_shut: float  # share of settled frames in pauses with the lips shut
    silence_motion: float  # jaw speed in settled pauses over jaw speed in speech
    n_closures: int
    n_others: int
    seconds: float  # of long clips

    def as_row(self) -> dict[str, float]:
        """The figures that the benchmark prints, rounded."""
        names = ("jaw_r", "aperture_r", "closed", "others_closed", "auc", "sync_frames")
        return {name: round(float(getattr(self, name)), 3) for name in names}


def curve_lips(values: np.ndarray) -> Lips:
    """Lips of ARKit curves (T, len(CHANNELS)), in units of jawOpen."""
    return Lips(values[:, CHANNEL_INDEX["jawOpen"]], aperture(values), CLOSED)


def rule_curves(clip: Clip, frames: int) -> np.ndarray:
    """The curves that the rules give the clip's phones: (frames, len(CHANNELS)), 30 fps."""
    return curves(clip.segments, frames, FPS, loudness=loudness(clip.audio))


def judge_curves(predict: Callable[[np.ndarray], np.ndarray], clips: Sequence[Clip]) -> LipScores:
    """`judge` for a predictor of curves: audio (S,) -> (T, len(CHANNELS)) at 30 fps."""
    return judge(predict, clips, curve_lips, curve_lips)


def judge(
    predict: Callable[[np.ndarray], np.ndarray],
    clips: Sequence[Clip],
    prediction_lips: Callable[[np.ndarray], Lips],
    truth_lips: Callable[[np.ndarray], Lips],
) -> LipScores:
    """Scores of `predict` (audio (S,) float32 16 kHz -> frames at 30 fps) on the clips.

    `prediction_lips` reads the lips off what `predict` returns, `truth_lips` off the rules' curves.
    """
    pairs = []
    for clip in clips:
        predicted = predict(clip.audio)
        truth = truth_lips(rule_curves(clip, len(predicted)))
        pairs.append((clip, prediction_lips(predicted), truth))
    return score(pairs)


def score(pairs: Sequence[tuple[Clip, Lips, Lips]]) -> LipScores:
    """Scores of (clip, predicted lips, true lips) triples."""
    long = [pair for pair in pairs if pair[0].duration_s >= LONG_CLIP_S]
    bilabial = _phone_apertures(pairs, BILABIALS)
    others = _phone_apertures(pairs, OTHER_CONSONANTS)
    shut, motion = _silence(pairs)
    return LipScores(
        jaw_r=_pooled_r([(p.jaw, t.jaw) for _, p, t in long]),
        aperture_r=_pooled_r([(p.aperture, t.aperture) for _, p, t in long]),
        closed=float((bilabial < 0).mean()) if len(bilabial) else float("nan"),
        others_closed=float((others < 0).mean()) if len(others) else float("nan"),
        auc=_auc(bilabial, others),
        sync_frames=_sync_frames([(p.aperture, t.aperture) for _, p, t in long]),
        silence_shut=shut,
        silence_motion=motion,
        n_closures=len(bilabial),
        n_others=len(others),
        seconds=sum(clip.duration_s for clip, _, _ in long),
    )


def _phone_apertures(
    pairs: Sequence[tuple[Clip, Lips, Lips]], phones: tuple[str, ...]
) -> np.ndarray:
    """Smallest predicted aperture within each such phone, less the closed threshold: (n,)."""
    smallest = []
    for clip, predicted, _ in pairs:
        n = len(predicted.aperture)
        for phone, start, end in clip.segments:
            if phone not in phones or start * FPS > n - 1:
                continue
            first = max(0, int(np.ceil((start - MARGIN_S) * FPS)))
            last = min(n - 1, int(np.floor((end + MARGIN_S) * FPS)))
            first = min(first, last)
            smallest.append(predicted.aperture[first : last + 1].min() - predicted.closed)
    return np.array(smallest)


def _silence(pairs: Sequence[tuple[Clip, Lips, Lips]]) -> tuple[float, float]:
    """Share of settled silent frames with shut lips; jaw speed there over the speed in speech."""
    shut, still, moving = [], [], []
    for clip, predicted, _ in pairs:
        times = np.arange(len(predicted.jaw)) / FPS
        silent = np.zeros(len(times), bool)
        speech = np.zeros(len(times), bool)
        for phone, start, end in clip.segments:
            if phone == "sil":
                settled = start + SETTLED_S if start > 0 else start
                silent |= (times >= settled) & (times < end - SETTLED_S / 2)
            else:
                speech |= (times >= start) & (times < end)
        speed = np.abs(np.gradient(predicted.jaw)) if len(times) > 1 else np.zeros(len(times))
        shut.append(predicted.aperture[silent] < predicted.closed)
        still.append(speed[silent])
        moving.append(speed[speech])
    shut, still, moving = (np.concatenate(parts) for parts in (shut, still, moving))
    if not len(shut) or not len(moving):
        return float("nan"), float("nan")
    pace = moving.mean()
    return float(shut.mean()), float(still.mean() / pace) if pace > 0 else 0.0


def _pooled_r(tracks: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Correlation over all frames of all clips; NaN when either side does not move."""
    if not tracks:
        return float("nan")
    x, y = (np.concatenate(side).astype(np.float64) for side in zip(*tracks, strict=True))
    if x.std() < 1e-9 or y.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _auc(lower: np.ndarray, higher: np.ndarray) -> float:
    """P(a value of `lower` is below one of `higher`), ties counted half."""
    if not len(lower) or not len(higher):
        return float("nan")
    difference = higher[None] - lower[:, None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def _sync_frames(tracks: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Lag of the prediction behind the truth in frames, to a fraction, by cross-correlation."""
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    total = np.zeros(len(lags))
    for predicted, truth in tracks:
        if len(truth) <= 2 * MAX_LAG:
            continue
        inner = slice(MAX_LAG, len(truth) - MAX_LAG)
        x = predicted - predicted.mean()
        y = truth[inner] - truth[inner].mean()
        total += [np.dot(x[inner.start + lag : inner.stop + lag], y) for lag in lags]
    if not total.any():
        return float("nan")
    best = int(total.argmax())
    if best in (0, len(lags) - 1):
        return float(lags[best])
    before, peak, after = total[best - 1 : best + 2]
    return float(lags[best] + 0.5 * (before - after) / (before - 2 * peak + after))


# Clips and their alignment


def load_real_clips(
    kind: str, extra_wav: str | Path = "../shared/data/wav", asterisk: str | Path | None = None
) -> list[Clip]:
    """Aligned clips of one half, `kind` "dev" or "test".

    The LibriVox sentences always; the known recordings found in `extra_wav` (a folder relative to
    the project, or absolute); the prompts under `asterisk`, an unpacked asterisk-core-sounds-en
    with core-sounds-en.txt beside the .g722 files. Raises UserError when pocketsphinx is needed
    and missing or `asterisk` holds no prompts.
    """
    if kind not in ("dev", "test"):
        raise ValueError(f"kind is 'dev' or 'test', not {kind!r}")
    clips = _folder_clips(LIBRIVOX_FOLDER, read_transcripts(LIBRIVOX_FOLDER), "librivox")
    clips += _folder_clips(PROJECT_ROOT / extra_wav, KNOWN_TRANSCRIPTS, "extra")
    if asterisk is not None:
        prompts = _folder_clips(Path(asterisk), read_transcripts(Path(asterisk)), "asterisk")
        if not prompts:
            raise UserError(
                f"{asterisk}: no prompt with a transcript found; wanted the .g722 files of "
                "asterisk-core-sounds-en and core-sounds-en.txt in one folder"
            )
        clips += prompts
    return [clip for clip in clips if clip.split == kind]


def read_transcripts(folder: Path) -> dict[str, str]:
    """`name: text` lines of transcripts.txt or core-sounds-en.txt: name -> words to align."""
    for file in (folder / "transcripts.txt", folder / "core-sounds-en.txt"):
        if file.is_file():
            lines = (line.partition(":") for line in file.read_text().splitlines())
            pairs = ((name.removesuffix(".wav"), spoken_words(text)) for name, _, text in lines)
            return {name: text for name, text in pairs if text}
    raise UserError(f"{folder}: no transcripts.txt or core-sounds-en.txt in it")


_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SYMBOLS = {"*": " star ", "#": " pound ", ";": " "}


def spoken_words(text: str) -> str:
    """A transcript as pocketsphinx's dictionary wants it; empty if it says more than words."""
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
                audio = _read_audio(path)
                segments = aligned(name, audio, text)
                if segments:
                    clips.append(Clip(name, group, audio, segments, text))
                break
    return clips


def _read_audio(path: Path) -> np.ndarray:
    """(S,) float32 mono at 16 kHz; .g722 goes through ffmpeg, which alone knows it."""
    if path.suffix != ".g722":
        from data_loader import read_audio

        return read_audio(path)
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "g722", "-i", str(path)]
    command += ["-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
    result = subprocess.run(command, capture_output=True)
    if result.returncode:
        raise UserError(f"{path}: ffmpeg could not decode it: {result.stderr.decode()[:200]}")
    return np.frombuffer(result.stdout, np.float32)


def aligned(name: str, audio: np.ndarray, text: str) -> tuple[Segment, ...]:
    """Phones of the clip, from the cache or by pocketsphinx; empty when a word is unknown to it."""
    samples = (audio / max(np.abs(audio).max(), 1e-6) * 0.7 * 32767).astype("<i2").tobytes()
    digest = hashlib.sha1(samples + text.encode()).hexdigest()[:12]
    file = CACHE_FOLDER / f"{name.replace('/', '-')}-{digest}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_align(samples, text)))
    return tuple(Segment(*row) for row in json.loads(file.read_text()))


def _align(samples: bytes, text: str) -> list[tuple[str, float, float]]:
    """Two passes of pocketsphinx, words and then phones: (phone, start_s, end_s) in 10 ms steps."""
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
    """A pocketsphinx decoder with beams so wide that the true alignment survives."""
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise UserError(
            "pocketsphinx is not installed; it aligns the recordings: pip install pocketsphinx"
        ) from error
    wide = dict(beam=1e-80, wbeam=1e-60, pbeam=1e-80)
    return Decoder(samprate=SAMPLE_RATE, loglevel="FATAL", bestpath=False, **wide)
