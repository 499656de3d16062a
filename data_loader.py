"""From files to tensors: speech, templates, and the clips of a prepared data set in batches.

A prepared data set is a folder with `wav/<subject>_<sentence>.wav` and
`vertices_npy/<subject>_<sentence>.npy`, as FaceFormer, CodeTalker and SelfTalk prepare VOCASET and
BIWI, too. Shapes: B batch, S samples at 16 kHz, T mesh frames, V vertices.
"""

import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from config import SAMPLE_RATE, DatasetSpec, Split
from errors import UserError
from mesh_files import check_file, load_faces, load_mesh, load_npy, load_region, load_templates

__all__ = [
    "MeshSpeechDataset",
    "collate",
    "load_faces",
    "load_mesh",
    "load_region",
    "load_templates",
    "load_wav",
    "make_loader",
    "normalise",
    "read_audio",
]

ENCODER_WINDOW, ENCODER_HOP, ENCODER_FPS = 400, 320, 50  # wav2vec 2.0: samples, samples, Hz
MIN_SAMPLES = ENCODER_WINDOW + ENCODER_HOP  # two windows: the least that makes a frame at 25 fps
RATES = (4_000, 384_000)  # Hz, what is believed of a header
BLOCK_SAMPLES = 1 << 20  # samples a channel read at once, so that 8 channels cost no memory
ZERO_CROSSINGS = 32  # of the resampling filter, each side
KAISER_BETA = 10.0  # 100 dB in the stop band
PASS_BAND = 0.95  # of the lower Nyquist frequency
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
RIFF_UNKNOWN = 0x7FFFFF00  # sizes from here on mean "written to a pipe", not a length


def read_audio(path: str | Path) -> NDArray[np.float32]:
    """Speech (S,) float32 at 16 kHz: channels averaged, scale as in the file (full scale is 1).

    Reads wav, flac, mp3, ogg of any rate and channel count through libsndfile, and whatever it
    does not know (m4a, flv, mp4, ...) through the ffmpeg that imageio-ffmpeg brings. Digital
    silence is valid. Raises `UserError` for a file that is missing, empty, no audio, truncated,
    not finite, or shorter than 45 ms.
    """
    path = check_file(path, "audio")
    samples, rate = _decode(path)
    n_bad = samples.size - int(np.isfinite(samples).sum())
    if n_bad:
        raise UserError(f"audio {path}: {n_bad} of {samples.size} samples are NaN or infinite")
    audio = resample_audio(samples, rate)
    if len(audio) < MIN_SAMPLES:
        raise UserError(
            f"audio {path}: {1000 * len(audio) / SAMPLE_RATE:.0f} ms long; "
            f"at least {1000 * MIN_SAMPLES // SAMPLE_RATE} ms are needed for one frame"
        )
    return audio


def load_wav(path: str | Path) -> NDArray[np.float32]:
    """Speech (S,) float32 at 16 kHz with zero mean and unit variance over the clip.

    See `read_audio` for formats and errors. A silent file gives zeros.
    """
    return normalise(read_audio(path))


def normalise(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """`audio` (S,) with zero mean and unit variance, as transformers' Wav2Vec2FeatureExtractor.

    Its 1e-7 under the root keeps silence silent.
    """
    mean, variance = audio.mean(dtype=np.float64), audio.var(dtype=np.float64)
    return (audio - np.float32(mean)) / np.float32(math.sqrt(variance + 1e-7))


def resample_audio(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """`samples` (N,) at `rate` Hz as (S,) at 16 kHz, by one polyphase filter (Kaiser, 100 dB).

    S = ceil(N * 16000 / rate).
    """
    from scipy.signal import firwin, resample_poly

    if rate == SAMPLE_RATE or len(samples) == 0:
        return np.ascontiguousarray(samples, dtype=np.float32)
    common = math.gcd(rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // common, rate // common
    widest = max(up, down)
    taps = firwin(
        2 * ZERO_CROSSINGS * widest + 1, PASS_BAND / widest, window=("kaiser", KAISER_BETA)
    )
    return resample_poly(samples.astype(np.float32), up, down, window=taps).astype(np.float32)


def _decode(path: Path) -> tuple[NDArray[np.float32], int]:
    """(samples (N,) averaged over channels, rate in Hz)."""
    import soundfile

    _check_riff(path)
    with _quiet_library(), contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(soundfile.SoundFile(path))
        except soundfile.LibsndfileError:
            return _decode_with_ffmpeg(path), SAMPLE_RATE
        if not RATES[0] <= file.samplerate <= RATES[1]:
            raise UserError(f"audio {path}: a rate of {file.samplerate} Hz; wanted {RATES} Hz")
        declared, blocks = file.frames, []
        try:
            while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
        except soundfile.LibsndfileError as error:
            raise UserError(
                f"audio {path}: broken after {_length(blocks)} samples: {error}"
            ) from error
        if _length(blocks) < declared and file.format == "FLAC":  # others only guess their length
            raise UserError(
                f"audio {path}: truncated: {_length(blocks)} of {declared} samples are there; "
                "copy or download it again"
            )
        return np.concatenate([np.zeros(0, np.float32), *blocks]), file.samplerate


@contextlib.contextmanager
def _quiet_library() -> Iterator[None]:
    """Nothing on stderr: libsndfile's mp3 decoder writes lines of its own there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _length(blocks: Sequence[NDArray]) -> int:
    return sum(map(len, blocks))


def _check_riff(path: Path) -> None:
    """Raise `UserError` when a wav's data chunk promises more than the file holds."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return
        while len(chunk := file.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                there = size - file.tell()
                if there < length < RIFF_UNKNOWN:
                    raise UserError(
                        f"audio {path}: truncated: {there} of {length} bytes of sound are there; "
                        "copy or download it again"
                    )
                return
            file.seek(length + length % 2, 1)
    raise UserError(f"audio {path}: a wav header without sound; copy or download it again")


def _decode_with_ffmpeg(path: Path) -> NDArray[np.float32]:
    """Samples (S,) at 16 kHz mono of a file that libsndfile does not know."""
    import subprocess

    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin"]
    command += ["-protocol_whitelist", "file", "-i", f"file:{path.resolve()}"]
    command += ["-vn", "-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "pipe:1"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no sound in it"]
        reason = lines[-1].removeprefix(f"file:{path.resolve()}: ")
        raise UserError(f"audio {path}: neither libsndfile nor ffmpeg can read it: {reason}")
    return np.frombuffer(done.stdout, dtype="<f4").astype(np.float32)


def mesh_frames(n_samples: int, fps: int) -> int:
    """Mesh frames T = A * fps // 50 of a clip, A = (S - 400) // 320 + 1, or 0 when too short."""
    if n_samples < ENCODER_WINDOW:
        return 0
    return ((n_samples - ENCODER_WINDOW) // ENCODER_HOP + 1) * fps // ENCODER_FPS


def samples_for(frames: int, fps: int) -> int:
    """The fewest samples S for which `mesh_frames(S, fps) >= frames`."""
    audio_frames = -(-frames * ENCODER_FPS // fps)
    return ENCODER_WINDOW + ENCODER_HOP * (audio_frames - 1)


class MeshSpeechDataset(Dataset):
    """The clips of one split: items dict(name, subject, audio, template, vertices, frames).

    audio: (S,) float32, 16 kHz, zero mean, unit variance over what is returned.
    template: (V, 3) float32; vertices: (T, V, 3) float32 at `spec.fps`, in the data set's unit;
    frames: T. All are numpy arrays. Audio and vertices are cut to the shorter of the two.

    `crop_s` > 0 cuts longer clips at random to that many seconds, at a whole number of samples a
    frame; `augment(audio, rng)` changes the raw audio (S,) before normalisation, keeping its
    length. Both draw from a generator of (seed, epoch, index): call `set_epoch` every epoch.

    Raises `UserError` when a partner file, a template or every clip is missing, or when vertices
    do not fit the template in number or scale.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        split: str,
        crop_s: float = 0.0,
        augment: Callable[[NDArray[np.float32], Generator], NDArray[np.float32]] | None = None,
        seed: int = 0,
    ) -> None:
        if spec.source_fps % spec.fps:
            raise ValueError(f"source_fps {spec.source_fps} is no multiple of fps {spec.fps}")
        if split not in spec.splits:
            raise ValueError(f"{spec.name} has no split '{split}', only {sorted(spec.splits)}")
        self.spec = spec
        self.split = split
        self.crop_s = crop_s
        self.augment = augment
        self.seed = seed
        self.epoch = 0
        self.clips = find_clips(spec.path(spec.root), spec.splits[split])
        if not self.clips:
            raise UserError(
                f"{spec.name}: no clip of split '{split}' in {spec.path(spec.root)} "
                f"(wav/<subject>_sentenceNN.wav and vertices_npy/<subject>_sentenceNN.npy); "
                "prepare the data first, see the data set's README.md"
            )
        self.templates = load_templates(spec.path(spec.templates))
        for name, subject in self.clips:
            self._check_clip(name, subject)

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        """Choose the crops and augmentations of this epoch."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, subject = self.clips[index]
        fps = self.spec.fps
        audio = read_audio(self._wav_path(name))
        vertices = self._vertices(name)[:: self.spec.source_fps // fps]
        frames = min(mesh_frames(len(audio), fps), len(vertices))
        if frames == 0:
            raise UserError(f"audio {self._wav_path(name)}: too short for one frame at {fps} fps")
        audio = audio[: max(samples_for(frames, fps), MIN_SAMPLES)]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        if 0 < self.crop_s < frames / fps:
            audio, vertices, frames = self._crop(audio, vertices, frames, rng)
        if self.augment is not None:
            audio = self.augment(audio, rng)
        vertices = np.array(vertices[:frames], dtype=np.float32)  # read from disk here
        if not np.isfinite(vertices).all():
            raise UserError(f"vertices {self._npy_path(name)}: NaN or infinite coordinates")
        return {
            "name": name,
            "subject": subject,
            "audio": normalise(audio),
            "template": self.templates[subject],
            "vertices": vertices,
            "frames": frames,
        }

    def trims(self) -> dict[str, float]:
        """Name -> seconds of vertices (> 0) or of audio (< 0) that have no counterpart."""
        import soundfile

        surplus = {}
        for name, _ in self.clips:
            info = soundfile.info(self._wav_path(name))
            frames = len(self._vertices(name))
            surplus[name] = frames / self.spec.source_fps - info.frames / info.samplerate
        return surplus

    def summary(self) -> str:
        """One line: clips, minutes, and how far audio and vertices differ in length."""
        surplus = self.trims()
        frames = sum(len(self._vertices(name)) for name, _ in self.clips)
        worst = max(surplus, key=lambda name: abs(surplus[name]))
        return (
            f"{self.spec.name} {self.split}: {len(self)} clips, "
            f"{frames / self.spec.source_fps / 60:.1f} min; audio and vertices are cut to the "
            f"shorter, at most {abs(surplus[worst]):.2f} s ({worst}: the "
            f"{'vertices' if surplus[worst] > 0 else 'audio'} ran on)"
        )

    def _wav_path(self, name: str) -> Path:
        return _find_audio(self.spec.path(self.spec.root) / "wav", name)

    def _npy_path(self, name: str) -> Path:
        return self.spec.path(self.spec.root) / "vertices_npy" / f"{name}.npy"

    def _vertices(self, name: str) -> NDArray:
        """(frames, V, 3) at source_fps, memory-mapped."""
        path = self._npy_path(name)
        stored = load_npy(path, "vertices", mapped=True)
        frames, wanted = len(stored), self.spec.n_vertices * 3
        if frames == 0 or stored.size != frames * wanted or stored.dtype.kind != "f":
            raise UserError(
                f"vertices {path}: shape {stored.shape} of {stored.dtype}; wanted "
                f"(frames, {wanted}) of float32: is it of another topology?"
            )
        return stored.reshape(frames, self.spec.n_vertices, 3)

    def _check_clip(self, name: str, subject: str) -> None:
        if subject not in self.templates:
            raise UserError(
                f"templates {self.spec.path(self.spec.templates)}: no subject '{subject}' "
                f"(wanted by {name}); it has {', '.join(sorted(self.templates))}"
            )
        template = self.templates[subject]
        if len(template) != self.spec.n_vertices:
            raise UserError(
                f"templates {self.spec.path(self.spec.templates)}: {subject} has {len(template)} "
                f"vertices; {self.spec.name} has {self.spec.n_vertices}"
            )
        first = np.asarray(self._vertices(name)[0], dtype=np.float64)
        extent, wanted = np.ptp(first, axis=0).max(), np.ptp(template, axis=0).max()
        if not 0.5 * wanted < extent < 2.0 * wanted:
            raise UserError(
                f"vertices {self._npy_path(name)}: the first face is {extent:.4g} across, its "
                f"template {wanted:.4g}: another scale or another mesh"
            )

    def _crop(
        self, audio: NDArray[np.float32], vertices: NDArray, frames: int, rng: Generator
    ) -> tuple[NDArray[np.float32], NDArray, int]:
        fps = self.spec.fps
        n_samples = min(max(round(self.crop_s * SAMPLE_RATE), MIN_SAMPLES), len(audio))
        n_frames = mesh_frames(n_samples, fps)
        latest = min(frames - n_frames, (len(audio) - n_samples) * fps // SAMPLE_RATE)
        step = fps // math.gcd(fps, SAMPLE_RATE)  # frames after which samples are whole again
        start = int(rng.integers(latest // step + 1)) * step
        first = start * SAMPLE_RATE // fps
        return audio[first : first + n_samples], vertices[start : start + n_frames], n_frames


def find_clips(root: Path, split: Split) -> list[tuple[str, str]]:
    """(name, subject) of every clip of `split` under `root`, sorted by name.

    A name is <subject>_<sentence>; the sentence's number is its trailing digits, as in
    FaceTalk_170725_00137_TA_sentence01, F2_e01 or F2_01. A pair of subject and sentence of which
    nothing is there is no error (VOCASET lacks some); half a pair is.
    """
    audio = {p.stem for p in (root / "wav").glob("*") if p.suffix.lower() in AUDIO_SUFFIXES}
    meshes = {p.stem for p in (root / "vertices_npy").glob("*.npy")}
    clips = []
    for name in sorted(audio | meshes):
        subject, _, sentence = name.rpartition("_")
        number = re.search(r"\d+$", sentence)
        if subject not in split.subjects or number is None or int(number[0]) not in split.sentences:
            continue
        if name not in meshes:
            raise UserError(f"{root / 'vertices_npy' / name}.npy: missing, its wav is there")
        if name not in audio:
            raise UserError(f"{root / 'wav' / name}.wav: missing, its vertices are there")
        clips.append((name, subject))
    return clips


def _find_audio(folder: Path, name: str) -> Path:
    for suffix in AUDIO_SUFFIXES:
        if (path := folder / f"{name}{suffix}").exists():
            return path
    raise UserError(f"{folder / name}.wav: missing")


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of tensors, padded with zeros behind each clip's end.

    names, subjects: lists of B; audio (B, S); audio_samples (B,) int64; template (B, V, 3);
    vertices (B, T, V, 3); frames (B,) int64. Clip b ends at audio_samples[b] and frames[b].
    """
    return {
        "names": [item["name"] for item in items],
        "subjects": [item["subject"] for item in items],
        "audio": _pad([item["audio"] for item in items]),
        "audio_samples": torch.tensor([len(item["audio"]) for item in items]),
        "template": torch.stack([torch.as_tensor(item["template"]) for item in items]),
        "vertices": _pad([item["vertices"] for item in items]),
        "frames": torch.tensor([len(item["vertices"]) for item in items]),
    }


def _pad(arrays: Sequence[NDArray[np.float32]]) -> Tensor:
    tensors = [torch.as_tensor(array) for array in arrays]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def make_loader(
    dataset: Dataset, batch_size: int, shuffle: bool, seed: int, num_workers: int = 0
) -> DataLoader:
    """Batches of `collate` from any data set of such items, shuffled by a generator of its own.

    `loader.generator` holds the state that a resumed run has to restore.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(seed),
    )
