"""The lip reader: a training-time network that recovers the text from the motion of the lips.

Paper, section 3.4 (after SelfTalk): a lip encoder maps lip motion to the space of the speech
encoder's latents (L_lat), and a text decoder maps these to characters (L_ctc). Its only input is
the lips. It is not part of a checkpoint, and inference does not load it. A run saves it in a file
of its own, with which `--mode test` measures how readable predicted lips are.

B batch, T mesh frames, A audio frames at 50 Hz, L lip vertices, K characters.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError, reason_of
from files.models import built_without_memory, load_model_file, misfits, save_model_file
from files.texts import read_json
from layers.transformer import TransformerLayer
from speech.features import length_mask, resample
from speech.timing import AUDIO_FPS
from wav2vec import TextTeacher

CENTIMETRES = 100.0  # in a metre; lip offsets in centimetres are near 1, a good scale for layers
READER_FILE = "reader.safetensors"  # beside the run's best.safetensors
MAX_DIMENSION, MAX_LAYERS = 10**6, 64  # of a reader from a file
HEADER = "lip_reader"  # key of the JSON in that file's header


class LipReader(nn.Module):
    """Lip offsets (B, T, L, 3) to features in the teacher's space and character logits.

    n_lips: L; d_teacher: width of the teacher's features; n_characters: K with the blank; fps: mesh
    frames a second; metres_per_unit: unit of the offsets.
    """

    def __init__(
        self,
        n_lips: int,
        d_teacher: int,
        n_characters: int,
        fps: int,
        metres_per_unit: float = 1.0,
        d_model: int = 128,
        n_layers: int = 2,
        n_heads: int = 4,
    ) -> None:
        super().__init__()
        self.dims = dict(n_lips=n_lips, d_teacher=d_teacher, n_characters=n_characters, fps=fps,
                         metres_per_unit=metres_per_unit, d_model=d_model, n_layers=n_layers,
                         n_heads=n_heads)  # fmt: skip
        self.fps = fps
        self.scale = metres_per_unit * CENTIMETRES
        self.embed = nn.Linear(3 * n_lips, d_model)
        self.layers = nn.ModuleList(
            TransformerLayer(d_model, 2 * d_model, n_heads, n_heads // 2) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.to_latent = nn.Linear(d_model, d_teacher)
        self.to_characters = nn.Linear(d_teacher, n_characters)

    def forward(
        self, offsets: Tensor, n_audio_frames: int, frames: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features (B, A, d_teacher) and logits (B, A, K) for A = n_audio_frames.

        offsets: (B, T, L, 3) lip vertices minus template; frames: (B,) frames of each clip, all T
        when None.
        """
        # the scale is the weight's: offsets are a hundred times as many numbers
        x = F.linear(offsets.flatten(2), self.embed.weight * self.scale, self.embed.bias)
        mask = None if frames is None else length_mask(frames, x.shape[1], x.device)
        for layer in self.layers:
            x = layer(x, mask)
        x = resample(self.norm(x), AUDIO_FPS, frames, rate_in=self.fps)
        missing = n_audio_frames - x.shape[1]  # at most two: T = A·fps // 50
        if missing > 0:
            x = torch.cat([x, x[:, -1:].expand(-1, missing, -1)], dim=1)
        latent = self.to_latent(x[:, :n_audio_frames])  # (B, A, d_teacher)
        return latent, self.to_characters(latent)


@dataclass(frozen=True)
class SavedReader:
    """A trained lip reader with the data that it needs, as stored in a run's folder.

    lips: (L,) int64 indices of its vertices; region: their source in words; teacher: hub name or
    folder of the CTC model whose texts are its targets; characters: those of that model by index,
    () if unknown.
    """

    reader: LipReader
    lips: NDArray[np.int64]
    region: str
    teacher: str
    characters: tuple[str, ...]


def save_reader(
    path: str | Path,
    reader: LipReader,
    lips: Sequence[int] | NDArray | Tensor,
    region: str,
    teacher: str,
    characters: Sequence[str] = (),
) -> None:
    """Write the fields of a `SavedReader` as one .safetensors, whole or not at all.

    Raises `ValueError` where the number of lip vertices is not the reader's, `OSError` as
    `save_model_file`.
    """
    indices = [int(index) for index in lips]
    if len(indices) != reader.dims["n_lips"]:
        raise ValueError(f"{len(indices)} lip vertices, expected {reader.dims['n_lips']}")
    header = {"dims": reader.dims, "lips": indices, "region": region, "teacher": teacher,
              "characters": list(characters)}  # fmt: skip
    weights = {k: v.detach().to("cpu", torch.float32) for k, v in reader.state_dict().items()}
    save_model_file(path, weights, HEADER, header)


def load_reader(path: str | Path) -> SavedReader:
    """The content of a file written by `save_reader`, the reader in evaluation mode.

    Raises `UserError` for a file that is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"lip reader {path}: no such file; training writes it beside the model")
    remedy = f"give the {READER_FILE} of a training run"
    weights, header = load_model_file(path, HEADER, "lip reader", remedy)
    try:
        dims = _checked_dims(header["dims"])
        if wrong := misfits(built_without_memory(lambda: LipReader(**dims)), weights):
            raise ValueError(wrong[0])
        reader = LipReader(**dims)
        reader.load_state_dict(weights)
        lips = np.array(header["lips"], dtype=np.int64)
        if lips.shape != (dims["n_lips"],) or (lips < 0).any():
            raise ValueError("lips are not the indices of n_lips vertices")
        region, teacher = str(header["region"]), str(header["teacher"])
        characters = tuple(map(str, header["characters"]))
        return SavedReader(reader.eval(), lips, region, teacher, characters)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"lip reader {path}: its header does not fit its weights ({reason_of(error, 200)}); "
            f"{remedy}"
        ) from error


def _checked_dims(dims: Any) -> dict[str, float]:
    """The arguments of a `LipReader`; raises `ValueError` for one that it cannot have."""
    if not isinstance(dims, dict):
        raise ValueError(f"dims are {str(dims)[:40]}")
    for name, value in dims.items():
        kind = int | float if name == "metres_per_unit" else int
        if not isinstance(value, kind) or not 0 < value <= MAX_DIMENSION:
            raise ValueError(f"{name} is {str(value)[:40]}")
    if dims.get("n_layers", 0) > MAX_LAYERS:
        raise ValueError(f"n_layers is {dims['n_layers']}, expected at most {MAX_LAYERS}")
    return dims


def load_characters(source: str | Path) -> tuple[str, ...]:
    """The characters of a CTC model by index, from the vocab.json of its folder or hub name.

    () where there is none: they serve only to print texts. Raises `UserError` for a vocab.json
    that is damaged.
    """
    path: Path | None = Path(source) / "vocab.json"
    if not Path(source).is_dir():
        path = _hub_vocabulary(str(source))
    if path is None or not path.is_file():
        return ()
    try:
        vocabulary = read_json(path, "characters")
        if not isinstance(vocabulary, dict):
            raise TypeError(f"it is a {type(vocabulary).__name__}")
        return tuple(sorted(vocabulary, key=vocabulary.__getitem__))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: expected a JSON object of character -> index ({reason_of(error)}); delete it "
            "or download it again"
        ) from error


@functools.cache
def _hub_vocabulary(name: str) -> Path | None:
    """The vocab.json of a model on the hub or in its cache; None where there is none."""
    from transformers.utils import cached_file

    try:
        return Path(cached_file(name, "vocab.json"))
    except OSError:
        return None


def edit_distance(text: Sequence[int], reference: Sequence[int]) -> int:
    """The number of insertions, deletions and substitutions between two texts (Levenshtein).

    Divided by the length of `reference` it is the character error rate.
    """
    costs = list(range(len(reference) + 1))  # of the empty text against each prefix of `reference`
    for row, character in enumerate(text, start=1):
        diagonal, costs[0] = costs[0], row
        for column, expected in enumerate(reference, start=1):
            substituted = diagonal + (character != expected)
            diagonal = costs[column]
            costs[column] = min(substituted, costs[column] + 1, costs[column - 1] + 1)
    return costs[-1]


class LipReadingScorer:
    """Transcribes speech with the teacher and lips with a trained reader, to compare the texts.

    Raises `UserError` where the teacher has no CTC head or is not the one of the reader's training.
    """

    def __init__(self, saved: SavedReader, teacher: TextTeacher, device: torch.device) -> None:
        dims = {"d_teacher": teacher.width, "n_characters": teacher.n_characters}
        expected = {name: saved.reader.dims[name] for name in dims}
        if dims != expected:
            raise UserError(
                f"lip reader's teacher {saved.teacher}: {dims}, expected {expected}; give the "
                "teacher of its training with --encoder"
            )
        if teacher.n_characters < 2:
            raise UserError(
                f"lip reader's teacher {saved.teacher}: no CTC head, so there is no text to compare"
            )
        self.saved, self.device = saved, device
        self.reader, self.teacher = saved.reader.to(device).eval(), teacher.to(device)

    @torch.inference_mode()
    def transcribe_audio(self, audio: NDArray[np.float32]) -> tuple[list[int], int]:
        """The teacher's text as character indices, and its number of audio frames A.

        audio: (S,) float32, zero mean and unit variance.
        """
        _, logits = self.teacher(torch.from_numpy(audio)[None].to(self.device))
        return self.teacher.decode_text(logits)[0].tolist(), logits.shape[1]

    @torch.inference_mode()
    def transcribe_lips(
        self, vertices: NDArray, template: NDArray, n_audio_frames: int
    ) -> list[int]:
        """The reader's text as character indices.

        vertices: (T, V, 3); template: (V, 3); n_audio_frames: A of the clip's audio.
        """
        offsets = vertices[:, self.saved.lips] - template[self.saved.lips]  # (T, L, 3)
        offsets = torch.from_numpy(offsets.astype(np.float32))[None].to(self.device)
        _, logits = self.reader(offsets, n_audio_frames)
        return self.teacher.decode_text(logits)[0].tolist()

    def to_string(self, text: Sequence[int]) -> str:
        """The characters of a text as a string; phones, which have several letters, are separated
        by spaces."""
        names = self.saved.characters
        words = [names[index] if index < len(names) else f"<{index}>" for index in text]
        plain = [name for name in names if not name.startswith(("<", "["))]  # not <pad>, [UNK]
        separator = "" if all(len(name) == 1 for name in plain) else " "
        return separator.join(words)
