"""Time and memory of long recordings: `python -m benchmarks.bench_hour --minutes 1 60`.

Runs demo.py --no_video with one thread in a process of its own, on recordings made of the bundled
one. Printed for each length: the largest resident set, the processor seconds until the first frame
is in the file and from there to the end, and the latter for a minute of sound. The last line is
JSON: `peak_mb_hour` and `first_frame_s` are those of the longest recording. An hour needs 8 GB of
disk. Linux.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import common.interpreter  # noqa: F401  first: explains missing packages

import soundfile

from common.errors import Parser, UserError, run_cli
from config import PROJECT_ROOT
from production.jobs import bundled_recording

POLL_S = 0.02
HEADER_BYTES = 4096  # a file larger than this has a frame


class Cost(NamedTuple):
    """Of one run: MB, and processor seconds to the first frame and in all."""

    peak_mb: float
    first_frame_s: float
    total_s: float


def measure(wav: Path, out: Path) -> Cost:
    """Run demo.py on a recording; raises `UserError` where it fails."""
    out.mkdir()
    command = [sys.executable, "demo.py", "--no_video", "--quiet", "--wav_path", wav, "--out", out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=PROJECT_ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    first_frame_s, status, usage = 0.0, None, None
    while status is None:
        if not first_frame_s and any(
            path.stat().st_size > HEADER_BYTES for path in out.glob(".*.npy")
        ):
            first_frame_s = processor_seconds(process.pid)
        time.sleep(POLL_S)
        ended, code, usage = os.wait4(process.pid, os.WNOHANG)
        status = code if ended else None
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"demo.py exited with code {process.returncode}")
    return Cost(usage.ru_maxrss / 1024, first_frame_s, usage.ru_utime + usage.ru_stime)


def write_long(path: Path, seconds: float) -> Path:
    """Write the bundled recording, repeated; returns `path`.

    Block by block, because a process inherits the largest resident set of its parent.
    """
    audio, rate = soundfile.read(bundled_recording(), dtype="int16")
    missing = round(seconds * rate)
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        while missing > 0:
            file.write(audio[:missing])
            missing -= len(audio)
    return path


def processor_seconds(pid: int) -> float:
    """Processor time of a running process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each length, and the JSON."""
    parser = Parser(prog="python -m benchmarks.bench_hour", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 60], metavar="N")
    minutes = sorted(parser.parse_args(argv).minutes)
    if minutes[0] < 0.1:
        raise UserError(f"--minutes {minutes[0]:g}: expected at least 0.1")
    with tempfile.TemporaryDirectory(dir=PROJECT_ROOT) as folder:
        for n in minutes:
            wav, out = write_long(Path(folder) / "clip.wav", 60 * n), Path(folder) / f"out{n:g}"
            cost = measure(wav, out)
            (out / "clip.npy").unlink()
            each = (cost.total_s - cost.first_frame_s) / n
            print(f"{n:g} min: {cost.peak_mb:.0f} MB, first frame after {cost.first_frame_s:.1f} s "
                  f"of processor, then {each:.2f} s a minute", flush=True)  # fmt: skip
    print(json.dumps({"peak_mb_hour": round(cost.peak_mb),
                      "first_frame_s": round(cost.first_frame_s, 2)}))  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_cli(main))
