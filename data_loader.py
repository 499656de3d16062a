"""The clips of a prepared data set as arrays, and batches of them as tensors.

A prepared data set is a folder with `wav/<subject>_<sentence>.wav` and
`vertices_npy/<subject>_<sentence>.npy`, the layout in which FaceFormer, CodeTalker and SelfTalk
prepare VOCASET and BIWI. Shapes: B batch, S samples at 16 kHz, T mesh frames, V vertices.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from common.failures import clip_too_large
from common.frame_rates import parse_rate
from config import SAMPLE_RATE, DatasetSpec
from dataset.clip_files import find_audio, npy_path
from dataset.faces import FACE_M, misfit
from dataset.motion import Motion
from dataset.prepared import check_prepared_with, clip_length, find_clips, first_clip
from dataset.regions import Region, find_regions
from files.arrays import load_npy
from files.meshes import load_templates
from speech.audio import normalise, read_audio
from speech.decoded_audio import DecodedAudio
from speech.timing import MIN_SAMPLES, mesh_frames, samples_for


def load_wav(path: str | Path, audio_track: int | None = None) -> NDArray[np.float32]:
    """Speech (S,) float32 at 16 kHz, normalised to zero mean and unit variance over the clip.

    See `read_audio` for formats, tracks and errors. A silent file gives zeros.
    """
    return normalise(read_audio(path, audio_track))


class MeshSpeechDataset(Dataset):
    """The clips of one split: items dict(name, subject, audio, template, vertices, frames).

    audio: (S,) float32, 16 kHz, zero mean and unit variance over the returned samples.
    template: (V, 3) float32; vertices: (T, V, 3) float32 at `spec.fps`, in the data set's unit;
    frames: T. All are numpy arrays. Audio and vertices are cut to the shorter of the two. Clips
    that are neither cropped nor augmented also have a `key`, the hash of their audio.

    crop_s > 0: longer clips are cropped at random to that many seconds; crops begin at frames whose
    instant is a whole sample. augment(audio, rng): changes the raw audio (S,) before normalisation
    and keeps its length. Both draw from a generator seeded with (seed, epoch, index), so call
    `set_epoch` every epoch. cache: folder for decoded audio; None for no cache.

    Raises `UserError` if one file of a clip, a template or every clip is missing, or if vertices
    do not match the template in number or scale. Items raise it for a broken file and for a clip
    larger than memory.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        split: str,
        crop_s: float = 0.0,
        augment: Callable[[NDArray[np.float32], Generator], NDArray[np.float32]] | None = None,
        seed: int = 0,
        cache: str | None = None,
    ) -> None:
        if split not in spec.splits:
            raise ValueError(f"{spec.name}: split '{split}', expected one of {sorted(spec.splits)}")
        self.spec = spec
        self.source_fps = parse_rate(spec.source_fps, f"{spec.name}: source_fps")
        self.split = split
        self.crop_s = crop_s
        self.augment = augment
        self.seed = seed
        self.epoch = 0
        self.decoded = DecodedAudio(cache)
        self.clips = find_clips(spec.path(spec.root), spec.splits[split])
        if not self.clips:
            first = first_clip(spec.splits[split])
            raise UserError(
                f"{spec.name}: no clip of split '{split}' in {spec.path(spec.root)}, expected "
                f"wav/{first}.wav, vertices_npy/{first}.npy and so on; prepare the data first, see "
                "the data set's README.md"
            )
        self.templates = load_templates(spec.path(spec.templates))
        check_prepared_with(spec, self.templates)
        for name, subject in self.clips:
            self._check_clip(name, subject)

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each clip once. (Indices >= len are further draws, so the default would not stop.)"""
        return (self[index] for index in range(len(self)))

    def set_epoch(self, epoch: int) -> None:
        """Select the crops and augmentations of an epoch."""
        self.epoch = epoch

    def lengths(self) -> list[int]:
        """Frames of each clip in a batch: at `spec.fps`, after cropping."""
        crop = round(self.crop_s * self.spec.fps)
        frames = [self._motion(name).frames for name, _ in self.clips]
        return [min(n, crop) if crop else n for n in frames]

    def sounds(self) -> "Sounds | None":
        """Key and audio of every clip, without vertices; None if clips are cropped or augmented."""
        return None if self.crop_s or self.augment is not None else Sounds(self)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, subject = self.clips[index % len(self)]  # index >= len: another draw of a clip
        try:
            return self._item(index, name, subject)
        except MemoryError as error:
            raise UserError(clip_too_large(name, len(self._vertices(name)))) from error

    def _item(self, index: int, name: str, subject: str) -> dict[str, Any]:
        fps = self.spec.fps
        audio, motion, frames = self._clip(name)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        start = 0
        if 0 < self.crop_s < frames / fps:
            audio, start, frames = self._crop(audio, frames, rng)
        if self.augment is not None:
            audio = self.augment(audio, rng)
        vertices = motion.read(start, frames)
        if not np.isfinite(vertices).all():
            raise UserError(f"vertices {self._npy_path(name)}: NaN or infinite coordinates")
        item = {
            "name": name,
            "subject": subject,
            "audio": normalise(audio),
            "template": self.templates[subject],
            "vertices": vertices,
            "frames": frames,
        }
        if not self.crop_s and self.augment is None:
            item["key"] = key_of(item["audio"])
        return item

    def _clip(self, name: str) -> tuple[NDArray[np.float32], Motion, int]:
        """Raw audio (S,), the motion (>= T frames), and T of the shorter of the two."""
        fps = self.spec.fps
        audio = self.decoded.read(self._wav_path(name))
        motion = self._motion(name)
        frames = min(mesh_frames(len(audio), fps), motion.frames)
        if frames == 0:
            raise UserError(f"audio {self._wav_path(name)}: shorter than one frame at {fps} fps")
        return audio[: max(samples_for(frames, fps), MIN_SAMPLES)], motion, frames

    def trims(self) -> dict[str, float]:
        """Name -> length of the vertices minus length of the audio, in seconds."""
        root = self.spec.path(self.spec.root)
        lengths = {name: clip_length(root, name) for name, _ in self.clips}
        return {name: float(n.frames / self.source_fps - n.sound_s) for name, n in lengths.items()}

    def summary(self) -> str:
        """One line: clips, minutes, and the largest difference between audio and vertices."""
        surplus = self.trims()
        frames = sum(len(self._vertices(name)) for name, _ in self.clips)
        worst = max(surplus, key=lambda name: abs(surplus[name]))
        return (
            f"{self.spec.name} {self.split}: {len(self)} clips, "
            f"{float(frames / self.source_fps / 60):.1f} min; audio and vertices are cut to the "
            f"shorter, at most {abs(surplus[worst]):.2f} s ({worst}: the "
            f"{'vertices' if surplus[worst] > 0 else 'audio'} too long)"
        )

    def _wav_path(self, name: str) -> Path:
        return find_audio(self.spec.path(self.spec.root), name)

    def _npy_path(self, name: str) -> Path:
        return npy_path(self.spec.path(self.spec.root), name)

    def _motion(self, name: str) -> Motion:
        return Motion(self._vertices(name), self.source_fps, self.spec.fps)

    def _vertices(self, name: str) -> NDArray:
        """(frames, V, 3) at source_fps, memory-mapped."""
        path = self._npy_path(name)
        stored = load_npy(path, "vertices", mapped=True)
        frames, width = len(stored), self.spec.n_vertices * 3
        if frames == 0 or stored.size != frames * width or stored.dtype.kind != "f":
            raise UserError(
                f"vertices {path}: shape {stored.shape} of {stored.dtype}, expected "
                f"(frames, {width}) of float32; is it another topology?"
            )
        return stored.reshape(frames, self.spec.n_vertices, 3)

    def _check_clip(self, name: str, subject: str) -> None:
        path = self.spec.path(self.spec.templates)
        if subject not in self.templates:
            raise UserError(
                f"templates {path}: no subject '{subject}' for clip {name}; the file has "
                f"{', '.join(sorted(self.templates))}"
            )
        template = self.templates[subject]
        if len(template) != self.spec.n_vertices:
            raise UserError(
                f"templates {path}: {subject} has {len(template)} vertices, expected "
                f"{self.spec.n_vertices} as in {self.spec.name}"
            )
        size_m = float(np.ptp(template, axis=0).max()) * self.spec.metres_per_unit
        if not FACE_M[0] < size_m < FACE_M[1]:
            raise UserError(
                f"templates {path}: {subject} is {size_m:.3g} m across with "
                f"{self.spec.metres_per_unit:g} m per unit, expected {FACE_M[0]} to {FACE_M[1]} m; "
                "correct the scale or set dataset.metres_per_unit"
            )
        problem = misfit(np.asarray(self._vertices(name)[0], dtype=np.float64), template)
        if problem:
            raise UserError(f"vertices {self._npy_path(name)}: the first frame {problem}")

    def _crop(
        self, audio: NDArray[np.float32], frames: int, rng: Generator
    ) -> tuple[NDArray[np.float32], int, int]:
        """A crop's audio (S,), its first frame and its number of frames."""
        fps = self.spec.fps
        n_samples = min(max(round(self.crop_s * SAMPLE_RATE), MIN_SAMPLES), len(audio))
        n_frames = mesh_frames(n_samples, fps)
        latest = min(frames - n_frames, (len(audio) - n_samples) * fps // SAMPLE_RATE)
        step = fps // math.gcd(fps, SAMPLE_RATE)  # every step-th frame is at a whole sample
        start = int(rng.integers(latest // step + 1)) * step
        first = start * SAMPLE_RATE // fps
        return audio[first : first + n_samples], start, n_frames


class OpenDataset:
    """A data set on disk: every split opened and checked once, every region resolved once.

    regions: "lips" and "upper" if already resolved; cache: folder in which decoded audio is kept,
    None for none. Raises `UserError` as `find_region` does.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        regions: dict[str, Region] | None = None,
        cache: str | None = None,
    ) -> None:
        self.spec, self.cache = spec, cache
        self.regions = find_regions(spec) if regions is None else regions
        self._splits: dict[str, MeshSpeechDataset] = {}

    def split(
        self,
        name: str,
        crop_s: float = 0.0,
        augment: Callable[[NDArray[np.float32], Generator], NDArray[np.float32]] | None = None,
        seed: int = 0,
    ) -> MeshSpeechDataset:
        """The clips of a split, whole and unchanged, or cropped and augmented.

        Raises `UserError` as `MeshSpeechDataset` does when a split is first opened.
        """
        if name not in self._splits:
            self._splits[name] = MeshSpeechDataset(self.spec, name, cache=self.cache)
        clips = copy.copy(self._splits[name])
        clips.crop_s, clips.augment, clips.seed = crop_s, augment, seed
        return clips


class Sounds(Sequence[tuple[str, NDArray[np.float32]]]):
    """(key, normalised audio (S,)) of each clip of a data set, equal to those of its items."""

    def __init__(self, clips: MeshSpeechDataset) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[str, NDArray[np.float32]]:
        audio = normalise(self.clips._clip(self.clips.clips[index][0])[0])
        return key_of(audio), audio


def key_of(audio: NDArray[np.float32]) -> str:
    """Hash of a clip's audio, under which its teacher targets are cached."""
    return hashlib.sha256(audio).hexdigest()


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of tensors, padded with zeros after the end of each clip.

    names, subjects: lists of B; audio (B, S); audio_samples (B,) int64; template (B, V, 3);
    vertices (B, T, V, 3); frames (B,) int64. Clip b ends at audio_samples[b] and frames[b].
    keys: hashes of the B clips' audio, only if all clips have one.

    Items of `synthetic.crops` have no vertices. Their batches have the encoder's features conv
    (B, N, C0), curves (B, T, K), noise (B, T) and, the same for all, basis (K, V, 3) and details,
    vertices of parts that are too small to count in a loss of all vertices.
    """
    keys = [item["key"] for item in items if "key" in item]
    batch = ({"keys": keys} if len(keys) == len(items) else {}) | {
        "names": [item["name"] for item in items],
        "subjects": [item["subject"] for item in items],
        "audio": _pad([item["audio"] for item in items]),
        "audio_samples": torch.tensor([len(item["audio"]) for item in items]),
        "template": torch.stack([torch.as_tensor(item["template"]) for item in items]),
        "frames": torch.tensor([item["frames"] for item in items]),
    }
    for name in ("basis", "details"):
        if name in items[0]:
            batch[name] = torch.as_tensor(items[0][name])
    for name in ("vertices", "conv", "curves", "noise"):
        if name in items[0]:
            batch[name] = _pad([item[name] for item in items])
    return batch


def _pad(arrays: Sequence[NDArray[np.float32]]) -> Tensor:
    tensors = [torch.as_tensor(array) for array in arrays]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
