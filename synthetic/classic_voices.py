"""flite, festival and espeak-ng: the older speech engines, used where they are installed.

Their sound is buzzy or robotic, but their phone times are exact and their voices differ from those
of the neural engines. espeak-ng (GPL-3, its output is free) is loaded from the system's library or
from PyPI's espeakng-loader; no part of it is included here.
"""

import ctypes
import ctypes.util
import importlib.util
import random
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from synthetic.phones import (
    RADIO_TO_PHONE,
    SILENCE,
    Segment,
    ipa_to_phones,
    merge_segments,
)

ENGINE_TIMEOUT_S = 60
FESTIVAL_VOICES = ("cmu_us_slt_arctic_hts", "ked_diphone", "kal_diphone")
ESPEAK_ACCENTS = ("en-us", "en-us", "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp")
_FAMILIES = {"+f": range(1, 6), "+m": range(1, 9), "+klatt": (2, 4)}
_NAMED = ("+linda", "+steph", "+michael", "+belinda", "+adam", "+john", "+max", "+paul")
ESPEAK_VARIANTS = ("", *(f"{f}{i}" for f, numbers in _FAMILIES.items() for i in numbers), *_NAMED)
# speak_lib.h
ESPEAK_SYNCHRONOUS = 2
ESPEAK_IPA_EVENTS = 1 | 2  # espeakINITIALIZE_PHONEME_EVENTS | espeakINITIALIZE_PHONEME_IPA
ESPEAK_EVENT_END, ESPEAK_EVENT_PHONEME = 0, 7
ESPEAK_RATE, ESPEAK_PITCH, ESPEAK_RANGE = 1, 3, 4
ESPEAK_UTF8 = 1


class FliteVoices:
    """Debian's flite: slt (woman), rms (man), awb (Scot), kal16 (diphones)."""

    name = "flite"
    offset_s = -0.003

    @staticmethod
    def unavailable() -> str:
        """Why the engine cannot run here, else ""."""
        return "" if shutil.which("flite") else "no flite command (apt-get install flite)"

    def draw_speaker(self, rng: random.Random) -> dict[str, Any]:
        """A voice, a duration factor and, for the diphone voice, a pitch in Hz."""
        voice = rng.choice(("slt", "rms", "awb", "slt", "rms", "awb", "kal16"))
        speaker = {"voice": voice, "stretch": round(rng.uniform(0.8, 1.25), 3)}
        return speaker | ({"f0_hz": rng.randint(80, 190)} if voice == "kal16" else {})

    def synthesize(
        self, text: str, speaker: dict[str, Any], rng: random.Random
    ) -> tuple[np.ndarray, int, list[Segment]]:
        """(samples (S,) float32, sample rate in Hz, segments) of `text`."""
        stretch = speaker["stretch"] * rng.uniform(0.95, 1.06)
        command = ["flite", "-voice", speaker["voice"], "--setf", f"duration_stretch={stretch:.3f}"]
        if "f0_hz" in speaker:
            command += ["--setf", f"int_f0_target_mean={speaker['f0_hz']}"]
        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder) / "flite.wav"
            done = subprocess.run(
                [*command, "-psdur", "-t", text, "-o", str(wav)],
                capture_output=True, text=True, check=True, timeout=ENGINE_TIMEOUT_S,
            )  # fmt: skip
            samples, rate = soundfile.read(wav, dtype="float32")
        ends = [token.rsplit(":", 1) for token in done.stdout.split() if ":" in token]
        return samples, rate, segments_from_ends([(name, float(end)) for name, end in ends])


class FestivalVoices:
    """Debian's festival with an HTS voice and two diphone voices."""

    name = "festival"
    offset_s = 0.0

    @staticmethod
    def unavailable() -> str:
        """Why the engine cannot run here, else ""."""
        if not shutil.which("festival"):
            return "no festival command; install it and its voices, see synthetic/README.md"
        return "" if festival_voices() else "no festival voice of those in synthetic/README.md"

    def draw_speaker(self, rng: random.Random) -> dict[str, Any]:
        """A voice and a duration factor."""
        voice = rng.choice(festival_voices())
        return {"voice": voice, "stretch": round(rng.uniform(0.85, 1.2), 3)}

    def synthesize(
        self, text: str, speaker: dict[str, Any], rng: random.Random
    ) -> tuple[np.ndarray, int, list[Segment]]:
        """(samples (S,) float32, sample rate in Hz, segments) of `text`."""
        stretch = speaker["stretch"] * rng.uniform(0.95, 1.06)
        quoted = text.replace("\\", " ").replace('"', " ")
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "say.scm"
            script.write_text(
                f"(voice_{speaker['voice']})\n"
                f"(Parameter.set 'Duration_Stretch {stretch:.3f})\n"
                f'(set! u (SynthText "{quoted}"))\n'
                f'(utt.save.wave u "{folder}/say.wav" \'riff)\n'
                f'(utt.save.segs u "{folder}/say.lab")\n'
            )
            subprocess.run(
                ["festival", "-b", str(script)],
                capture_output=True, check=True, timeout=ENGINE_TIMEOUT_S,
            )  # fmt: skip
            samples, rate = soundfile.read(Path(folder) / "say.wav", dtype="float32")
            rows = [line.split() for line in (Path(folder) / "say.lab").read_text().splitlines()]
        ends = [(row[2], float(row[0])) for row in rows if len(row) == 3]
        return samples, rate, segments_from_ends(ends)


class EspeakVoices:
    """espeak-ng's formant and Klatt voices; its phoneme events are exact to the sample."""

    name = "espeak"
    offset_s = -0.010

    def __init__(self) -> None:
        library, data = _espeak_library()
        self._library = ctypes.CDLL(library)
        self._rate = self._library.espeak_Initialize(
            ESPEAK_SYNCHRONOUS, 0, data.encode() if data else None, ESPEAK_IPA_EVENTS
        )
        self._samples: list[np.ndarray] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _ESPEAK_CALLBACK(self._receive)  # the library stores a bare pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    @staticmethod
    def unavailable() -> str:
        """Why the engine cannot run here, else ""."""
        if _espeak_library()[0]:
            return ""
        return "no espeak-ng library (apt-get install espeak-ng, or pip install espeakng-loader)"

    def draw_speaker(self, rng: random.Random) -> dict[str, Any]:
        """An accent, a variant, a rate (words per minute), a pitch and its range (0 to 100)."""
        return {
            "voice": rng.choice(ESPEAK_ACCENTS) + rng.choice(ESPEAK_VARIANTS),
            "rate": rng.randint(125, 240),
            "pitch": rng.randint(25, 70),
            "range": rng.randint(20, 80),
        }

    def synthesize(
        self, text: str, speaker: dict[str, Any], rng: random.Random
    ) -> tuple[np.ndarray, int, list[Segment]]:
        """(samples (S,) float32, sample rate in Hz, segments) of `text`."""
        library = self._library
        library.espeak_SetVoiceByName(speaker["voice"].encode())
        rate = round(speaker["rate"] * rng.uniform(0.95, 1.06))
        library.espeak_SetParameter(ESPEAK_RATE, rate, 0)
        library.espeak_SetParameter(ESPEAK_PITCH, speaker["pitch"], 0)
        library.espeak_SetParameter(ESPEAK_RANGE, speaker["range"], 0)
        self._samples, self._events = [], []
        encoded = text.encode()
        library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, ESPEAK_UTF8, None, None)
        library.espeak_Synchronize()
        samples = np.concatenate(self._samples).astype(np.float32) / 32768
        events = [*self._events, (len(samples), "")]
        segments: list[Segment] = []
        for (start, ipa), (end, _) in zip(events[:-1], events[1:], strict=True):
            phones = ipa_to_phones(ipa) or [SILENCE]
            bounds = np.linspace(start, end, len(phones) + 1) / self._rate
            segments += map(Segment, phones, bounds[:-1].tolist(), bounds[1:].tolist())
        return samples, self._rate, merge_segments(segments)

    def _receive(self, samples: Any, n_samples: int, events: Any) -> int:
        """Callback of the library: collect samples and phoneme events; 0 continues synthesis."""
        if samples and n_samples > 0:
            self._samples.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        i = 0
        while events[i].type != ESPEAK_EVENT_END:
            if events[i].type == ESPEAK_EVENT_PHONEME:
                name = bytes(events[i].id.string).decode("utf-8", "ignore").rstrip("\0")
                self._events.append((events[i].sample, name))
            i += 1
        return 0


class _EspeakEventId(ctypes.Union):
    _fields_ = [
        ("number", ctypes.c_int),
        ("name", ctypes.c_void_p),
        ("string", ctypes.c_char * 8),
    ]


class _EspeakEvent(ctypes.Structure):
    """espeak_EVENT of speak_lib.h; `sample` is the event's position in the audio."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EspeakEventId),
    ]


_ESPEAK_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_EspeakEvent)
)


def _espeak_library() -> tuple[str, str]:
    """(library, its data folder or ""): the system's, else espeakng-loader's, else ("", "")."""
    library = ctypes.util.find_library("espeak-ng")
    if library:
        return library, ""
    if importlib.util.find_spec("espeakng_loader"):
        import espeakng_loader

        return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
    return "", ""


def segments_from_ends(ends: list[tuple[str, float]]) -> list[Segment]:
    """Segments from (phone name, end in seconds); the list ends where times decrease.

    Raises KeyError for an unknown name, since a missing phone would leave the mouth still.
    """
    segments, start_s = [], 0.0
    for name, end_s in ends:
        if end_s < start_s:
            break
        segments.append(Segment(RADIO_TO_PHONE[name], start_s, end_s))
        start_s = end_s
    return merge_segments(segments)


def festival_voices() -> list[str]:
    """The voices of FESTIVAL_VOICES that are installed in festival's default folders."""
    roots = [Path("/usr/share/festival/voices"), Path("/usr/local/share/festival/voices")]
    return [
        voice
        for voice in FESTIVAL_VOICES
        if any(path.is_dir() for root in roots for path in root.glob(f"*/{voice}"))
    ]
