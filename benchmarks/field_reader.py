"""The lip reader that judges all models of a table: it is trained on true lips alone.

    python -m benchmarks.field_reader --dataset synthetic --out runs/field/reader.safetensors

The reader that training leaves beside a model is too young, and another one for each model. This
one learns the teacher's texts of the train split from true lip motion, by CTC alone, and no model's
predictions. Prints its character error rate on true lips of the validation split.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from common.errors import Parser, UserError, run_cli
from data_loader import MeshSpeechDataset, OpenDataset
from lip_reader import (
    LipReader,
    LipReadingScorer,
    SavedReader,
    edit_distance,
    load_characters,
    save_reader,
)  # fmt: skip
from speech.pretrained import load_pretrained
from training.losses import ctc_loss
from training.recipe import locate_data, named_recipe
from wav2vec import TextTeacher

STEPS, BATCH, RATE, WARM_STEPS = 2_500, 16, 2e-3, 200
SCALES = 0.8, 1.2  # of the lips' motion in training: predicted lips move more or less


class Clip(NamedTuple):
    """True lips of a clip: offsets (T, L, 3) in the data's unit, text (n,), A audio frames."""

    offsets: Tensor
    text: Tensor
    n_audio_frames: int


def main(argv: Sequence[str] | None = None) -> None:
    """Train the reader and write it."""
    parser = Parser(description="Train the lip reader that judges all models.")
    parser.add_argument("--dataset", default="synthetic", help="as of main.py")
    parser.add_argument("--base", help="as of main.py")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS:,}")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(argv)
    recipe, facts = named_recipe(args.dataset, args.base)
    spec, regions = locate_data(recipe.dataset, facts)
    dataset = OpenDataset(spec, regions)
    lips = dataset.regions["lips"]
    teacher = TextTeacher(load_pretrained(recipe.wav2vec2))
    if teacher.n_characters < 2:
        raise UserError(f"{recipe.wav2vec2}: it has no CTC head, so there is no text to read")
    clips = read_clips(dataset.split("train"), lips.indices, teacher)
    torch.manual_seed(1)
    reader = LipReader(
        len(lips.indices), teacher.width, teacher.n_characters, spec.fps, spec.metres_per_unit
    )
    train(reader, clips, teacher.blank, args.steps)
    characters = load_characters(recipe.wav2vec2)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_reader(args.out, reader, lips.indices, lips.source, recipe.wav2vec2, characters)
    saved = SavedReader(reader, lips.indices, lips.source, recipe.wav2vec2, characters)
    scorer = LipReadingScorer(saved, teacher, torch.device("cpu"))
    val = dataset.split("val")
    print(f"error rate on true lips of the validation split: {error_rate(scorer, val):.3f}")


@torch.no_grad()
def read_clips(data: MeshSpeechDataset, lips: np.ndarray, teacher: TextTeacher) -> list[Clip]:
    """Lips (L,) and texts of all clips of a split."""
    clips = []
    for index in tqdm(range(len(data)), desc="texts", mininterval=5):
        item = data[index]
        offsets = item["vertices"][: item["frames"], lips] - item["template"][lips]
        _, logits = teacher(torch.from_numpy(item["audio"])[None])
        text = teacher.decode_text(logits)[0]
        clips.append(Clip(torch.from_numpy(offsets.astype(np.float32)), text, logits.shape[1]))
    return clips


def train(reader: LipReader, clips: Sequence[Clip], blank: int, steps: int) -> None:
    """Train a reader by CTC on clips drawn at random."""
    optimizer = torch.optim.AdamW(reader.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=min(0.5, WARM_STEPS / steps)
    )
    reader.train()
    for _ in (bar := tqdm(range(steps), desc="lip reader", mininterval=5)):
        batch = [clips[int(i)] for i in torch.randint(len(clips), (BATCH,))]
        frames = torch.tensor([len(clip.offsets) for clip in batch])
        offsets = pad_sequence([clip.offsets for clip in batch], batch_first=True)
        scale = torch.empty(len(batch), 1, 1, 1).uniform_(*SCALES)
        offsets = offsets * scale
        lengths = torch.tensor([clip.n_audio_frames for clip in batch])
        _, logits = reader(offsets, int(lengths.max()), frames)
        loss = ctc_loss(logits, [clip.text for clip in batch], lengths, blank)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    reader.eval()


def error_rate(scorer: LipReadingScorer, data: MeshSpeechDataset) -> float:
    """Character error rate of a reader on the true lips of a split."""
    errors = characters = 0
    for index in range(len(data)):
        item = data[index]
        text, n_audio_frames = scorer.transcribe_audio(item["audio"])
        vertices = item["vertices"][: item["frames"]]
        read = scorer.transcribe_lips(vertices, item["template"], n_audio_frames)
        errors, characters = errors + edit_distance(read, text), characters + len(text)
    return errors / max(characters, 1)


if __name__ == "__main__":
    sys.exit(run_cli(main))
