"""Training of the phone head: crops, loss, a short run, the folder that it writes."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.errors import run_cli
from speech.phone_head import PhoneHead
from speech.pretrained import load_pretrained
from synthetic import feature_store, pretrain_encoder
from synthetic.phones import PHONE_INDEX, PHONES
from synthetic.pretrain_encoder import HEAD, Plan, measure, phone_loss
from synthetic.speech import phones_at
from tests.spoken import write_pool
from tests.toy import Killed, ctc_folder, moonshine_folder
from wav2vec import TextTeacher

N_FRAMES, N_STATES, WIDTH = 13, 3, 16


def head_of(n_phones: int) -> PhoneHead:
    torch.manual_seed(0)
    return PhoneHead(N_STATES, WIDTH, n_phones, **HEAD)


def test_the_loss_is_the_cross_entropy_of_smoothed_targets() -> None:
    head = head_of(n_phones=5).eval()
    states, phones = torch.randn(2, N_FRAMES, N_STATES, WIDTH), torch.randint(5, (2, N_FRAMES))
    loss, parts = phone_loss(head, states.half(), phones)
    logits = head(head.latents(states.half().float()))
    targets = 0.95 * F.one_hot(phones, 5) + 0.05 / 5
    expected = -(targets * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(loss, expected)
    assert parts["right"] == pytest.approx((logits.argmax(-1) == phones).float().mean().item())


def test_the_loss_falls_in_training() -> None:
    """Frames whose phone is visible in the states; measured by the function of the command."""
    torch.manual_seed(1)
    codes = torch.randn(4, N_STATES, WIDTH)

    class Batches(torch.utils.data.IterableDataset):
        numbers = (0,)

        def __iter__(self):
            generator = torch.Generator().manual_seed(0)
            while True:
                phones = torch.randint(4, (4, N_FRAMES), generator=generator)
                yield codes[phones].half(), phones

    plan = Plan(minutes=1, max_steps=50, batch_size=4)
    head = head_of(n_phones=4)
    before = measure(head.eval(), Batches())
    after = measure(
        pretrain_encoder.fit(head, Batches(), phone_loss, plan, lambda line: None), Batches()
    )
    assert after["phone"] < 0.9 * before["phone"]


def test_states_and_phones_of_a_stored_take_are_of_the_same_instants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States that hold the number of their frame: the phone at its centre is the crop's phone."""
    monkeypatch.setattr(feature_store, "TAKE_S", 8.0)
    (tmp_path / "encoder").mkdir()
    encoder = moonshine_folder(tmp_path / "encoder")
    store = feature_store.FeatureStore(write_pool(tmp_path / "pool"), encoder)
    take = store[0]
    numbered = np.repeat(np.arange(len(take.states))[:, None], 3 * WIDTH, 1).astype(np.float16)
    monkeypatch.setattr(
        feature_store.FeatureStore, "__getitem__",
        lambda self, number: dataclasses.replace(take, states=numbered),
    )  # fmt: skip
    batches = pretrain_encoder.StoredTakes(store, [0], Plan(1, crop_s=3.0))
    states, phones = batches.crop(np.random.default_rng(4))
    assert states.shape == (149, 3, WIDTH)
    instants = (states[10:-10, 0, 0].double().numpy() * 384 + 447) / 16_000
    assert (phones_at(take.segments, instants) == phones[10:-10].numpy()).mean() > 0.95


def test_training_saves_a_folder_that_loads_as_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One real step on a pool of one clip; the weights of the encoder stay as they are."""
    pool, out = write_pool(tmp_path / "pool"), tmp_path / "out"
    (tmp_path / "encoder").mkdir()
    encoder = moonshine_folder(tmp_path / "encoder")
    monkeypatch.setattr(feature_store, "TAKE_S", 8.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    flags = ["--pool", str(pool), "--encoder", encoder, "--max_steps", "1", "--takes", "2"]
    assert run_cli(pretrain_encoder.main, [*flags, "--out", str(out)]) == 0
    before, after = (
        hashlib.sha256((folder / "model.safetensors").read_bytes()).digest()
        for folder in (Path(encoder), out)
    )
    assert before == after
    assert json.loads((out / "vocab.json").read_text()) == PHONE_INDEX
    teacher = TextTeacher(load_pretrained(str(out)))
    audio = torch.randn(1, 8_000)
    features, logits = teacher(audio)
    assert features.shape == (1, 24, 16) and logits.shape == (1, 24, len(PHONES))
    assert (teacher.width, teacher.n_characters, teacher.blank) == (16, len(PHONES), 0)
    assert run_cli(pretrain_encoder.main, [*flags, "--out", "/proc/nowhere/x"]) == 2


def test_a_folder_that_is_replaced_is_never_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two renames: the older folder is whole under another name."""
    new, out = tmp_path / "out.partial", tmp_path / "out"

    def write(folder: Path, content: str) -> None:
        folder.mkdir()
        (folder / "config.json").write_text(content)

    write(out, "older")
    write(new, "new")
    real = Path.rename

    def rename(path: Path, to: Path) -> None:
        if path == new:
            raise Killed
        real(path, to)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            pretrain_encoder.replace_folder(new, out)
    assert (tmp_path / "out.replaced/config.json").read_text() == "older"
    pretrain_encoder.replace_folder(new, out)
    assert (out / "config.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_encoder_that_is_trained_with_its_head_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.toy import ENCODER

    ctc_folder(tmp_path / "encoder", ENCODER)
    pool = write_pool(tmp_path / "pool")
    flags = ["--pool", str(pool), "--encoder", str(tmp_path / "encoder"), "--max_steps", "1"]
    capsys.readouterr()  # transformers shows its progress in writing the encoder
    assert run_cli(pretrain_encoder.main, flags) == 2
    error = capsys.readouterr().err
    assert "expected an encoder that stays frozen" in error and error.count("\n") == 1
