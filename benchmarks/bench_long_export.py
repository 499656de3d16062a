"""Time and memory of exports of long motion: `python -m benchmarks.bench_long_export --minutes 60`.

The prediction of ten seconds of recorded speech is repeated into an .npy of the given length, each
time with another strength, and written in each format by a process of its own. Memory is what the
process allocates (RssAnon, Linux): pages of the mapped .npy, which the system takes back at will,
do not count. The last line is JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from benchmarks.bench_export import SUBJECT, predicted_clip
from common.errors import Parser, UserError, run_cli
from config import PROJECT_ROOT
from export.clip import Clip
from export.formats import FORMATS

STRENGTHS = (1.0, 0.9, 1.1, 0.8, 1.05)  # of the motion, in turn
POLL_S = 0.2


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = Parser(prog="python -m benchmarks.bench_long_export", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, nargs="+", default=[6.0, 60.0])
    add("--formats", nargs="+", choices=list(FORMATS), default=["glb", "npz", "arkit"])
    add("--folder", type=Path, help="where an hour has room, 12 GB; default: that of the system")
    args = parser.parse_args(argv)
    rows = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        clip = predicted_clip(folder)
        for minutes in args.minutes:
            motion = write_repeated(clip, round(60 * minutes * clip.fps), folder / "long.npy")
            for suffix in args.formats:
                rows[f"{suffix} {minutes:g} min"] = row = measured(motion, suffix)
                print(f"{suffix:6} {minutes:6g} min", row, flush=True)
            motion.unlink()
    print(json.dumps(rows))


def write_repeated(clip: Clip, n_frames: int, path: Path) -> Path:
    """Write a clip's motion again and again up to `n_frames`, block by block."""
    out = np.lib.format.open_memmap(
        path, "w+", dtype=np.float32, shape=(n_frames, *clip.template.shape)
    )
    offsets = clip.vertices - clip.template
    for number, start in enumerate(range(0, n_frames, len(offsets))):
        end = min(start + len(offsets), n_frames)
        strength = np.float32(STRENGTHS[number % len(STRENGTHS)])
        out[start:end] = clip.template + strength * offsets[: end - start]
    out.flush()
    return path


def measured(motion: Path, suffix: str) -> dict[str, float]:
    """{minutes of wall time, of processor time, largest MB in memory, MB written} of an export."""
    out = motion.with_name("exported")
    command = [sys.executable, "-m", "export", motion, "--formats", suffix, "--subject", SUBJECT]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start, before = time.perf_counter(), os.times()
    largest = 0
    with subprocess.Popen(
        [*map(str, command), "--out", str(out)], cwd=PROJECT_ROOT, env=environment
    ) as process:
        while process.poll() is None:
            largest = max(largest, _allocated_kb(process.pid))
            time.sleep(POLL_S)
    if process.returncode:
        raise UserError(f"export --formats {suffix}: exit code {process.returncode}")
    after = os.times()
    files = [file for file in out.rglob("*") if file.is_file()]
    n_bytes = sum(file.stat().st_size for file in files)
    for file in files:
        file.unlink()
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    return {
        "wall_min": round((time.perf_counter() - start) / 60, 2),
        "processor_min": round(spent / 60, 2),
        "memory_mb": round(largest / 1024),
        "written_mb": round(n_bytes / 1e6, 1),
    }


def _allocated_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended, or this is not Linux
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    sys.exit(run_cli(main))
