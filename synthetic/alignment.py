"""Refine phone boundaries by forced alignment with the audio.

The times that engines report are coarse: steps of 25 ms (hibari, Kokoro), or the closure of a stop
is part of the vowel before it (espeak-ng, 40 ms). pocketsphinx (BSD; its wheel includes the
English model) aligns the spoken phones with the audio. Measured against the nearest jump of the
spectrum, the spread within a class of boundary falls from 15 to 10 ms for Kokoro and from 14 to
12 ms for hibari. All engines then share one definition of a phone's start, the same that the
benchmark on real speech uses. `MAX_SHIFT_S` limits the damage of a failed alignment.
"""

from functools import cache
from typing import Any

import numpy as np

from config import SAMPLE_RATE
from synthetic.phones import SILENCE, Segment, merge_segments

ALIGNER_RATE = 100  # Hz, pocketsphinx's frame rate
ALIGNER_LEAD_S = 0.004  # pocketsphinx's boundaries are early by this (median, spectral jumps)
MAX_SHIFT_S = 0.08  # largest distance of a refined boundary from the engine's own
ALIGNER_PEAK = 0.7
BEAM = 1e-80  # wide, because a child's or a robot's voice is far from the acoustic model


def refine(audio: np.ndarray, segments: list[Segment]) -> list[Segment]:
    """The same phones with boundaries refined by forced alignment.

    audio: (S,) at 16 kHz; segments: contiguous, from 0 to the end of the audio. Where pocketsphinx
    cannot align the phones (about one clip in 200), the segments are returned unchanged.
    """
    spoken = [segment for segment in segments if segment.phone != SILENCE]
    aligned = _align(audio, segments)
    if [segment.phone for segment in aligned] != [segment.phone for segment in spoken]:
        return segments
    moved: list[Segment] = []
    for own, new in zip(spoken, aligned, strict=True):
        start_s, end_s = _near(new.start_s, own.start_s), _near(new.end_s, own.end_s)
        moved += [Segment(SILENCE, moved[-1].end_s if moved else 0.0, start_s)]
        moved += [Segment(own.phone, start_s, end_s)]
    moved.append(Segment(SILENCE, moved[-1].end_s, segments[-1].end_s))
    refined = merge_segments(moved)
    is_whole = [s.phone for s in refined if s.phone != SILENCE] == [s.phone for s in spoken]
    return refined if is_whole else segments


def _near(aligned_s: float, own_s: float) -> float:
    """The aligned time, at most `MAX_SHIFT_S` from the engine's own time."""
    return min(max(aligned_s + ALIGNER_LEAD_S, own_s - MAX_SHIFT_S), own_s + MAX_SHIFT_S)


def _align(audio: np.ndarray, segments: list[Segment]) -> list[Segment]:
    """Phones without silence, aligned by pocketsphinx; empty when alignment fails.

    All phones between two pauses form one word of the aligner. Phones then keep their neighbours,
    and the aligner can insert silence only where the engine paused.
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
    except RuntimeError:  # pocketsphinx raises this when no path exists
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
