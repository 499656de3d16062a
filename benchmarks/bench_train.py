"""Training, ours compared with the public release's way: `python -m benchmarks.bench_train`.

    --part small    an encoder of 2 x 192 and a decoder of 128, 16 clips of 3 to 5 s: clips a second
    --part large    the paper's network, 24 x 1024 and 512, one clip of 4 s: seconds, peak memory

Both sides get the same clips (fabricated, V = 5,023 at 30 fps), an encoder of the same config with
random weights, the same decoder width and layout, a full vertex head and the paper's losses. Their
side is `release_way`: batch size 1, float32. Our side trains with the defaults of `main.py` on this
machine; the large part adds `--set train.lean=true`, and the row "defaults" is without it. Our
batches hold `Part.batch_size` clips of similar length. Neither side reads files while it is timed.

Each side runs in a process of its own. The sides take turns (ours, theirs, ours, ...), so that
other load on the machine affects both alike. The first pass of a process over the clips is not
counted, because it fills caches. Figures are medians over the passes. Ratios are of wall time; the
table also has those of processor time. Peak memory is the largest resident set of the process.
`--avx2` limits both sides to AVX2, as on processors without AVX-512 and bfloat16 products; the
table says which kind of processor its figures are from. The last line is JSON: for the small part
the ratio of clips a second, for the large part (lean) the ratios of the times of a step and of peak
memory.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
import torch
from torch import Tensor

from benchmarks.fabricate import Face, make_egg, move, speak
from benchmarks.processor import AVX2, kind_of_processor
from common.errors import Parser, UserError, run_cli
from config import PROJECT_ROOT, RECIPES, SAMPLE_RATE, ModelConfig, TrainConfig
from data_loader import collate
from dataset.batch_plan import BatchPlan, BucketedBatches
from speech.audio import normalise
from speech.timing import mesh_frames, samples_for

SEED = 1
FPS, V, N_LIPS = 30, 5_023, 254  # of VOCASET and FLAME's lips
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, the unit of ru_maxrss
SIDES = ("ours", "theirs", "defaults")  # "defaults": ours without train.lean
PASSIVE_WAIT = {"OMP_WAIT_POLICY": "PASSIVE"}  # else idle threads take time of other programs


@dataclass(frozen=True)
class Part:
    """A size of network and the clips that both sides train on."""

    model: ModelConfig
    seconds: tuple[float, ...]  # of each clip
    batch_size: int  # clips in one of our steps
    passes: int  # timed passes over the clips in a turn
    lean: bool = False  # whether our side trains with train.lean; adds the side "defaults"

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that are measured."""
        return SIDES if self.lean else SIDES[:2]

    def clips(self) -> list[dict[str, Any]]:
        """Items as `data_loader.MeshSpeechDataset` gives them, the same on every call."""
        face = make_egg(V)
        return [make_clip(i, face, seconds) for i, seconds in enumerate(self.seconds)]


SMALL_ENCODER = dict(
    model_type="wav2vec2", hidden_size=192, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=512, conv_dim=[640, 512, 128, 192], conv_kernel=[320, 2, 1, 5],
    conv_stride=[160, 2, 1, 1], num_feat_extract_layers=4, conv_bias=True,
    feat_extract_norm="group", num_conv_pos_embeddings=32, num_conv_pos_embedding_groups=12,
    do_stable_layer_norm=True, layerdrop=0.0, apply_spec_augment=True, mask_time_prob=0.03,
    mask_time_length=6, mask_feature_prob=0.04, mask_feature_length=12, feat_proj_dropout=0.05,
    hidden_dropout=0.05, activation_dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
PAPER = RECIPES["vocaset"].model
PARTS = {
    # The decoder of the synthetic recipe, without its low-rank vertex head and folding of two
    # frames, because the release has neither, and a wav2vec 2.0 of the same width.
    "small": Part(
        dataclasses.replace(
            PAPER, d_model=128, d_ff=512, n_kv_heads=2,
            encoder=SMALL_ENCODER,
        ),
        seconds=tuple(np.linspace(3.0, 5.0, 16).tolist()), batch_size=8, passes=6,
    ),
    "large": Part(PAPER, seconds=(4.0,), batch_size=1, passes=3, lean=True),
}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """What one process measured: seconds of each pass, and its peak memory in bytes."""

    wall: list[float]
    cpu: list[float]
    peak: int


def make_clip(number: int, face: Face, seconds: float) -> dict[str, Any]:
    """A fabricated sentence of this length: audio, and a mouth that opens with its loudness."""
    frames = round(seconds * FPS)
    rng = np.random.default_rng((SEED, number))
    opening, sound = speak(frames + FPS, FPS, SAMPLE_RATE, rng)
    sound = sound[: samples_for(frames, FPS)].astype(np.float32)
    vertices = np.stack(list(move(face, opening[: mesh_frames(len(sound), FPS)])))
    return {
        "name": f"clip{number:02d}",
        "subject": "egg",
        "audio": normalise(sound),
        "template": face.vertices.astype(np.float32),
        "vertices": vertices.astype(np.float32),
        "frames": len(vertices),
    }


def our_pass(part: Part, folder: Path, lean: bool) -> Callable[[], None]:
    """A function that trains our network once on every clip, as `training.run.Run` does."""
    from common.device import pick_device
    from common.start_up import prepare_process
    from training.networks import build
    from training.processes import Group
    from training.step import TrainingStep

    prepare_process()
    lips = lip_vertices()
    config = TrainConfig(batch_size=part.batch_size, lean=lean)
    recipe = dataclasses.replace(
        RECIPES["vocaset"], model=part.model, train=config, wav2vec2=str(folder)
    )
    device, dtype, _ = pick_device()
    nets = build(recipe, device, len(lips))
    step = TrainingStep(nets, lips.to(device), config, 1_000, Group(), dtype)
    clips = part.clips()
    step.attach_teacher(f"{folder}/cache", [(clip["name"], clip["audio"]) for clip in clips])
    nets.model.train()
    nets.reader.train()
    plan = BucketedBatches([clip["frames"] for clip in clips], part.batch_size, SEED, shuffle=False)
    batches = batches_of(clips, plan)

    def one_pass() -> None:
        plan.set_epoch(plan.epoch + 1)
        for batch in batches:
            step([batch], plan)

    return one_pass


def batches_of(clips: Sequence[dict[str, Any]], plan: BatchPlan) -> list[dict[str, Any]]:
    """Our batches: complete clips with keys, so that teacher targets are cached."""
    batches = [collate([clips[index] for index in indices]) for indices in plan]
    return [batch | {"keys": batch["names"]} for batch in batches]


def their_pass(part: Part) -> Callable[[], None]:
    """A function that trains the release's network once on every clip, as the release does."""
    from benchmarks.release_way import ReleaseNetwork, make_adam, train_clip

    network = ReleaseNetwork(part.model, lip_vertices())
    adam = make_adam(network)
    clips = [
        (
            torch.from_numpy(clip["audio"])[None],
            torch.from_numpy(clip["template"]),
            torch.from_numpy(clip["vertices"])[None],
        )
        for clip in part.clips()
    ]

    def one_pass() -> None:
        for clip in clips:
            train_clip(network, adam, clip)

    return one_pass


def lip_vertices() -> Tensor:
    """Indices (L,); their number is that of FLAME's lips."""
    return torch.arange(N_LIPS)


def measure(side: str, part: Part, folder: Path) -> Turn:
    """Train one side in this process and time all passes but the first."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # transformers draws SpecAugment's masks from this generator
    lean = part.lean and side == "ours"
    one_pass = their_pass(part) if side == "theirs" else our_pass(part, folder, lean)
    one_pass()
    wall, cpu = [], []
    for _ in range(part.passes):
        started, used = time.perf_counter(), time.process_time()
        one_pass()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return Turn(wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT)


def take_turn(side: str, name: str, folder: Path, threads: int) -> Turn:
    """`measure` in a process of its own; raises `UserError` with its last line if it fails."""
    flags = ["--part", name, "--side", side, "--folder", str(folder), "--threads", str(threads)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_train", *flags],
        cwd=PROJECT_ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)} | PASSIVE_WAIT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"--part {name}, side {side}: exit code {done.returncode}: {last}")
    return Turn(**json.loads(done.stdout.splitlines()[-1]))


def write_encoder(part: Part, folder: Path) -> None:
    """Write a CTC model of the part's encoder with random weights, from which our side starts."""
    from transformers.utils.logging import disable_progress_bar

    from speech.bodies import build_ctc, transformers_config

    disable_progress_bar()
    torch.manual_seed(SEED)
    build_ctc(transformers_config(part.model.encoder)).save_pretrained(folder)


def compare(name: str, minutes: float, threads: int) -> dict[str, list[Turn]]:
    """The turns of every side, at least one each, as many as fit into `minutes`."""
    part = PARTS[name]
    turns: dict[str, list[Turn]] = {side: [] for side in part.sides}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        write_encoder(part, Path(folder))
        while True:
            for side in part.sides:
                turns[side].append(take_turn(side, name, Path(folder), threads))
            rounds, spent = len(turns["ours"]), (time.monotonic() - started) / 60
            if spent * (rounds + 1) / rounds > minutes:
                return turns


def report(name: str, turns: dict[str, list[Turn]]) -> dict[str, float]:
    """Print the table of a part; returns its figures for the JSON line."""
    part = PARTS[name]
    n_clips = len(part.seconds)
    rows = {
        side: (
            statistics.median(value for turn in turns[side] for value in turn.wall) / n_clips,
            statistics.median(value for turn in turns[side] for value in turn.cpu) / n_clips,
            statistics.median(turn.peak for turn in turns[side]) / 1e9,
        )
        for side in part.sides
    }
    shape = part.model.encoder
    print(
        f"{name}: encoder {shape['num_hidden_layers']} x {shape['hidden_size']}, decoder "
        f"{part.model.layout} x {part.model.d_model}, V {V}; {n_clips} clips of "
        f"{min(part.seconds):g} to {max(part.seconds):g} s; ours {part.batch_size} a step, "
        f"turns of {part.passes} passes: {len(turns['ours'])} each; {kind_of_processor()}"
    )
    print(f"{'':>13} {'s a clip':>9} {'CPU s a clip':>13} {'clips a s':>10} {'peak GB':>8}")
    for side, (wall, cpu, peak) in rows.items():
        print(f"{side:>13} {wall:9.3f} {cpu:13.3f} {1 / wall:10.3f} {peak:8.2f}")
    wall, cpu, peak = (a / b for a, b in zip(rows["theirs"], rows["ours"], strict=True))
    print(f"{'theirs / ours':>13} {wall:9.2f} {cpu:13.2f} {wall:10.2f} {peak:8.2f}")
    if name == "small":
        return {"small_ratio": round(wall, 2)}
    return {"large_ratio": round(wall, 2), "large_memory_ratio": round(1 / peak, 3)}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="time for all turns (default: 8)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of each side (default: 2)")
    parser.add_argument("--avx2", action="store_true", help="use no newer instructions than AVX2")
    parser.add_argument("--side", choices=SIDES, help="measure one side in this process")
    parser.add_argument(
        "--folder", type=Path, help="with --side: folder of the encoder that our side loads"
    )
    args = parser.parse_args(argv)
    if args.threads < 1 or not 0 < args.minutes < float("inf"):
        raise UserError(
            f"--threads {args.threads}, --minutes {args.minutes}: expected more than 0 for both"
        )
    if args.side and (args.part == "all" or args.folder is None):
        raise UserError("--side: expected --part small or large, and --folder")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for each part and the JSON line."""
    args = parse_args(argv)
    if args.side:
        torch.set_num_threads(args.threads)
        turn = measure(args.side, PARTS[args.part], args.folder)
        print(json.dumps(dataclasses.asdict(turn)))
        return
    if args.avx2:
        os.environ.update(AVX2)  # for the processes of the sides
    names = list(PARTS) if args.part == "all" else [args.part]
    figures: dict[str, float] = {}
    for name in names:
        figures |= report(name, compare(name, args.minutes / len(names), args.threads))
    print(json.dumps(figures))


if __name__ == "__main__":
    sys.exit(run_cli(main))
