"""Time and memory of the demo on 10 s of speech: `python -m benchmarks.bench_demo`.

Runs demo.py in a process of its own: first on half a second (which compiles the renderer if needed
and warms the disk cache), then on 10 s made of the bundled recording. `wall_s` is the time from the
start of Python to the finished video; `peak_mb` is the largest resident set of a single process
(Python; ffmpeg's is smaller). Linux and macOS.

`ratio` is the release's way, `benchmarks.release_demo`, against the whole demo: processor seconds
of both for the same clip. Start-up and encoding are counted for the demo alone. It is null where
pyrender cannot draw, and the reason is printed. A table has the stages of both sides; those of the
demo are from a run of their own (`benchmarks.demo_stages`).
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
import soundfile

from common.errors import Parser, UserError, run_cli
from config import PROJECT_ROOT, RECIPES
from production.jobs import bundled_recording

WARM_UP_S, CLIP_S = 0.5, 10.0
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss


def write_clip(path: Path, seconds: float) -> Path:
    """Write the bundled recording, repeated or cut to `seconds`; returns `path`."""
    audio, rate = soundfile.read(bundled_recording())
    soundfile.write(path, np.resize(audio, round(seconds * rate)), rate)
    return path


def run_demo(wav: Path, out: Path, flags: Sequence[str]) -> float:
    """Seconds from start to exit of demo.py; raises `UserError` with its message if it fails."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "demo.py", "--wav_path", str(wav), "--out", str(out), *flags],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"demo.py exited with code {done.returncode}: {last}")
    if not Path(done.stdout.splitlines()[-1]).is_file():
        raise UserError(
            f"demo.py: expected the path of a video as its last line, got {done.stdout}"
        )
    return seconds


def processor_s() -> float:
    """Processor seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_part(module: str, path: Path) -> dict[str, float]:
    """What a benchmark of this folder prints as JSON for a file; raises `UserError` if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", str(path)],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise UserError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def release_stages(vertices: Path) -> dict[str, float] | None:
    """Processor seconds of the release's way for a clip; None, and a line, where it cannot run."""
    try:
        parts = run_part("release_demo", vertices)
    except UserError as error:
        print(f"no ratio: {error}")
        return None
    n_frames = round(CLIP_S * RECIPES["synthetic"].dataset.fps)
    return {
        "prediction": parts["predict_s"],
        "drawing: mesh and normals": n_frames * parts["mesh_s"],
        "drawing: context of OpenGL": n_frames * parts["context_s"],
        "drawing: picture": n_frames * parts["render_s"],
    }


def print_stages(side: str, seconds: dict[str, float]) -> None:
    """Print a table of stages in processor seconds."""
    print(f"| {side} | processor s |\n|---|---|")
    for stage, value in seconds.items():
        print(f"| {stage} | {value:.2f} |")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo twice and print its time and memory."""
    parser = Parser(description="Time and memory of the demo on 10 s of speech.")
    parser.add_argument("flags", nargs="*", help="after --: further flags of demo.py")
    flags = parser.parse_args(argv).flags
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        first = run_demo(write_clip(work / "warm_up.wav", WARM_UP_S), work, flags)
        print(f"warm-up on {WARM_UP_S:g} s of speech: {first:.1f} s")
        before = processor_s()
        wall = run_demo(write_clip(work / "clip.wav", CLIP_S), work, flags)
        ours = processor_s() - before
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * RSS_UNIT / 2**20
        print(
            f"{CLIP_S:g} s of speech: {wall:.1f} s, {ours:.1f} s of processor, "
            f"largest process {peak:.0f} MB"
        )
        print_stages("demo.py", run_part("demo_stages", work / "clip.wav"))
        release = release_stages(work / "clip.npy")
    ratio = None
    if release is not None:
        print_stages("the release's way", release)
        ratio = round(sum(release.values()) / ours, 1)
    print(json.dumps({"wall_s": round(wall, 2), "peak_mb": round(peak), "ratio": ratio}))


if __name__ == "__main__":
    sys.exit(run_cli(main))
