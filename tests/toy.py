"""What tests share: a toy data set and recipe on disk, tiny networks, and runs of them."""

import csv
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import main
from common import whole_file
from common.errors import run_cli
from config import DatasetSpec, ModelConfig, Recipe, Split, TrainConfig
from files.models import save_model_file
from jambatalk import JambaTalk, save_checkpoint
from lip_reader import LipReader
from speech.bodies import build_body, build_ctc, transformers_config
from speech.pretrained import encoder_of, load_body
from speech.timing import mesh_frames
from synthetic.head import load_head
from synthetic.phones import PHONE_INDEX, PHONES
from training.networks import Networks
from training.step import TrainingStep
from wav2vec import SpeechEncoder, TextTeacher

V = 11
DECODER = dict(  # fields of ModelConfig
    layout="MEA", d_model=24, d_state=4, moe_d_state=4, moe_d_conv=4, n_heads=4, n_kv_heads=2,
    d_ff=32, rope_rank=3,
)  # fmt: skip
# Of `networks`: encoders without randomness, their lips and losses.
LIPS = torch.tensor([2, 3, 7])
TINY = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
    conv_dim=[16] * 7, num_conv_pos_embedding_groups=2, num_conv_pos_embeddings=16,
    vocab_size=7, pad_token_id=0, apply_spec_augment=False, hidden_dropout=0.0,
    attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
)  # fmt: skip
ENCODERS = {
    "group": TINY | dict(feat_extract_norm="group", do_stable_layer_norm=False),
    "layer": TINY | dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True),
}
TRAIN = TrainConfig(w_vertex=10.0, w_velocity=10.0, w_lips=5.0, w_latent=1.0, w_ctc=0.1,
                    closure_gain=2.0)  # fmt: skip
# Of `toy_recipe`: its encoder, and the flags of a short training.
ENCODER = dict(
    model_type="wav2vec2", hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=32, conv_dim=[16] * 7, num_conv_pos_embedding_groups=2,
    feat_extract_norm="layer", do_stable_layer_norm=True, apply_spec_augment=True,
    mask_time_length=3,
)  # fmt: skip
FLAGS = ["--dataset", "toy", "--mode", "train", "--workers", "0", "--precision", "fp32",
         "--epochs", "3", "--batch_size", "1"]  # fmt: skip


def write_clips(root: Path) -> None:
    """Two subjects, three sentences: tones whose loudness opens the mouth (vertices 3 to 5)."""
    rng = np.random.default_rng(0)
    (root / "wav").mkdir(parents=True)
    (root / "vertices_npy").mkdir()
    templates = {name: rng.uniform(-0.1, 0.1, (V, 3)).astype(np.float32) for name in "ab"}
    np.savez(root / "templates.npz", **templates)
    lines = []
    for subject, template in templates.items():
        for sentence in (1, 2, 3):
            name = f"{subject}_sentence{sentence:02d}"
            time = np.arange(16_000 + 640) / 16_000
            loud = np.clip(np.sin(2 * np.pi * (1 + sentence) * time), 0, 1)
            audio = loud * np.sin(2 * np.pi * 200 * time) * 0.5
            soundfile.write(root / f"wav/{name}.wav", audio.astype(np.float32), 16_000)
            frames = np.arange(60) / 60
            opening = np.interp(frames, time, loud)[:, None] * 0.02
            vertices = np.tile(template, (60, 1, 1))
            vertices[:, 3:5, 1] -= opening
            np.save(root / f"vertices_npy/{name}.npy", vertices.reshape(60, -1).astype(np.float32))
            lines.append(json.dumps({"name": name, "segments": [["p", 0.6, 0.7]]}))
    (root / "phones.jsonl").write_text("\n".join(lines) + "\n")
    for name, rows in (("lips", [3, 4, 5]), ("upper", [0, 1]), ("inner", [5, 3])):
        (root / f"{name}.txt").write_text("\n".join(map(str, rows)) + "\n")


def ctc_folder(folder: Path, encoder: dict[str, Any]) -> None:
    """An untrained CTC model over phones in `folder`, as transformers saves it."""
    config = transformers_config(encoder | {"vocab_size": len(PHONES), "pad_token_id": 0})
    build_ctc(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(PHONE_INDEX))


def toy_recipe(folder: Path) -> Recipe:
    """A tiny recipe for two subjects; its data and encoder are written into `folder`."""
    root = folder / "data"
    write_clips(root)
    torch.manual_seed(0)
    ctc_folder(folder / "encoder", ENCODER)
    spec = DatasetSpec(
        name="toy", root=str(root), fps=30, source_fps=60, n_vertices=V, metres_per_unit=1.0,
        templates=str(root / "templates.npz"), topology="", lips_region=str(root / "lips.txt"),
        upper_region=str(root / "upper.txt"), inner_lips=str(root / "inner.txt"),
        phones=str(root / "phones.jsonl"),
        splits={"train": Split(("a",), (1, 2)), "val": Split(("b",), (1,)),
                "test": Split(("b",), (2, 3))},
    )  # fmt: skip
    model = ModelConfig(encoder=ENCODER, n_vertices=V, fps=30, fold=2, vertex_rank=2, **DECODER)
    train = TrainConfig(epochs=2, batch_size=2, learning_rate=3e-3, warmup_steps=2, w_lips=100.0,
                        closure_gain=1.0, ema_decay=0.5)  # fmt: skip
    return Recipe(spec, model, train, str(folder / "encoder"))


def networks(kind: str = "layer") -> Networks:
    """Untrained networks; the teacher has the weights of the encoder. kind: a key of ENCODERS."""
    from transformers import Wav2Vec2Config

    torch.manual_seed(0)
    encoder = ENCODERS[kind] | {"model_type": "wav2vec2"}
    model = JambaTalk(ModelConfig(encoder=encoder, n_vertices=V, fps=30, fold=2, **DECODER))
    torch.nn.init.normal_(model.head.offsets.weight, std=0.02)
    ctc = build_ctc(Wav2Vec2Config(**ENCODERS[kind]))
    ctc.wav2vec2.load_state_dict(model.encoder.body.state_dict())
    model.encoder.freeze_features()
    reader = LipReader(len(LIPS), 32, 7, 30, d_model=32)
    return Networks(model, reader, TextTeacher(ctc), None, 1.0, torch.tensor([2, 7]), 0.1)


def clip(seconds: float, seed: int) -> dict:
    """A batch of one clip of random audio and vertices, as from `data_loader.collate`."""
    generator = torch.Generator().manual_seed(seed)
    n = int(16_000 * seconds)
    frames = mesh_frames(n, 30)
    return {
        "names": [f"clip{seed}"],
        "audio": torch.randn(1, n, generator=generator),
        "audio_samples": torch.tensor([n]),
        "template": torch.randn(1, V, 3, generator=generator),
        "vertices": torch.randn(1, frames, V, 3, generator=generator),
        "frames": torch.tensor([frames]),
    }


def together(*clips: dict) -> dict:
    """One padded batch of the clips of several batches."""

    def pad(name: str) -> torch.Tensor:
        rows = [c[name][0] for c in clips]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    return {
        "names": [c["names"][0] for c in clips],
        "audio": pad("audio"),
        "audio_samples": torch.cat([c["audio_samples"] for c in clips]),
        "template": torch.cat([c["template"] for c in clips]),
        "vertices": pad("vertices"),
        "frames": torch.cat([c["frames"] for c in clips]),
    }


CLIPS = [clip(1.5, 1), clip(0.7, 2), clip(1.1, 3)]
KEYS = ["one", "two", "three"]
SOUNDS = [(key, c["audio"][0].numpy()) for key, c in zip(KEYS, CLIPS, strict=True)]


def run_toy(*argv: str) -> int:
    """Train the toy recipe by `main.py`; returns the exit code."""
    return run_cli(main.main, [*FLAGS, *argv])


def outcome(folder: str) -> tuple[dict, list[dict]]:
    """Weights of the best model, and the log without times."""
    with open(Path(folder) / "log.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"], row["clips_per_s"]
    return load_file(Path(folder) / "best.safetensors"), rows


def same(one: str, other: str) -> None:
    """Assert that two run folders have equal logs (times apart) and bit-equal models."""
    (weights, rows), (others, other_rows) = outcome(one), outcome(other)
    assert rows == other_rows
    assert weights.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in weights.items())


class Killed(Exception):
    """Raised in a step in place of a kill: no code of the run handles it."""


def run_until_killed(monkeypatch: pytest.MonkeyPatch, steps: int, *argv: str) -> None:
    """Run `run_toy` with these flags; it is killed in the step after `steps` steps."""
    real, n_called = TrainingStep.__call__, 0

    def step(self: TrainingStep, *args: Any) -> Any:
        nonlocal n_called
        n_called += 1
        if n_called > steps:
            raise Killed
        return real(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingStep, "__call__", step)
        with pytest.raises(Killed):
            run_toy(*argv)


def leftover(path: str, pid: int | None = None) -> str:
    """The temporary name of a file that a process was writing; pid None: one that has ended."""
    if pid is None:
        child = subprocess.Popen([sys.executable, "-c", ""])
        pid = child.pid
        child.wait()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "getpid", lambda: pid)
        return str(Path(path).with_name(whole_file._temporary_name(Path(path))))


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """Inside, no file can grow beyond `n_bytes`: EFBIG takes the place of ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def synthetic_checkpoint(folder: Path) -> Path:
    """A model file in `folder`: a tiny untrained network whose random motion fits the head."""
    n_vertices = len(load_head().colors)
    spec = DatasetSpec(
        name="synthetic", root="synthetic/data", fps=30, source_fps=60, n_vertices=n_vertices,
        metres_per_unit=1.0, templates="synthetic/head.npz", topology="synthetic/head.npz",
        lips_region="synthetic/lips.txt", upper_region="synthetic/upper.txt",
    )  # fmt: skip
    encoder = dict(
        model_type="wav2vec2", hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, conv_dim=(8,) * 7, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=encoder, n_vertices=n_vertices, fps=30, fold=1, layout="M", d_model=8, d_ff=8,
        n_heads=2, n_kv_heads=1, vertex_rank=3,
    )  # fmt: skip
    model = JambaTalk(config)
    torch.nn.init.normal_(model.head.offsets.weight, std=1e-3)
    path = folder / "tiny.safetensors"
    save_checkpoint(path, model, spec)
    return path


def moonshine_folder(folder: Path) -> str:
    """An untrained Moonshine encoder of width 16 in `folder`; returns its path."""
    config = dict(
        model_type="moonshine", hidden_size=16, intermediate_size=32, encoder_num_hidden_layers=2,
        encoder_num_attention_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    body = build_body(config)
    save_model_file(folder / "model.safetensors", body.state_dict(), "source", {})
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def loaded_encoder(source: str, mix_layers: bool = False) -> SpeechEncoder:
    """A frozen encoder for 30 fps, two frames folded, with the weights of the folder `source`."""
    encoder = SpeechEncoder(encoder_of(source, {}), 30, 2, mix_layers).eval()
    encoder.body.load_state_dict(load_body(source).state_dict())
    encoder.freeze_features()
    return encoder
