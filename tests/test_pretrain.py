"""The small encoder: initialisation, reduced precision, batches of corpus and pool, a short run."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import Dataset

from common.errors import run_cli
from config import ENCODERS, RECIPES
from speech.pretrained import load_pretrained
from synthetic import crops, pretrain_encoder
from synthetic.phones import PHONES
from synthetic.pretrain_encoder import PhoneReader, phone_ctc
from wav2vec import TextTeacher


def test_the_transformer_starts_as_the_identity() -> None:
    """With branches at zero only the final layer norm is applied."""
    body = phone_ctc(ENCODERS["wav2vec2"]).wav2vec2.eval()
    hidden = torch.randn(1, 37, 192)
    with torch.no_grad():
        out = body.encoder(hidden.clone()).last_hidden_state
        torch.testing.assert_close(out, body.encoder.layer_norm(hidden))


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_bfloat16_agrees_with_float32(kind: str) -> None:
    torch.manual_seed(0)
    reader = PhoneReader(ENCODERS[kind]).eval()
    for name, parameter in reader.model.named_parameters():
        if name.endswith(pretrain_encoder.BRANCH_ENDS):
            torch.nn.init.normal_(parameter, std=0.05)
    audio = torch.randn(1, 16_000)
    with torch.no_grad():
        exact = reader(audio)[0].flatten()
        with torch.autocast("cpu", torch.bfloat16):
            rough = reader(audio)[0].float().flatten()
    assert torch.corrcoef(torch.stack([exact, rough]))[0, 1] > 0.995


class Numbers(Dataset):
    """Items with the name of their source."""

    def __init__(self, n: int, name: str) -> None:
        self.n, self.name = n, name

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        """No effect."""

    def __getitem__(self, index: int) -> dict:
        if index >= self.n:
            raise IndexError
        return {"name": self.name, "subject": "s", "audio": np.zeros(5, np.float32),
                "template": np.zeros((2, 3), np.float32),
                "vertices": np.zeros((3, 2, 3), np.float32), "frames": 3}  # fmt: skip


@pytest.mark.parametrize(("batch_size", "n_clips"), [(8, 320), (16, 320), (64, 320), (3, 7)])
def test_an_epoch_has_its_steps_for_every_batch_size(
    batch_size: int, n_clips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    recipe = RECIPES["synthetic"]
    train = dataclasses.replace(recipe.train, batch_size=batch_size, steps_per_epoch=40)
    recipe = dataclasses.replace(recipe, train=train)
    monkeypatch.setattr(crops, "PoolCrops", lambda recipe, n: Numbers(n, "pool"))
    batches = crops.MixedBatches(recipe, Numbers(n_clips, "corpus"), workers=0, rank=0, world=1)
    names = [batch["names"][0] for batch in batches]
    assert len(names) == len(batches) == 40
    assert 0 < names.count("corpus") <= 6


def test_pretraining_saves_a_folder_that_loads_as_teacher(tmp_path: Path) -> None:
    """Two real steps on a pool of one clip, then the saved folder as a teacher."""
    pool = tmp_path / "pool"
    pool.mkdir()
    tone = np.sin(np.arange(64_000) * 0.1).astype(np.float32) * 0.5
    soundfile.write(pool / "a.flac", tone, 16_000, subtype="PCM_16")
    row = {"name": "a", "engine": "e", "speaker": "s", "text": "ah",
           "segments": [["sil", 0.0, 1.0], ["aa", 1.0, 3.0], ["m", 3.0, 4.0]]}  # fmt: skip
    (pool / "index.jsonl").write_text(json.dumps(row) + "\n")
    out = tmp_path / "encoder"
    flags = ["--pool", str(pool), "--max_steps", "2", "--batch_size", "2", "--out", str(out)]
    assert run_cli(pretrain_encoder.main, flags) == 0
    teacher = TextTeacher(load_pretrained(str(out)))
    features, logits = teacher(torch.randn(1, 8_000))
    assert features.shape == (1, 24, 192) and logits.shape == (1, 24, len(PHONES))
    assert run_cli(pretrain_encoder.main, [*flags[:-1], "/proc/nowhere"]) == 2
