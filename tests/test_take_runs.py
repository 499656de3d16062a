"""Runs on takes: a killed one resumes bit for bit, and the shares of two processes."""

import dataclasses
import hashlib
import multiprocessing
import os
import socket
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import main
from config import RECIPES, DatasetSpec, ModelConfig, Recipe, Split, TrainConfig
from speech.pretrained import encoder_of
from synthetic import feature_store
from synthetic.head import load_head
from tests.spoken import write_pool
from tests.toy import DECODER, moonshine_folder, outcome, run_toy, run_until_killed, same
from training.batches import training_batches
from training.processes import Group, joined

Crops = list[list[tuple[str, str]]]  # of each batch: take and digest of its features and curves


@pytest.fixture
def takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe "toy": takes of 4 s of one clip, two short clips of the head, a tiny network."""
    monkeypatch.setattr(feature_store, "TAKE_S", 4.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moon").mkdir()
    encoder = moonshine_folder(tmp_path / "moon")
    pool = write_pool(tmp_path / "speech")
    model = ModelConfig(
        encoder=encoder_of(encoder, {}), n_vertices=6_045, fps=30, fold=2, vertex_rank=2,
        mix_layers=True, **DECODER,
    )  # fmt: skip
    train = TrainConfig(
        takes=4, max_clip_s=1.0, batch_size=2, steps_per_epoch=2, learning_rate=3e-3,
        warmup_steps=2, w_lips=1e3, w_details=1e3, ema_decay=0.5, preview_every=0,
    )  # fmt: skip
    recipe = Recipe(write_corpus(tmp_path / "data", str(pool)), model, train, encoder)
    monkeypatch.setitem(main.RECIPES, "toy", recipe)
    return recipe


def write_corpus(root: Path, pool: str) -> DatasetSpec:
    """The synthetic data set with a clip of 0.4 s for training and one for validation."""
    (root / "wav").mkdir(parents=True)
    (root / "vertices_npy").mkdir()
    rng = np.random.default_rng(0)
    for subject in ("ada", "ben"):
        name = f"{subject}_sentence01"
        soundfile.write(root / f"wav/{name}.wav", 0.1 * rng.standard_normal(6_800), 16_000)
        still = np.tile(load_head().templates[subject].flatten(), (24, 1))
        np.save(root / f"vertices_npy/{name}.npy", still.astype(np.float32))
    splits = {"train": Split(("ada",), (1,)), "val": Split(("ben",), (1,))}
    return dataclasses.replace(
        RECIPES["synthetic"].dataset, name="toy", root=str(root), phones="", splits=splits,
        speech_pool=pool,
    )  # fmt: skip


def test_a_killed_run_on_takes_resumes_bit_equal(
    takes: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first of two steps of the first epoch."""
    flags = ("--batch_size", "2", "--epochs", "2")
    assert run_toy("--out", "whole", *flags) == 0
    run_until_killed(monkeypatch, 1, "--out", "cut", "--save_every", "0.0000001", *flags)
    assert run_toy("--out", "cut", "--resume", *flags) == 0
    same("whole", "cut")
    weights, rows = outcome("whole")
    assert weights["encoder.mix"].any() and float(rows[-1]["details"]) > 0


def crops_of(recipe: Recipe, group: Group) -> Crops:
    """The crops of two epochs of this process."""
    batches = training_batches(recipe, None, 0, group)
    crops = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        for batch in batches:
            rows = zip(batch["names"], batch["conv"], batch["curves"], strict=True)
            crops.append([
                (name, hashlib.sha256(conv.numpy().tobytes() + lips.numpy().tobytes()).hexdigest())
                for name, conv, lips in rows
            ])  # fmt: skip
    return crops


def crops_of_rank(recipe: Recipe, rank: int, port: int, result: Connection) -> None:
    """In a forked process: `crops_of` as one of two over gloo."""
    torch.set_num_threads(1)
    os.environ |= {
        "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    with joined() as group:
        result.send(crops_of(recipe, group))


def crops_of_two(recipe: Recipe) -> list[Crops]:
    """The crops of both ranks."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = []
    for rank in (0, 1):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=crops_of_rank, args=(recipe, rank, port, theirs))
        process.start()
        results.append((process, ours))
    crops = []
    for process, ours in results:
        assert ours.poll(60), "no crops after a minute"
        crops.append(ours.recv())
        process.join(60)
        assert process.exitcode == 0
    return crops


def test_two_processes_share_the_batches_of_one(takes: Recipe) -> None:
    """Both compute missing takes; together, their crops are those of one process."""
    first, second = crops_of_two(takes)
    assert len(first) == len(second) == 4
    store = feature_store.store_of(takes)
    assert all(store.is_cached(number) for number in range(4))
    together = dataclasses.replace(takes, train=dataclasses.replace(takes.train, batch_size=4))
    for batch, one, other in zip(crops_of(together, Group()), first, second, strict=True):
        assert not set(one) & set(other)
        assert sorted(batch) == sorted(one + other)
    assert crops_of_two(takes) == [first, second]
