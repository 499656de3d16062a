"""The lip reader: a training-time critic that reads the text back from the moving lips.

Paper, section 3.4 (after SelfTalk): a lip encoder maps lip motion to the space of the speech
encoder's latents (L_lat) and a text decoder reads characters from it (L_ctc). It hears nothing,
so it can only read what the lips show. No checkpoint carries it and inference never loads it; a run
leaves it in a file of its own, so that `--mode test` can say how readable predicted lips are.

B batch, T mesh frames, A audio frames at 50 Hz, L lip vertices, K characters.
"""

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import UserError
from layers.transformer import TransformerLayer
from speech.features import length_mask, resample
from speech.timing import AUDIO_FPS
from wav2vec import TextTeacher

CENTIMETRES = 100.0  # in a metre: lip offsets in centimetres are near 1, which layers like
READER_FILE = "reader.safetensors"  # beside the run's best.safetensors
HEADER = "lip_reader"  # key of the JSON in that file's header


class LipReader(nn.Module):
    """Lip offsets (B, T, L, 3) to teacher-space features and character logits.

    n_lips: L; d_teacher: width of the teacher's latents; n_characters: K, blank included;
    fps: mesh frames a second; metres_per_unit: of the offsets.
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

        offsets: (B, T, L, 3) lip vertices minus template; frames: (B,) real frames of each clip.
        """
        x = self.embed(offsets.flatten(2) * self.scale)  # (B, T, d_model)
        mask = None if frames is None else length_mask(frames, x.shape[1], x.device)
        for layer in self.layers:
            x = layer(x, mask)
        x = resample(self.norm(x), AUDIO_FPS, frames, rate_in=self.fps)
        missing = n_audio_frames - x.shape[1]  # at most two: T = A·fps // 50
        if missing > 0:
            x = torch.cat([x, x[:, -1:].expand(-1, missing, -1)], dim=1)
        latent = self.to_latent(x[:, :n_audio_frames])  # (B, A, d_teacher)
        return latent, self.to_characters(latent)  # fmt: skip


@dataclass(frozen=True)
class SavedReader:
    """A trained lip reader and what it was trained with, as a run folder keeps it.

    lips: (L,) vertices it looks at; region: where they came from; teacher: the hub name or folder
    of the CTC model whose text it learnt; characters: that model's, by index (may be empty).
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
    """Write a `SavedReader`'s parts as one .safetensors, whole or not at all."""
    from safetensors.torch import save_file

    path = Path(path)
    indices = [int(index) for index in lips]
    if len(indices) != reader.dims["n_lips"]:
        raise ValueError(f"{len(indices)} lip vertices; the reader has {reader.dims['n_lips']}")
    header = {"dims": reader.dims, "lips": indices, "region": region, "teacher": teacher,
              "characters": list(characters)}  # fmt: skip
    weights = {k: v.detach().to("cpu", torch.float32) for k, v in reader.state_dict().items()}
    temporary = path.with_name(path.name + ".tmp")
    save_file(weights, temporary, metadata={HEADER: json.dumps(header)})
    temporary.chmod(0o644)  # safetensors makes files that only their owner can read
    os.replace(temporary, path)


def load_reader(path: str | Path) -> SavedReader:
    """The reader of a file written by `save_reader`, in evaluation mode.

    Raises `UserError` for a missing, broken or foreign file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise UserError(f"lip reader {path}: no such file; training leaves it beside the model")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        reader = LipReader(**header["dims"])
        reader.load_state_dict(weights)
        lips = np.array(header["lips"], dtype=np.int64)
        characters = tuple(header["characters"])
        saved = SavedReader(reader.eval(), lips, header["region"], header["teacher"], characters)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"lip reader {path}: main.py wrote no such file ({reason})") from error
    return saved


def load_characters(source: str | Path) -> tuple[str, ...]:
    """The characters of a CTC model by index, from the vocab.json of its folder or hub name.

    () where there is none: they only spell out what was read.
    """
    path: Path | None = Path(source) / "vocab.json"
    if not Path(source).is_dir():
        path = _hub_vocabulary(str(source))
    if path is None or not path.is_file():
        return ()
    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))
        return tuple(sorted(vocabulary, key=vocabulary.__getitem__))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a JSON object of character -> index ({error})") from error


@functools.cache
def _hub_vocabulary(name: str) -> Path | None:
    from transformers.utils import cached_file

    try:
        return Path(cached_file(name, "vocab.json"))
    except OSError:
        return None


def edit_distance(read: Sequence[int], heard: Sequence[int]) -> int:
    """Insertions, deletions and substitutions that turn one text into the other (Levenshtein).

    Divided by the length of `heard` it is the character error rate.
    """
    costs = list(range(len(heard) + 1))  # of the empty text against every beginning of `heard`
    for row, character in enumerate(read, start=1):
        diagonal, costs[0] = costs[0], row
        for column, wanted in enumerate(heard, start=1):
            substituted = diagonal + (character != wanted)
            diagonal = costs[column]
            costs[column] = min(substituted, costs[column] + 1, costs[column - 1] + 1)
    return costs[-1]


class LipReadingScorer:
    """Reads lips with a trained reader and counts its errors against what the teacher hears."""

    def __init__(self, saved: SavedReader, teacher: TextTeacher, device: torch.device) -> None:
        dims = saved.reader.dims
        found = {"d_teacher": teacher.width, "n_characters": teacher.n_characters}
        if any(dims[name] != value for name, value in found.items()):
            wanted = {name: dims[name] for name in found}
            raise UserError(f"lip reader's teacher {saved.teacher}: {found}; it learnt {wanted}")
        if teacher.n_characters < 2:
            raise UserError(f"lip reader's teacher {saved.teacher} reads no text: no CTC head")
        self.saved, self.device = saved, device
        self.reader, self.teacher = saved.reader.to(device).eval(), teacher.to(device)

    @torch.inference_mode()
    def transcribe_audio(self, audio: NDArray[np.float32]) -> tuple[list[int], int]:
        """The teacher's text of a normalised clip (S,), as character indices, and its A frames."""
        _, logits = self.teacher(torch.from_numpy(audio)[None].to(self.device))
        return self.teacher.decode_text(logits)[0].tolist(), logits.shape[1]

    @torch.inference_mode()
    def transcribe_lips(
        self, vertices: NDArray, template: NDArray, n_audio_frames: int
    ) -> list[int]:
        """What the reader makes of the lips of (T, V, 3) over a template (V, 3)."""
        offsets = vertices[:, self.saved.lips] - template[self.saved.lips]  # (T, L, 3)
        offsets = torch.from_numpy(offsets.astype(np.float32))[None].to(self.device)
        _, logits = self.reader(offsets, n_audio_frames)
        return self.teacher.decode_text(logits)[0].tolist()

    def to_string(self, text: Sequence[int]) -> str:
        """Characters of a text; phones, which have several letters, with spaces between."""
        names = self.saved.characters
        words = [names[index] if index < len(names) else f"<{index}>" for index in text]
        plain = [name for name in names if not name.startswith(("<", "["))]  # not <pad>, [UNK]
        return ("" if all(len(name) == 1 for name in plain) else " ").join(words)
