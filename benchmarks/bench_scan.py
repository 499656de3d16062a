"""How fast the selective scan is, backend by backend, and how its time grows with the clip.

    python -m benchmarks.bench_scan [--d_inner 1024] [--d_state 16] [--device cpu] [--rounds 9]

Times one clip, forward and backward, at the width of the VOCASET recipe: the processor time of one
thread on a CPU, wall time on a GPU. A case is a backend at a number of frames. Each case has its
own process, which never returns memory to the system: otherwise a scan with large temporaries
spends as long in page faults as in arithmetic, and how long depends on what ran before. The
processes take turns, so that other load on the machine affects all cases alike. Figures are medians
over the rounds, with quartiles. Memory is the largest growth of a case's process above its inputs.
The last line is JSON for the backend that "auto" selects here: speedup_1200 is the reference's time
divided by this backend's at 1,200 frames (40 s at 30 fps), growth_4800_over_1200 is this backend's
time at 4,800 frames divided by that at 1,200 (4 = linear).
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

import common.interpreter  # noqa: F401  first: explains missing packages

import torch
from torch import Tensor

from benchmarks.processor import AVX2, kind_of_processor
from common.errors import Parser, UserError, run_cli
from layers.selective_scan import resolve_backend, selective_scan

FRAMES = (90, 300, 1200, 4800)
REFERENCE_MAX_FRAMES = 1200  # the reference is too slow beyond
SPEED_FRAMES, GROWTH_FRAMES = 1200, 4800
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, the unit of ru_maxrss
# glibc settings under which a process keeps the memory that it frees
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}
WARM_UP = 3  # calls before the first timed one

Scan = Callable[[Sequence[Tensor], str], None]


class Case(NamedTuple):
    """What one process measures."""

    frames: int
    backend: str


class Turn(NamedTuple):
    """Seconds of forward, seconds of forward and backward, and bytes above the inputs so far."""

    forward: float
    both: float
    memory: int


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and the JSON line."""
    args = parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU; use --device cpu")
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: expected 1 or more")
    selected = resolve_backend("auto", torch.zeros(1, device=args.device))
    backends = ["reference", "chunked"] + [selected] * (selected != "chunked")
    cases = [
        Case(frames, backend)
        for frames in FRAMES
        for backend in backends
        if backend != "reference" or frames <= REFERENCE_MAX_FRAMES
    ]
    if args.avx2:
        os.environ.update(AVX2)  # for the processes of the cases
    kind = kind_of_processor() if args.device == "cpu" else args.device
    print(f"one clip, d_inner {args.d_inner}, d_state {args.d_state}, {kind}, ms")
    print(f"{'frames':>7} {'backend':>10} {'forward':>8} {'fwd + bwd':>10} {'quartiles':>17} "
          f"{'ns/state':>9} {'MB':>7}")  # fmt: skip
    medians = {}
    for case, turns in measure(cases, args).items():
        forward = statistics.median(turn.forward for turn in turns)
        both = [turn.both for turn in turns]
        medians[case] = statistics.median(both)
        low, _, high = statistics.quantiles(both, n=4) if len(both) > 1 else both * 3
        per_state = medians[case] / (case.frames * args.d_inner * args.d_state)
        memory = max(turn.memory for turn in turns)
        print(f"{case.frames:7d} {case.backend:>10} {forward * 1e3:8.1f} "
              f"{medians[case] * 1e3:10.1f} {low * 1e3:8.1f} {high * 1e3:8.1f} "
              f"{per_state * 1e9:9.2f} {memory / 1e6:7.1f}")  # fmt: skip
    own = medians[Case(SPEED_FRAMES, selected)]
    speedup = medians[Case(SPEED_FRAMES, "reference")] / own
    growth = medians[Case(GROWTH_FRAMES, selected)] / own
    print(
        json.dumps({"speedup_1200": round(speedup, 2), "growth_4800_over_1200": round(growth, 2)})
    )


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--d_inner", type=int, default=1024, help="channels (default: 1024)")
    parser.add_argument("--d_state", type=int, default=16, help="states per channel (default: 16)")
    parser.add_argument(
        "--rounds", type=int, default=9, help="repetitions of each case (default: 9)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--avx2", action="store_true", help="use no newer instructions than AVX2")
    return parser.parse_args(argv)


def measure(cases: Sequence[Case], args: argparse.Namespace) -> dict[Case, list[Turn]]:
    """The turns of every case, measured in its own process; the processes take turns."""
    context = multiprocessing.get_context("spawn")
    running = []
    with environment(KEEP_MEMORY):
        for case in cases:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, case, args), daemon=True)
            process.start()
            theirs.close()  # so that recv fails if the process has died
            ours.recv()  # ready; one at a time, because each compiles and warms up
            running.append((case, process, ours))
    turns: dict[Case, list[Turn]] = {case: [] for case in cases}
    for _ in range(args.rounds):
        for case, _, pipe in running:
            pipe.send(True)
            turns[case].append(pipe.recv())
    for _, process, pipe in running:
        pipe.send(False)
        process.join()
    return turns


def serve(pipe: Connection, case: Case, args: argparse.Namespace) -> None:
    """The process of one case: warm up, then measure a turn for every True received."""
    torch.set_num_threads(1)
    inputs = make_inputs(args.d_inner, args.d_state, case.frames, args.device)
    scan_both(make_inputs(8, args.d_state, 8, args.device), case.backend)  # compiles kernels
    start = peak(args.device)
    for _ in range(WARM_UP):
        scan_both(inputs, case.backend)
    pipe.send("ready")
    while pipe.recv():
        forward = elapsed(scan_forward, inputs, case.backend)
        both = elapsed(scan_both, inputs, case.backend)
        pipe.send(Turn(forward, both, peak(args.device) - start))


@contextmanager
def environment(changes: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes that are started inside."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def peak(device: str) -> int:
    """Peak memory in bytes so far, of this process or of PyTorch on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def make_inputs(d_inner: int, d_state: int, frames: int, device: str) -> list[Tensor]:
    """u, delta, A, B, C, D, z, delta_bias as in a freshly initialised Mamba block."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rates = torch.arange(1, d_state + 1, dtype=torch.float32)
    u, delta, z = (randn(1, frames, d_inner).transpose(1, 2) for _ in range(3))
    B, C = (randn(1, frames, d_state).transpose(1, 2) for _ in range(2))
    inputs = [u, delta, -rates.repeat(d_inner, 1), B, C, torch.ones(d_inner), z, randn(d_inner) - 4]
    return [tensor.to(device).requires_grad_() for tensor in inputs]


def scan_forward(inputs: Sequence[Tensor], backend: str) -> None:
    """One forward pass without gradients."""
    with torch.no_grad():
        selective_scan(*inputs, delta_softplus=True, backend=backend)


def scan_both(inputs: Sequence[Tensor], backend: str) -> None:
    """One forward and backward pass."""
    y = selective_scan(*inputs, delta_softplus=True, backend=backend)
    torch.autograd.grad(y.sum(), inputs)


def elapsed(scan: Scan, inputs: Sequence[Tensor], backend: str) -> float:
    """Seconds of one call: processor time on a CPU, wall time to the last kernel on a GPU."""
    on_gpu = inputs[0].is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    scan(inputs, backend)
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    sys.exit(run_cli(main))
