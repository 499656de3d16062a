"""Time of a picture by the software renderer: `python -m benchmarks.bench_render`.

Draws frames of the bundled recording, predicted by the shipped model, at 800 by 800 and at the
preview's 512 by 512. Times are processor time of one thread; `fps_800` and `fps_512` are the frames
per second of two such threads, without encoding.
"""

import json
import sys
import time
from collections.abc import Sequence

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from llvmlite import binding

from common.errors import Parser, UserError, run_cli
from config import BUNDLED_MODEL
from production.jobs import bundled_recording
from rendering.face import appearance
from rendering.renderer import Renderer

SIZES = 800, 512
THREADS = 2


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, print times and JSON."""
    args = _parser().parse_args(argv)
    if args.frames < 2:
        raise UserError(f"--frames {args.frames}: expected at least 2")
    from jambatalk import load_checkpoint

    animation = load_checkpoint(BUNDLED_MODEL).animate(bundled_recording())
    step = max(1, len(animation.vertices) // args.frames)
    meshes = animation.vertices[::step][: args.frames]
    wide = "AVX-512" if binding.get_host_cpu_features().get("avx512f") else "no AVX-512"
    print(f"{binding.get_host_cpu_name()}, {wide}, {len(meshes)} frames")
    results = {}
    for size in SIZES:
        renderer = Renderer(
            animation.faces, animation.template, size=size,
            **appearance(animation.dataset, animation.subject),
        )  # fmt: skip
        seconds = frame_seconds(renderer, meshes)
        print(f"{size} by {size}: {1000 * seconds:.1f} ms a frame (median)")
        results[f"fps_{size}"] = round(THREADS / seconds, 1)
    print(json.dumps(results))


def frame_seconds(renderer: Renderer, meshes: np.ndarray) -> float:
    """Median processor seconds of a frame, after one that is not counted."""
    renderer.frame(meshes[0])
    seconds = []
    for mesh in meshes:
        start = time.thread_time()
        renderer.frame(mesh)
        seconds.append(time.thread_time() - start)
    return float(np.median(seconds))


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.bench_render", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=60, help="frames to draw; default: 60")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
