"""Phone boundaries moved to where a forced alignment hears them.

The engines' own times come in steps of 25 ms (hibari, Kokoro) or count the closure of a stop to
the vowel before it (espeak-ng: 40 ms). pocketsphinx (BSD; its wheel holds the English model) aligns
the phones that were spoken with the sound. Measured against the nearest jump of the spectrum, the
spread within a class of boundary falls from 15 to 10 ms for Kokoro and from 14 to 12 for hibari,
and all engines get the same idea of where a phone begins, which is also that of the judge of real
speech (benchmarks). `MOST_S` keeps a lost alignment from doing harm.
"""

from functools import cache
from typing import Any

import numpy as np

from config import SAMPLE_RATE
from synthetic.phones import SILENCE, Segment, merge_segments

ALIGNER_RATE = 100  # Hz, pocketsphinx's frames
ALIGNER_LEAD_S = 0.004  # its frames are named by their beginning; median against spectral jumps
MOST_S = 0.08  # a boundary moves no further than this from the engine's
ALIGNER_PEAK = 0.7
BEAM = 1e-80  # wide: a child's or a robot's voice is far from the model


def refine(audio: np.ndarray, segments: list[Segment]) -> list[Segment]:
    """The same phones with better boundaries.

    audio: (S,) at 16 kHz; segments: from 0 to its end. Where pocketsphinx finds no path through
    the phones (about one clip in 200), the engine's own times stand.
    """
    spoken = [segment for segment in segments if segment.phone != SILENCE]
    aligned = _align(audio, segments)
    if [segment.phone for segment in aligned] != [segment.phone for segment in spoken]:
        return segments
    moved: list[Segment] = []
    for own, heard in zip(spoken, aligned, strict=True):
        start_s, end_s = _near(heard.start_s, own.start_s), _near(heard.end_s, own.end_s)
        moved += [Segment(SILENCE, moved[-1].end_s if moved else 0.0, start_s)]
        moved += [Segment(own.phone, start_s, end_s)]
    moved.append(Segment(SILENCE, moved[-1].end_s, segments[-1].end_s))
    refined = merge_segments(moved)
    is_whole = [s.phone for s in refined if s.phone != SILENCE] == [s.phone for s in spoken]
    return refined if is_whole else segments


def _near(heard_s: float, own_s: float) -> float:
    return min(max(heard_s + ALIGNER_LEAD_S, own_s - MOST_S), own_s + MOST_S)


def _align(audio: np.ndarray, segments: list[Segment]) -> list[Segment]:
    """Phones without silence as pocketsphinx places them; empty when it finds no path.

    What stands between two pauses is one word of the aligner, so that phones keep their
    neighbours and silence may only come where the engine paused.
    """
    decoder = _decoder()
    words, run = [], []
    for phone in [*(segment.phone for segment in segments), SILENCE]:
        if phone != SILENCE:
            run.append(phone.upper())
        elif run:
            words.append("_".join(run).lower())
            if decoder.lookup_word(words[-1]) is None:
                decoder.add_word(words[-1], " ".join(run), False)
            run = []
    level = ALIGNER_PEAK / max(float(np.abs(audio).max()), 1e-6)
    sound = np.round(audio * level * 32767).astype(np.int16).tobytes()
    try:
        decoder.set_align_text(" ".join(words))
        _decode(decoder, sound)
        decoder.set_alignment()
        _decode(decoder, sound)
    except RuntimeError:  # pocketsphinx's way to say that no path was found
        return []
    phones = [phone for word in decoder.get_alignment() for phone in word]
    return [
        Segment(
            phone.name.lower(),
            phone.start / ALIGNER_RATE,
            (phone.start + phone.duration) / ALIGNER_RATE,
        )
        for phone in phones
        if not phone.name.startswith(("SIL", "+"))
    ]


def _decode(decoder: Any, sound: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(sound, full_utt=True)
    decoder.end_utt()


@cache
def _decoder() -> Any:
    from pocketsphinx import Decoder

    return Decoder(
        samprate=SAMPLE_RATE, loglevel="FATAL", bestpath=False, beam=BEAM, wbeam=1e-60, pbeam=BEAM
    )
