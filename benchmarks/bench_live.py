"""The live engine: delays, load, memory, and what its look-ahead costs in lip sync.

    python -m benchmarks.bench_live [--minutes 10] [--memory_minutes 60] [--lips]

Recordings are fed on the clock, in blocks of 10 ms as microphone and page give them; then, as fast
as the engine takes them, for its memory and for the sessions that two threads hold in real time.
The motion between two frames is compared at the joins of the engine's steps, inside them, and in
whole-clip prediction. `--lips` compares live and whole-clip prediction on human recordings (see
bench_lips). The last line is JSON.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.bench_lips import groups, model_predictor
from benchmarks.idle_process import idle_process, stolen_ms
from benchmarks.lips import Predict, mesh_pairs, score_lips
from benchmarks.real_speech import EXTRA_FOLDER, HALVES, load_real_clips
from common.errors import Parser, UserError, run_cli
from config import BUNDLED_MODEL, SAMPLE_RATE
from jambatalk import Checkpoint, load_checkpoint
from layers import PRECISIONS
from production.jobs import DEMO_FOLDER, find_recordings
from speech.audio import normalise, read_audio
from streaming.engine import CONTEXT_S, LOOK_AHEAD_S, STEP_FRAMES, Stream
from streaming.session import LATE_S
from synthetic.head import Head, load_head

BLOCK = SAMPLE_RATE // 100
WARM_UP_S = 2.0  # of sound before anything is measured
SESSION_S = 20.0  # of sound, of each of the sessions
MEMORY_ROW = 10  # minutes of sound between two rows about memory


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.bench_live", description="Measure the live engine.")
    add = parser.add_argument
    # fmt: off
    add("--checkpoint", type=Path, default=BUNDLED_MODEL, metavar="FILE", help="default: bundled")
    add("--wav_path", type=Path, nargs="+", default=[DEMO_FOLDER], metavar="FILE",
        help="recordings to feed, and folders of them; default: demo/wav")
    add("--minutes", type=float, default=10.0, help="fed on the clock; default: %(default)s")
    add("--memory_minutes", type=int, default=10, metavar="N",
        help="fed as fast as possible, 60 for the hour; at least 1; default: %(default)s")
    add("--precision", choices=PRECISIONS, default="int8", help="as of live.py; default: int8")
    add("--output", default="curves", help="of the engine; default: %(default)s")
    add("--lips", action="store_true", help="lip sync by look-ahead, on human recordings")
    add("--look_aheads", type=float, nargs="+", default=[0.0, 0.1, 0.25, 0.5], metavar="S")
    add("--contexts", type=float, nargs="+", default=[CONTEXT_S], metavar="S")
    add("--half", choices=HALVES, default="dev", help="of the recordings; default: %(default)s")
    add("--extra_wav", metavar="DIR", default=EXTRA_FOLDER, help="as for bench_lips")
    add("--asterisk", metavar="DIR", help="as for bench_lips")
    # fmt: on
    args = parser.parse_args(argv)
    if args.memory_minutes < 1:
        raise UserError(f"--memory_minutes {args.memory_minutes}: expected at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print tables and JSON."""
    args = parse(argv)
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    checkpoint = load_checkpoint(args.checkpoint, precision=args.precision, device=cpu)
    recordings = [read_audio(path) for path in find_recordings(args.wav_path)]
    sound = np.concatenate(recordings)
    row: dict[str, Any] = on_the_clock(checkpoint, sound, args)
    row["memory_growth_mb_per_hour"] = memory_growth(checkpoint, sound, args)
    row["sessions_real_time"] = sessions(checkpoint, sound, args.output)
    row |= joins(checkpoint, recordings)
    if args.lips:
        row |= lips(checkpoint, args)
    print(json.dumps(row))


def blocks_of(sound: NDArray, seconds: float) -> Iterator[NDArray]:
    """Blocks of 10 ms of a sound that is repeated for so many seconds."""
    for index in range(round(seconds * SAMPLE_RATE) // BLOCK):
        start = index * BLOCK % (len(sound) - BLOCK)
        yield sound[start : start + BLOCK]


def on_the_clock(checkpoint: Checkpoint, sound: NDArray, args: argparse.Namespace) -> dict:
    """Delays and load while blocks arrive as they are recorded, and what made frames late."""
    stream = Stream(checkpoint, output=args.output)
    for block in blocks_of(sound, WARM_UP_S):
        stream.push(block)
    stream.reset()
    worst_s, steps = LOOK_AHEAD_S + LATE_S, []
    with idle_process() as oversleep_ms:
        begin, busy = time.monotonic(), time.process_time()
        for index, block in enumerate(blocks_of(sound, 60 * args.minutes), 1):
            time.sleep(max(0.0, begin + index * BLOCK / SAMPLE_RATE - time.monotonic()))
            before = np.array([time.monotonic(), time.thread_time(), stolen_ms() / 1000])
            if frames := stream.push(block):
                after = np.array([time.monotonic(), time.thread_time(), stolen_ms() / 1000])
                late = (stream.latencies.last(len(frames)) > worst_s).sum()
                steps.append([*(after - before), late])
        share = (time.process_time() - busy) / (time.monotonic() - begin)
    delays, steps = stream.latency(), np.array(steps)
    late = int(steps[:, 3].sum())
    print(f"{args.minutes:g} minutes on the clock: {delays.p50_ms:.0f} ms half of the frames, "
          f"{delays.p95_ms:.0f} ms 95 %, {delays.worst_ms:.0f} ms the worst; {late} of "
          f"{stream.next_frame} later than {1000 * worst_s:.0f} ms; "
          f"{share:.2f} of a core")  # fmt: skip
    return {
        "p50_ms": round(delays.p50_ms, 1), "p95_ms": round(delays.p95_ms, 1), "late": late,
        "minutes": args.minutes, "core_share": round(share, 3),
    } | causes(steps, oversleep_ms[0])  # fmt: skip


def causes(steps: NDArray, host_stall_ms: float) -> dict[str, float]:
    """What can make frames late, in milliseconds.

    steps: (n, 4), seconds on the clock, of processor, and taken by the host of a virtual machine,
    and late frames. A step does the same work each time. One that takes several times the usual
    processor time ran on a core that was slowed down, and one that takes much longer than its
    processor time waited for a core. `stolen_ms`: what the host took during steps, of all cores,
    and `late_while_stolen`, the late frames of such steps. `host_stall_ms`: by how much a process
    that only sleeps overslept.
    """
    processor, wait = 1000 * steps[:, 1], 1000 * (steps[:, 0] - steps[:, 1])
    stolen, late = 1000 * steps[:, 2], steps[:, 3]
    row = {
        "step_ms": float(np.median(processor)), "slowest_step_ms": float(processor.max()),
        "core_wait_ms": float(wait.max()), "host_stall_ms": host_stall_ms,
        "stolen_ms": float(stolen.sum()), "late_while_stolen": float(late[stolen > 0].sum()),
    }  # fmt: skip
    print("a step takes {step_ms:.0f} ms of processor, {slowest_step_ms:.0f} ms the slowest, and "
          "waited {core_wait_ms:.0f} ms for a core at most; an idle process overslept by "
          "{host_stall_ms:.0f} ms at most; the host took {stolen_ms:.0f} ms of all cores during "
          "steps, of which {late_while_stolen:.0f} late frames are".format(**row))  # fmt: skip
    return {name: round(value, 1) for name, value in row.items()}


def memory_growth(checkpoint: Checkpoint, sound: NDArray, args: argparse.Namespace) -> float:
    """Growth of the process's memory in MB for each hour of sound, after a minute of warming up.

    The slope of a line through the memory after each minute of sound, by least squares.
    """
    stream, minutes = Stream(checkpoint, output=args.output), args.memory_minutes
    for block in blocks_of(sound, 60.0):
        stream.push(block)
    memory, begin = [resident_mb()], time.process_time()
    for minute in range(1, minutes + 1):
        for block in blocks_of(sound, 60.0):
            stream.push(block)
        memory.append(resident_mb())
        if minute % MEMORY_ROW == 0 or minute == minutes:
            share = (time.process_time() - begin) / (60 * minute)
            print(f"{minute:4} of {minutes} minutes: {memory[-1]:.1f} MB, {min(memory):.1f} to "
                  f"{max(memory):.1f} so far; {share:.3f} of a core", flush=True)  # fmt: skip
    slope, _ = np.polyfit(np.arange(minutes + 1) / 60, memory, 1)
    print(f"memory grows by {slope:.1f} MB an hour")
    return round(float(slope), 1)


def resident_mb() -> float:
    """Memory of this process now, or at most so far where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def sessions(checkpoint: Checkpoint, sound: NDArray, output: str) -> float:
    """Seconds of sound that two threads with a session each compute in a second."""
    threads = min(2, os.cpu_count() or 1)

    def speak(stream: Stream) -> None:
        for block in blocks_of(sound, SESSION_S):
            stream.push(block)

    streams = [Stream(checkpoint, output=output) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        begin = time.monotonic()
        list(pool.map(speak, streams))
        held = threads * SESSION_S / (time.monotonic() - begin)
    print(f"{threads} threads: {held:.1f} sessions in real time")
    return round(held, 1)


def joins(checkpoint: Checkpoint, recordings: Sequence[NDArray]) -> dict[str, float]:
    """Largest motion of a vertex from frame to frame, in mm: 99 % of the pairs of frames.

    At the joins of the engine's steps, inside the steps, and in whole-clip prediction.
    """
    stream, fps = Stream(checkpoint), checkpoint.spec.fps
    scale, template = 1000 * checkpoint.spec.metres_per_unit, stream.template.numpy()
    motion: dict[str, list[float]] = {"join_mm": [], "inside_mm": [], "whole_mm": []}
    for sound in recordings:
        stream.reset()
        live = np.stack([frame.values for frame in stream.push(sound) + stream.flush()])
        steps = scale * largest_motion(live)
        joined = np.arange(1, len(live)) % STEP_FRAMES == 0
        motion["join_mm"] += steps[joined].tolist()
        motion["inside_mm"] += steps[~joined].tolist()
        whole = checkpoint.vertices(normalise(sound), template, fps)
        motion["whole_mm"] += (scale * largest_motion(whole)).tolist()
    row = {name: round(float(np.quantile(mm, 0.99)), 2) for name, mm in motion.items()}
    most = ", ".join(f"{name[:-3]} {row[name]} and {max(mm):.2f}" for name, mm in motion.items())
    print(f"motion from frame to frame, 99 % and the largest, mm: {most}")
    return row


def largest_motion(vertices: NDArray) -> NDArray:
    """(T - 1,) distance by which the vertex (T, V, 3) that moves most goes from frame to frame."""
    return np.linalg.norm(np.diff(vertices, axis=0), axis=-1).max(axis=1)


def lips(checkpoint: Checkpoint, args: argparse.Namespace) -> dict[str, float]:
    """Lip sync by look-ahead and context beside that of the whole clip; prints a table."""
    head = load_head()
    whole, template = model_predictor(args.checkpoint, None, head)
    subject = list(head.templates)[-1]
    clips = groups(load_real_clips(args.half, args.extra_wav, args.asterisk))
    names = ("jaw r", "gap r", "closed", "others", "AUC", "sync", "jitter mm")
    print(f"{'':34}" + "".join(f"{name:>11}" for name in names))
    row: dict[str, float] = {}
    for group, members in clips.items():
        scores = _scores(whole, members, head, template)
        print(f"{f'{group}, whole clips':34}" + "".join(f"{value:11.3f}" for value in scores))
        if group == "speech":
            row["gap_r_offline"] = round(scores[1], 3)
        for context in args.contexts:
            for look_ahead in args.look_aheads:
                predict = live_predictor(checkpoint, subject, look_ahead, context)
                scores = _scores(predict, members, head, template)
                name = f"  {look_ahead:g} s ahead, {context:g} s context"
                print(f"{name:34}" + "".join(f"{value:11.3f}" for value in scores), flush=True)
                if group == "speech" and (look_ahead, context) == (LOOK_AHEAD_S, CONTEXT_S):
                    row |= {"gap_r_live": round(scores[1], 3), "closed_live": round(scores[2], 3)}
    if "gap_r_live" not in row:
        raise UserError(
            f"--look_aheads, --contexts: expected {LOOK_AHEAD_S} and {CONTEXT_S} among them"
        )
    return row


def live_predictor(
    checkpoint: Checkpoint, subject: str, look_ahead: float, context: float
) -> Predict:
    """A function of audio (S,) that returns the vertices (T, V, 3) of the live engine."""
    stream = Stream(checkpoint, subject, look_ahead_s=look_ahead, context_s=context)

    def predict(audio: NDArray[np.float32]) -> NDArray[np.float32]:
        stream.reset()
        frames = stream.push(audio) + stream.flush()
        return np.stack([frame.values for frame in frames[: len(audio) * 30 // SAMPLE_RATE]])

    return predict


def _scores(predict: Predict, clips: Sequence, head: Head, template: NDArray) -> tuple[float, ...]:
    scores = score_lips(mesh_pairs(predict, clips, head, template))
    figures = (
        scores.jaw_r, scores.aperture_r, scores.closed, scores.others_closed, scores.auc,
        scores.sync_frames, scores.jitter_mm,
    )  # fmt: skip
    return tuple(figure.value for figure in figures)


if __name__ == "__main__":
    sys.exit(run_cli(main))
