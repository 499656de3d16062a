"""Small models, training states and records of runs, valid ones, for `bench_hostile`."""

import dataclasses
import functools
import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.hostile_seeds import V
from config import XLSR_LARGE, DatasetSpec, ModelConfig, Recipe, TrainConfig

ENCODER: dict[str, Any] = dict(
    model_type="wav2vec2", hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, conv_dim=[4] * 7, num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2, vocab_size=5, pad_token_id=0,
)  # fmt: skip
NETWORK = ModelConfig(
    encoder=ENCODER, n_vertices=V, fps=30, fold=1, layout="MEA", d_model=8, d_state=2,
    moe_d_state=2, moe_d_conv=2, n_heads=2, n_kv_heads=1, rope_rank=2, d_ff=8, vertex_rank=2,
)  # fmt: skip
SPEC = DatasetSpec(
    name="toy", root="toy", fps=30, source_fps=60, n_vertices=V, metres_per_unit=1.0,
    templates="t.npz", topology="t.npz", lips_region="lips.txt", upper_region="upper.txt",
)  # fmt: skip
RELEASED = XLSR_LARGE | dict(
    conv_dim=[4] * 7, conv_kernel=[10, 3, 3, 3, 3, 2, 2], hidden_size=64, num_hidden_layers=1,
    num_attention_heads=1, intermediate_size=8, num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
)  # fmt: skip
CACHED = np.arange(12, dtype=np.float32).reshape(3, 4)


@functools.cache
def model_files() -> list[bytes]:
    """A model of this project."""
    import torch

    from jambatalk import JambaTalk, save_checkpoint

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_checkpoint(path, JambaTalk(NETWORK), SPEC)
        return [path.read_bytes()]


def _released_weights() -> dict[str, Any]:
    import torch

    from released.network import ReleasedJambaTalk

    torch.manual_seed(0)
    config = ModelConfig(encoder=RELEASED, n_vertices=V, fps=30, fold=1, d_model=16, d_ff=8)
    return ReleasedJambaTalk(config).state_dict()


@functools.cache
def published_files() -> list[bytes]:
    """Weights as the authors published them."""
    import torch

    file = io.BytesIO()
    torch.save(_released_weights() | {"lm_head.bias": torch.zeros(3)}, file)
    return [file.getvalue()]


@functools.cache
def converted_files() -> list[bytes]:
    """Published weights that release.py converted."""
    from released.weights import convert

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.pth", Path(folder) / "a.safetensors"
        source.write_bytes(published_files()[0])
        convert(source, target)
        return [target.read_bytes()]


@functools.cache
def reader_files() -> list[bytes]:
    """A lip reader."""
    from files.models import save_model_file
    from lip_reader import HEADER, LipReader

    reader = LipReader(3, 8, 5, 30, d_model=8, n_layers=1, n_heads=2)
    header = {"dims": reader.dims, "lips": [2, 3, 5], "region": "lips.txt", "teacher": "toy",
              "characters": list("abcde")}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reader.safetensors"
        save_model_file(path, reader.state_dict(), HEADER, header)
        return [path.read_bytes()]


class _Batches:
    """The part of `PlannedLoader` that a resumed run needs."""

    def __init__(self, plan: Any) -> None:
        self.plan, self.load_state_dict = plan, plan.load_state_dict

    def __len__(self) -> int:
        return len(self.plan)


def toy_run() -> SimpleNamespace:
    """What `Run._restore` needs of a run with a tiny network."""
    import torch

    from dataset.batch_plan import BucketedBatches
    from jambatalk import JambaTalk
    from lip_reader import LipReader
    from training.networks import Networks
    from training.processes import Group

    torch.manual_seed(0)
    lips = LipReader(3, 8, 5, 30, d_model=8, n_layers=1, n_heads=2)
    nets = Networks(JambaTalk(NETWORK), lips, None, None, 1.0)
    weights = [p for net in (nets.model, nets.reader) for p in net.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    plan = BucketedBatches([10, 20, 30], 1, 1)
    step = SimpleNamespace(optimizer=optimizer, schedule=schedule)
    recipe = Recipe(SPEC, NETWORK, TrainConfig(), "synthetic/encoder")
    return SimpleNamespace(
        nets=nets,
        step=step,
        recipe=recipe,
        batches=_Batches(plan),
        group=Group(),
        dtype=torch.float32,
    )


@functools.cache
def state_files() -> list[bytes]:
    """The state of a run before its first step, and after it."""
    import torch

    from training.resume import pack
    from training.state_file import generators

    run, files = toy_run(), []
    for _ in range(2):
        state = pack(run.nets, run.step.optimizer, run.step.schedule) | {
            "recipe": dataclasses.asdict(run.recipe), "precision": "torch.float32",
            "batches": run.batches.plan.state_dict(), "generators": [generators()], "epoch": 1,
            "sums": {"loss": 1.0}, "trained_s": 1.0, "best_score": 0.5, "start_score": None,
        }  # fmt: skip
        file = io.BytesIO()
        torch.save(state, file)
        files.append(file.getvalue())
        for weight in run.nets.reader.parameters():
            weight.grad = torch.ones_like(weight)
        run.step.optimizer.step()
    return files


@functools.cache
def record_files() -> list[bytes]:
    """run.json."""
    recipe = Recipe(SPEC, NETWORK, TrainConfig(), "synthetic/encoder")
    record = {"arguments": ["--dataset", "toy"], "commit": "0" * 40, "changed_files": ["a.py"],
              "precision": "float32", "recipe": dataclasses.asdict(recipe)}  # fmt: skip
    return [json.dumps(record).encode()]


def log_files() -> list[bytes]:
    """log.csv."""
    return [b"epoch,loss,val_lve,val_static,seconds\n1,0.5,0.25,0.0,1.5\n2,0.4,0.2,0.0,1.5\n"]


@functools.cache
def encoder_files() -> tuple[bytes, bytes]:
    """config.json and model.safetensors of a pre-trained encoder with a CTC head."""
    import torch

    from speech.bodies import build_ctc, transformers_config

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        build_ctc(transformers_config(ENCODER)).save_pretrained(folder)
        names = ("config.json", "model.safetensors")
        config, weights = ((Path(folder) / name).read_bytes() for name in names)
        return config, weights


@functools.cache
def cache_entries() -> list[bytes]:
    """An entry of the cache of key "key", as it is on the disk."""
    from files.cache import Cache

    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(folder, {"what": "toy"})
        cache.get("key", lambda: CACHED)
        return [cache._place("key")[0].read_bytes()]


def phone_lines() -> list[bytes]:
    """Two lines of a file of phones, and of an index of clips."""
    row = {"name": "a_sentence01", "text": "x", "engine": "e", "speaker": "s", "duration_s": 1.0,
           "segments": [["p", 0.1, 0.2]]}  # fmt: skip
    return [f"{json.dumps(row)}\n{json.dumps(row | {'name': 'b'})}\n".encode()]
