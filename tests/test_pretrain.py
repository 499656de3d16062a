"""The small encoder: initialisation, reduced precision, a short training."""

from pathlib import Path

import pytest
import torch

from common.errors import run_cli
from config import ENCODERS
from speech.pretrained import load_pretrained
from synthetic import pretrain_encoder
from synthetic.phones import PHONES
from synthetic.pretrain_encoder import PhoneReader, phone_ctc
from tests.spoken import write_pool
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


def test_pretraining_saves_a_folder_that_loads_as_teacher(tmp_path: Path) -> None:
    """Two real steps on a pool of one clip, then the saved folder as a teacher."""
    pool, out = write_pool(tmp_path / "pool"), tmp_path / "encoder"
    flags = ["--pool", str(pool), "--max_steps", "2", "--batch_size", "2", "--out", str(out)]
    assert run_cli(pretrain_encoder.main, flags) == 0
    teacher = TextTeacher(load_pretrained(str(out)))
    features, logits = teacher(torch.randn(1, 8_000))
    assert features.shape == (1, 24, 192) and logits.shape == (1, 24, len(PHONES))
    assert run_cli(pretrain_encoder.main, [*flags[:-1], "/proc/nowhere"]) == 2
