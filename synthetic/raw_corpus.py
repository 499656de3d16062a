"""The 12 subjects of the corpus, their sentences, and VOCASET's raw layout on disk.

    data_verts.npy         (N, V, 3) float32, all clips one after the other, 60 frames per second
    subj_seq_to_idx.pkl    subject -> sentence -> frame -> row of data_verts
    raw_audio_fixed.pkl    subject -> sentence -> {"audio": (S,) int16, "sample_rate": 22000}
    templates.pkl          subject -> (V, 3) float32

`vocaset/process_voca_data.py` reads these files like the download.
"""

import json
import pickle
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly
from tqdm import tqdm

from common.errors import UserError
from common.whole_file import whole_file, write_whole
from files.arrays import stream_npy
from synthetic.neural_voices import HELD_OUT_VOICES
from synthetic.phones import Segment
from synthetic.sentences import read_sentences
from synthetic.voices import draw_speaker

RAW_FPS = 60  # VOCASET's capture rate
RAW_RATE = 22_000  # Hz, as in VOCASET's raw_audio_fixed.pkl
RAW_FROM_16K = (11, 8)  # 22 000 / 16 000
N_TRAIN, N_VAL, N_TEST = 8, 2, 2  # subjects, in the order of the head
NAMES = ("data_verts.npy", "raw_audio_fixed.pkl", "templates.pkl", "subj_seq_to_idx.pkl")
STAMP_NAME = "made_from.json"  # settings of the four files; not part of VOCASET's layout
# Sex, engine and voice of each subject of the head. The last four (validation and test) have voices
# that are not in the pool.
CAST = (
    ("f", "kokoro", "af_heart"), ("m", "kokoro", "am_michael"), ("m", "hibari", ""),
    ("f", "hibari", ""), ("m", "kokoro", "am_fenrir"), ("f", "kokoro", "bf_emma"),
    ("m", "flite", "rms"), ("f", "hibari", ""), ("f", "kokoro", HELD_OUT_VOICES[0]),
    ("m", "kokoro", HELD_OUT_VOICES[1]), ("f", "kokoro", HELD_OUT_VOICES[2]),
    ("m", "kokoro", HELD_OUT_VOICES[3]),
)  # fmt: skip
HIBARI_F0 = {"f": (0.8, 1.2), "m": (0.48, 0.7)}  # relative to hibari's voice, a woman's
SUBSTITUTE = "hibari"  # speaks for engines that are not installed


@dataclass(frozen=True)
class RawClip:
    """One clip of the corpus: audio (S,) float32 at 16 kHz and its phones."""

    subject: str
    sentence: int  # from 1
    audio: np.ndarray
    segments: list[Segment]

    @property
    def n_raw_samples(self) -> int:
        """Samples at RAW_RATE, rounded up as by `resample_poly`."""
        up, down = RAW_FROM_16K
        return -(-len(self.audio) * up // down)

    @property
    def frames(self) -> int:
        """Frames at RAW_FPS within the audio; an incomplete last frame is dropped."""
        return self.n_raw_samples * RAW_FPS // RAW_RATE


def cast_subjects(
    subjects: Sequence[str], engines: Sequence[str], seed: int
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Subject -> (engine, speaker). A missing engine is replaced by hibari, else the first one."""
    substitute = SUBSTITUTE if SUBSTITUTE in engines else engines[0]
    cast = {}
    for number, subject in enumerate(subjects):
        sex, engine, voice = CAST[number % len(CAST)]
        engine = engine if engine in engines else substitute
        rng = random.Random(f"{seed} subject {number}")
        speaker = draw_speaker(engine, rng) | {"tape": 1.0}
        if engine == "hibari":
            low, high = HIBARI_F0[sex]
            while not low <= speaker["f0"] <= high:
                speaker = draw_speaker(engine, rng)
        elif voice and engine == CAST[number % len(CAST)][1]:
            speaker |= {"voice": voice} | (
                {"other": voice, "weight": 0.0} if engine == "kokoro" else {}
            )
        cast[subject] = (engine, speaker)
    return cast


def subject_texts(subjects: Sequence[str], n_sentences: int, seed: int) -> dict[str, list[str]]:
    """Subject -> its sentences.

    The validation subjects share one half of the held-out sentences and the test subjects the
    other. Each training subject has its own part of the other sentences. Raises `UserError` when
    sentences.txt has too few.
    """
    common, held_out = read_sentences()
    halves = held_out[::2], held_out[1::2]
    limit = min(len(common) // N_TRAIN, len(halves[0]))
    if not 1 <= n_sentences <= limit:
        raise UserError(f"--sentences: expected 1 to {limit}, got {n_sentences}")
    random.Random(f"{seed} sentences").shuffle(common)
    texts = {}
    for number, subject in enumerate(subjects):
        if number < N_TRAIN:
            texts[subject] = common[number * n_sentences : (number + 1) * n_sentences]
        else:
            texts[subject] = halves[number >= N_TRAIN + N_VAL][:n_sentences]
    return texts


def write_raw(
    folder: Path,
    templates: dict[str, np.ndarray],
    clips: Sequence[RawClip],
    animate: Callable[[RawClip], np.ndarray],
    made_from: dict[str, Any],
) -> bool:
    """Write VOCASET's four raw files; returns False when they exist with the same `made_from`.

    templates: subject -> (V, 3); animate: clip -> (clip.frames, V, 3) vertices in metres.
    Raises `UserError` when the disk has too little space.
    """
    stamp = folder / STAMP_NAME
    text = json.dumps(made_from, sort_keys=True)
    is_complete = all((folder / name).is_file() for name in NAMES)
    if is_complete and stamp.is_file() and stamp.read_text() == text:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    n_vertices = len(next(iter(templates.values())))
    _check_space(folder, sum(clip.frames for clip in clips) * n_vertices * 3 * 4)
    _write_vertices(folder / NAMES[0], clips, animate, n_vertices)
    for name, content in zip(NAMES[1:], (_audio(clips), templates, _rows(clips)), strict=True):
        with whole_file(folder / name) as partial, open(partial, "wb") as file:
            pickle.dump(content, file, protocol=2)  # VOCASET's pickles are Python 2's
    write_whole(stamp, text)
    return True


def _write_vertices(
    path: Path,
    clips: Sequence[RawClip],
    animate: Callable[[RawClip], np.ndarray],
    n_vertices: int,
) -> None:
    """Write (N, V, 3) float32, the vertices of all clips."""
    shape = (sum(clip.frames for clip in clips), n_vertices, 3)
    with whole_file(path) as partial:
        stream_npy(partial, shape, map(animate, tqdm(clips, desc="vertices", unit="clip")))


def _sentence(clip: RawClip) -> str:
    return f"sentence{clip.sentence:02d}"


def _rows(clips: Sequence[RawClip]) -> dict[str, dict[str, dict[int, int]]]:
    """Subject -> sentence -> frame -> row of data_verts.npy."""
    rows: dict[str, dict[str, dict[int, int]]] = {}
    first = 0
    for clip in clips:
        frames = {i: first + i for i in range(clip.frames)}
        rows.setdefault(clip.subject, {})[_sentence(clip)] = frames
        first += clip.frames
    return rows


def _audio(clips: Sequence[RawClip]) -> dict[str, dict[str, dict[str, Any]]]:
    """Subject -> sentence -> {"audio": (S,) int16, "sample_rate": 22000}."""
    audio: dict[str, dict[str, dict[str, Any]]] = {}
    for clip in clips:
        sound = {"audio": raw_audio(clip.audio), "sample_rate": RAW_RATE}
        audio.setdefault(clip.subject, {})[_sentence(clip)] = sound
    return audio


def raw_audio(audio: np.ndarray) -> np.ndarray:
    """(S,) float32 at 16 kHz as int16 at 22 kHz."""
    samples = resample_poly(audio.astype(np.float64), *RAW_FROM_16K)
    return np.clip(np.round(samples * 32767), -32768, 32767).astype(np.int16)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: expected {needed / 1e9:.1f} GB of free space, got {free / 1e9:.1f} GB; "
            "choose another --out or fewer --sentences"
        )
