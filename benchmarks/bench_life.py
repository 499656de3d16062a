"""What --life gives in ten minutes of speech, what it costs, and what --jaw does to closed lips.

    python -m benchmarks.bench_life [--wav_path FILE ...]

The recordings are played one after the other, with pauses of 0.2 to 1.2 s, until the minutes are
full. Times are processor seconds of one thread for each second of speech. The last line is JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray

from common.errors import Parser, run_cli
from config import BUNDLED_MODEL, RECIPES, SAMPLE_RATE
from jambatalk import load_checkpoint
from production.gains import gains_of
from production.jobs import DEMO_FOLDER, find_recordings
from production.life import Life, live
from production.prosody import Prosody, prosody_of
from production.rig import rig_of
from speech.audio import normalise, read_audio
from synthetic.coarticulation import CLOSED
from synthetic.head import Head, load_head

FPS = 30
PAUSES_S = 0.2, 1.2
SECONDS_DRAWN = 20  # of motion on meshes, whose time is taken
FAST_HZ = 2.0
GAINS = 1.5, 2.0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.bench_life", description="Measure --life.")
    add = parser.add_argument
    add("--wav_path", type=Path, nargs="+", default=[DEMO_FOLDER], metavar="FILE",
        help="recordings, and folders of them; default: demo/wav")  # fmt: skip
    add("--minutes", type=float, default=10.0, help="length of the speech; default: 10")
    add("--seeds", type=int, default=5, help="draws of the rules; default: 5")
    return parser.parse_args(argv)


def talk(recordings: Sequence[Path], seconds: float) -> NDArray[np.float32]:
    """(S,) the recordings one after the other with pauses, again and again."""
    rng, parts, n = np.random.default_rng(1), [], round(seconds * SAMPLE_RATE)
    sounds = [normalise(read_audio(path)) for path in recordings]
    while sum(map(len, parts)) < n:
        for sound in sounds:
            parts += [sound, np.zeros(round(rng.uniform(*PAUSES_S) * SAMPLE_RATE), np.float32)]
    return np.concatenate(parts)[:n]


def figures(life: Life, prosody: Prosody) -> dict[str, float]:
    """What one draw of the rules gives."""
    motion = life.at(np.arange(0.0, prosody.duration_s, 1 / FPS))
    start, closing, opening = life.blinks.T
    after = start[:, None] - prosody.phrases[:, 1]
    head = motion.head - motion.head.mean(axis=0)
    spectrum = np.abs(np.fft.rfft(head, axis=0)) ** 2
    fast = np.fft.rfftfreq(len(head), 1 / FPS) > FAST_HZ
    minutes = prosody.duration_s / 60
    return {
        "blinks_per_min": len(start) / minutes,
        "blink_interval_s": float(np.diff(start).mean()),
        "least_interval_s": float(np.diff(start).min()),
        "opening_over_closing": float((opening / closing).mean()),
        "blinks_at_phrase_ends": float(((after >= 0) & (after <= 0.2)).any(axis=1).mean()),
        "nods_per_min": len(life.nods.start_s) / 3 / minutes,
        "saccades_per_min": len(life.gaze.start_s) / minutes,
        "yaw_sd_deg": float(head[:, 0].std()),
        "pitch_sd_deg": float(head[:, 1].std()),
        "roll_sd_deg": float(head[:, 2].std()),
        "largest_angle_deg": float(np.abs(motion.head).max()),
        "largest_step_deg": float(np.abs(np.diff(motion.head, axis=0)).max()),
        "power_above_2hz": float(spectrum[fast].sum() / spectrum.sum()),
    }


def timed(function: Callable[[], Any], seconds: float) -> tuple[Any, float]:
    """(result, processor milliseconds for each of `seconds` of speech)."""
    start = time.process_time()
    result = function()
    return result, 1e3 * (time.process_time() - start) / seconds


def lip_gaps(head: Head, template: NDArray, meshes: NDArray) -> NDArray[np.float64]:
    """Gap of the inner lips (T,), in units of jawOpen's."""
    upper, lower = head.landmarks["upper_lip_inner"], head.landmarks["lower_lip_inner"]

    def gap(mesh: NDArray) -> NDArray:
        return mesh[..., upper, 1] - mesh[..., lower, 1]

    return (gap(meshes) - gap(template)) / gap(head.units["jawOpen"])


def closures(recording: Path) -> dict[str, Any]:
    """Frames of the bundled model's lips that are closed, and stay so with a gain of the jaw."""
    head, checkpoint = load_head(), load_checkpoint(BUNDLED_MODEL)
    template = next(iter(head.templates.values()))
    audio = normalise(read_audio(recording))
    next(checkpoint.meshes(audio, template, FPS))  # compiles what is compiled
    predicted, predicting_ms = timed(
        lambda: list(checkpoint.meshes(audio, template, FPS)), len(audio) / SAMPLE_RATE
    )
    meshes = np.stack(predicted)
    before = lip_gaps(head, template, meshes)
    closed, wide = before < CLOSED, before > np.percentile(before, 90)
    found: dict[str, Any] = {
        "ms_per_s_predicting": predicting_ms,
        "closed_frames": int(closed.sum()),
    }
    units = np.stack(list(head.units.values()))
    for gain in GAINS:
        gains = gains_of(template, tuple(head.units), units, gain, 1.0)
        gained = lip_gaps(head, template, np.stack(list(gains.meshes(meshes))))
        found[f"still_closed_jaw_{gain:g}"] = int((gained[closed] < CLOSED).sum())
        found[f"wider_jaw_{gain:g}"] = float((gained[wide] / before[wide]).mean())
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(argv)
    recordings, seconds = find_recordings(args.wav_path), 60 * args.minutes
    audio = talk(recordings, seconds)
    prosody, prosody_ms = timed(lambda: prosody_of(audio), seconds)
    lives, rules_ms = timed(lambda: [live(prosody, s) for s in range(args.seeds)], seconds)
    rows = [figures(life, prosody) for life in lives]
    spec, template = RECIPES["synthetic"].dataset, next(iter(load_head().templates.values()))
    rig, times = rig_of(spec, template), np.arange(0.0, SECONDS_DRAWN, 1 / FPS)
    moved = rig.meshes([template] * len(times), lives[0].at(times))
    _, meshes_ms = timed(lambda: sum(1 for _ in moved), SECONDS_DRAWN)
    result = {
        "minutes": args.minutes,
        "phrases_per_min": len(prosody.phrases) / args.minutes,
        **{name: [min(r[name] for r in rows), max(r[name] for r in rows)] for name in rows[0]},
        "ms_per_s_prosody": prosody_ms,
        "ms_per_s_rules": rules_ms / args.seeds,
        "ms_per_s_meshes": meshes_ms,
        **closures(recordings[0]),
    }
    rounded = {
        name: [round(v, 4) for v in value] if isinstance(value, list) else round(value, 4)
        for name, value in result.items()
    }
    for name, value in rounded.items():
        print(f"{name}: {value}")
    print(json.dumps(rounded))


if __name__ == "__main__":
    sys.exit(run_cli(main))
