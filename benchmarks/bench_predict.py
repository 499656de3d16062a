"""Prediction, ours compared with the public release's way: `python -m benchmarks.bench_predict`.

The paper's network for VOCASET (encoder 24 x 1024, decoder 512, V = 5,023 at 30 fps) with random
weights predicts `--seconds` of sound. Sides:

    release    `release_way.predict_clip`, its lip Transformer included, with weights in memory
    fp32       a model file that stores half precision, as demo.py loads and runs it
    bf16, int8 the same with --precision
    memory     as fp32, with float32 weights in memory instead of a file

Each side runs in a process of its own with one thread; the sides take turns. Figures are medians of
processor time, because other programs may run; the decoder (with the vertex head) is timed alone,
too, on features of T frames. Peak memory is the largest resident set of the process.

`small` is the shipped model on the bundled recording, repeated to 60 s. The error of 8-bit products
is that of the shipped model, because a large trained one is not included: the mean distance of lip
vertices from those of float32, in mm.

`--avx2` limits all libraries to AVX2, as on processors without AVX-512. The last line is JSON; its
`peak_mb_hour` and `first_frame_s` are those of `bench_hour` for a recording of `--minutes`.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from benchmarks import bench_hour
from common.errors import Parser, UserError, run_cli
from config import PROJECT_ROOT, RECIPES, SAMPLE_RATE

if TYPE_CHECKING:
    from torch import nn

SEED, RATE = 1, "processor seconds"
N_LIPS = 254  # of FLAME
FRAMES = 300, 1_200  # T of the decoder's timing
SIDES = "release", "fp32", "bf16", "int8", "memory"
SMALL_SECONDS = 60
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, the unit of ru_maxrss
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2", "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
}  # fmt: skip
RECORDING = PROJECT_ROOT / "demo/wav/sense_and_sensibility.wav"


@dataclass(frozen=True)
class Turn:
    """Of one process: processor seconds of loading, of a clip, of the decoder by T; its peak."""

    load_s: float
    clip_s: float
    decoder_s: dict[str, float]
    peak_mb: float


def processor_s(run: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    started = time.process_time()
    run()
    return time.process_time() - started


def random_network(build: Callable) -> "nn.Module":
    """The network that `build` makes, with random weights."""
    import torch

    from files.models import built_without_memory

    network = built_without_memory(build).to_empty(device="cpu").eval()
    torch.manual_seed(SEED)
    with torch.no_grad():
        for weight in network.parameters():
            weight.uniform_(-0.03, 0.03)
    return network


def write_model(path: Path) -> None:
    """Write our network as a model file in half precision."""
    from jambatalk import JambaTalk, save_checkpoint

    recipe = RECIPES["vocaset"]
    network = random_network(lambda: JambaTalk(recipe.model))
    save_checkpoint(path, network, recipe.dataset, half=True)


def network_of(side: str, path: Path | None = None) -> tuple[Callable, Callable]:
    """(prediction of audio (S,) and template (V, 3), decoder with head of features (1, T, C)).

    path: the file of `write_model`, which "release" and "memory" do without.
    """
    import torch

    from jambatalk import JambaTalk, load_checkpoint
    from layers.fast_linear import make_fast

    config = RECIPES["vocaset"].model
    if side == "release":
        from benchmarks.release_way import ReleaseNetwork, predict_clip

        def build() -> ReleaseNetwork:
            network = ReleaseNetwork(config, torch.arange(N_LIPS))
            network.text_encoder = None  # of training alone
            return network

        network = random_network(build)
        network.lips.copy_(torch.arange(N_LIPS))
        return (
            lambda audio, template: predict_clip(network, audio[None], template)[0],
            lambda features: network.vertice_map_r(network.decode(features)),
        )
    if side == "memory":
        network = random_network(lambda: JambaTalk(config))
        make_fast(network)
    else:
        network = load_checkpoint(path, precision=side).model
    return network.predict, lambda features: network.offsets(network.hidden(features)[0])


def take_turn(side: str, seconds: int, path: Path) -> Turn:
    """Measure one side in this process; path: the file of `write_model`."""
    import torch

    torch.set_num_threads(1)
    started = time.process_time()
    predict, decode = network_of(side, path)
    load_s = time.process_time() - started
    model = RECIPES["vocaset"].model
    audio = torch.randn(seconds * SAMPLE_RATE, generator=torch.Generator().manual_seed(SEED))
    audio = (audio - audio.mean()) / audio.std(correction=0)
    template = torch.zeros(model.n_vertices, 3)
    predict(audio[: 2 * SAMPLE_RATE] - audio[: 2 * SAMPLE_RATE].mean(), template)  # fills caches
    clip_s = processor_s(lambda: predict(audio, template))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 1e6
    decoder = {}
    with torch.inference_mode():
        for n_frames in FRAMES:
            features = torch.randn(1, n_frames, model.encoder["hidden_size"])
            run = partial(decode, features)
            decoder[str(n_frames)] = min(processor_s(run) for _ in range(2))
    return Turn(load_s, clip_s, decoder, peak)


def measure_small() -> tuple[float, float]:
    """(real-time factor of the shipped model, error of its 8-bit products in mm at the lips)."""
    import torch

    from data_loader import load_wav
    from dataset.faces import choose_face
    from dataset.regions import find_regions
    from jambatalk import load_checkpoint

    torch.set_num_threads(1)
    exact, coarse = (load_checkpoint(precision=name) for name in ("fp32", "int8"))
    audio, template = load_wav(RECORDING), choose_face(exact.spec, None, None)[1]
    lips = find_regions(exact.spec)["lips"].indices
    one, other = (c.vertices(audio, template, exact.spec.fps)[:, lips] for c in (exact, coarse))
    error_mm = np.linalg.norm(one - other, axis=-1).mean() * 1000 * exact.spec.metres_per_unit
    minute = np.tile(audio, SMALL_SECONDS * SAMPLE_RATE // len(audio) + 1)
    minute = minute[: SMALL_SECONDS * SAMPLE_RATE]
    small_s = processor_s(lambda: exact.vertices(minute, template, exact.spec.fps))
    return small_s / SMALL_SECONDS, float(error_mm)


def in_process(*flags: str, avx2: bool) -> dict:
    """The JSON that this module prints with `flags`, in a process of its own with one thread."""
    settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_predict", *flags],
        cwd=PROJECT_ROOT, env=os.environ | settings | (AVX2 if avx2 else {}),
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"{' '.join(flags)}: exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def take_turns(args: argparse.Namespace) -> dict[str, list[Turn]]:
    """The turns of each side, measured alternately."""
    turns: dict[str, list[Turn]] = {side: [] for side in args.sides}
    with tempfile.TemporaryDirectory() as folder:
        model = ("--model", str(Path(folder) / "model.safetensors"))
        in_process("--turn", "write", *model, avx2=args.avx2)
        for _ in range(args.turns):
            for side in args.sides:
                flags = ("--turn", side, "--seconds", str(args.seconds), *model)
                turns[side].append(Turn(**in_process(*flags, avx2=args.avx2)))
    return turns


def compare(args: argparse.Namespace) -> dict[str, float]:
    """Measure all sides, print a table; the figures of the last line."""
    if missing := {"release", "fp32"} - set(args.sides):
        raise UserError(
            f"--sides: expected release and fp32 among them, no {', '.join(sorted(missing))}"
        )
    turns = take_turns(args)

    def median(side: str, value: Callable[[Turn], float]) -> float:
        return statistics.median(map(value, turns[side]))

    print(f"{args.seconds} s of speech, {RATE}, {'AVX2' if args.avx2 else 'all instructions'}")
    print(
        f"| | load | clip | ratio | decoder us a frame, T = {FRAMES[0]} | {FRAMES[1]} | peak MB |"
    )
    print("|---|---|---|---|---|---|---|")
    clip = {side: median(side, lambda turn: turn.clip_s) for side in turns}
    decoder = {
        (side, n): median(side, lambda turn, n=n: turn.decoder_s[str(n)]) / n * 1e6
        for side in turns for n in FRAMES
    }  # fmt: skip
    peak = {side: median(side, lambda turn: turn.peak_mb) for side in turns}
    for side in turns:
        ratio, load = clip["release"] / clip[side], median(side, lambda turn: turn.load_s)
        us = " | ".join(f"{decoder[side, n]:.0f}" for n in FRAMES)
        print(f"| {side} | {load:.2f} | {clip[side]:.2f} | {ratio:.2f} | {us} | {peak[side]:.0f} |")
    result = {f"large_{side}_ratio": clip["release"] / clip[side] for side in turns}
    del result["large_release_ratio"]
    result |= {f"decoder_ratio_{n}": decoder["release", n] / decoder["fp32", n] for n in FRAMES}
    return result | {"peak_mb_large": peak["fp32"]}


def measure_long(minutes: float) -> dict[str, float]:
    """The last two figures: those of `bench_hour` for a recording of this length."""
    with tempfile.TemporaryDirectory(dir=PROJECT_ROOT) as folder:
        wav = bench_hour.write_long(Path(folder) / "clip.wav", 60 * minutes)
        cost = bench_hour.measure(wav, Path(folder) / "out")
    return {"peak_mb_hour": cost.peak_mb, "first_frame_s": cost.first_frame_s}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=10, help="of the clip; default: 10")
    parser.add_argument("--turns", type=int, default=3, help="of each side; default: 3")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES),
                        help="default: all; release and fp32 are needed")  # fmt: skip
    parser.add_argument("--avx2", action="store_true", help="use no newer instructions than AVX2")
    parser.add_argument("--minutes", type=float, default=60,
                        help="of the long recording, 0 for none; default: 60")  # fmt: skip
    parser.add_argument("--turn", choices=(*SIDES, "small", "write"), help="do one part here, once")
    parser.add_argument("--model", type=Path, help="of --turn: the model file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the sides, or do one part."""
    args = parse(argv)
    if args.turn == "small":
        rtf, error_mm = measure_small()
        result = {"rtf": rtf, "error_mm": error_mm}
    elif args.turn == "write":
        write_model(args.model)
        result = {}
    elif args.turn:
        result = asdict(take_turn(args.turn, args.seconds, args.model))
    else:
        result = compare(args)
        small = in_process("--turn", "small", avx2=args.avx2)
        result |= {"large_int8_error_mm": small["error_mm"], "small_rtf": small["rtf"]}
        if args.minutes:
            result |= measure_long(args.minutes)
        result = {name: round(value, 4) for name, value in result.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(run_cli(main))
