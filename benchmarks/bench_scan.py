"""How fast the selective scan is, backend by backend, and how its time grows with the clip.

    python -m benchmarks.bench_scan [--d_inner 1024] [--d_state 16] [--device cpu]

Times one clip, forward and backward, at the width of the VOCASET recipe: on a CPU the processor
time of one thread, which other programs hardly disturb, on a GPU wall time. The last line is JSON:
speedup_1200 is the reference's time over the parallel scan's at 1,200 frames (40 s at 30 fps),
growth_4800_over_1200 the parallel scan's own time at 4,800 frames over that at 1,200 (4 = linear).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from errors import Parser, UserError, run_cli
from scan import resolve_backend, selective_scan

FRAMES = (90, 300, 1200, 4800)
REFERENCE_MAX_FRAMES = 1200  # beyond it the reference only costs patience and memory
SPEED_FRAMES, GROWTH_FRAMES = 1200, 4800

Times = dict[tuple[int, str], float]  # seconds by (frames, backend)
Scan = Callable[[Sequence[Tensor], str], None]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and the JSON line."""
    args = parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here; use --device cpu")
    torch.set_num_threads(1)
    backends = available_backends(args.device)
    print(f"one clip, d_inner {args.d_inner}, d_state {args.d_state}, {args.device}, ms")
    forward, both = measure(backends, args)
    print(f"{'frames':>7} {'backend':>10} {'forward':>9} {'fwd + bwd':>10} {'ns/state':>9}")
    for (frames, backend), seconds in both.items():
        per_state = seconds / (frames * args.d_inner * args.d_state)
        print(f"{frames:7d} {backend:>10} {forward[frames, backend] * 1e3:9.1f} "
              f"{seconds * 1e3:10.1f} {per_state * 1e9:9.2f}")  # fmt: skip
    speedup = both[SPEED_FRAMES, "reference"] / both[SPEED_FRAMES, "parallel"]
    growth = both[GROWTH_FRAMES, "parallel"] / both[SPEED_FRAMES, "parallel"]
    print(
        json.dumps({"speedup_1200": round(speedup, 2), "growth_4800_over_1200": round(growth, 2)})
    )


def measure(backends: Sequence[str], args: argparse.Namespace) -> tuple[Times, Times]:
    """Seconds of forward alone and of forward plus backward, by (frames, backend).

    The best of `args.repeats` rounds, each of which runs every case once, so that whatever else
    the machine does falls on all of them alike; one more round before them warms up.
    """
    runs: dict[tuple[int, str, Scan], list[float]] = {}
    for _ in range(args.repeats + 1):
        for frames in FRAMES:
            inputs = make_inputs(args.d_inner, args.d_state, frames, args.device)
            for backend in backends:
                if backend == "reference" and frames > REFERENCE_MAX_FRAMES:
                    continue
                for scan in (scan_forward, scan_both):
                    seconds = elapsed(scan, inputs, backend)
                    runs.setdefault((frames, backend, scan), []).append(seconds)
    best = {case: min(seconds[1:]) for case, seconds in runs.items()}
    forward = {case[:2]: seconds for case, seconds in best.items() if case[2] is scan_forward}
    both = {case[:2]: seconds for case, seconds in best.items() if case[2] is scan_both}
    return forward, both


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--d_inner", type=int, default=1024, help="channels (default: 1024)")
    parser.add_argument("--d_state", type=int, default=16, help="states a channel (default: 16)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds to take the best of")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args(argv)


def available_backends(device: str) -> list[str]:
    """The backends that run on `device`, the reference first."""
    probe = torch.zeros(1, device=device)
    fused = resolve_backend("auto", probe) == "cuda"
    return ["reference", "parallel"] + ["cuda"] * fused


def make_inputs(d_inner: int, d_state: int, frames: int, device: str) -> list[Tensor]:
    """u, delta, A, B, C, D, z, delta_bias as a freshly initialised Mamba block feeds them."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rates = torch.arange(1, d_state + 1, dtype=torch.float32)
    u, delta, z = (randn(1, frames, d_inner).transpose(1, 2) for _ in range(3))
    B, C = (randn(1, frames, d_state).transpose(1, 2) for _ in range(2))
    inputs = [u, delta, -rates.repeat(d_inner, 1), B, C, torch.ones(d_inner), z, randn(d_inner) - 4]
    return [tensor.to(device).requires_grad_() for tensor in inputs]


def scan_forward(inputs: Sequence[Tensor], backend: str) -> None:
    with torch.no_grad():
        selective_scan(*inputs, delta_softplus=True, backend=backend)


def scan_both(inputs: Sequence[Tensor], backend: str) -> None:
    y = selective_scan(*inputs, delta_softplus=True, backend=backend)
    torch.autograd.grad(y.sum(), inputs)


def elapsed(scan: Scan, inputs: Sequence[Tensor], backend: str) -> float:
    """Seconds of one call: processor time on a CPU, wall time to the last kernel on a GPU."""
    on_gpu = inputs[0].is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    scan(inputs, backend)
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    sys.exit(run_cli(main))
