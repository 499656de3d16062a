"""Processor seconds of a demo by stage: `python -m benchmarks.demo_stages FILE.wav`.

One process makes the video of a recording as demo.py does, but draws on one thread, so that each
stage can be timed. The start ends when model, face and compiled kernels are loaded. The last line
is JSON; its sum is the whole but for the exit. Linux and macOS.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import common.interpreter  # noqa: F401  first: explains missing packages

from common.errors import Parser, run_cli
from common.start_up import collect_seldom, prepare_process

Item = TypeVar("Item")


def timed(stage: str, items: Iterable[Item], seconds: dict[str, float]) -> Iterator[Item]:
    """Yield items; their processor seconds, with those of earlier stages, become an entry."""
    source, spent = iter(items), 0.0
    while True:
        start = time.process_time()
        item = next(source, None)
        spent += time.process_time() - start
        seconds[stage] = spent
        if item is None:
            return
        yield item


def stages_of(recording: Path, folder: Path) -> dict[str, float]:
    """Processor seconds of each stage of the video of a recording; folder: for its files."""
    from layers import scan_numba  # noqa: F401  loads its kernels
    from production.added import adding
    from production.flags import parse
    from production.plan import check
    from production.run import motion
    from production.sound import load_speech
    from production.speaker import load_speaker
    from rendering.video import write_video
    from rendering.yuv import yuv_of
    from speech.timing import covering_frames

    plan = check(parse(["--wav_path", str(recording), "--out", str(folder), "--quiet"]))
    speaker = load_speaker(plan)
    speech = load_speech(recording, None, 0.0, None, 0, folder)
    yuv_of(speaker.renderer.frame(speaker.template))  # loads the kernels
    start, until, fps = time.process_time(), {}, speaker.spec.fps
    n_frames = covering_frames(len(speech.audio), fps)
    with adding(plan, speaker.rig, speech, n_frames, fps, folder) as added:
        meshes = timed("prediction", motion(plan, speaker, speech.audio, fps), until)
        moved = timed("rules", added.to_pictures(added.to_files(meshes)), until)
        pictures = timed("drawing", speaker.renderer.frames(moved), until)
        write_video(folder / "clip.mp4", pictures, n_frames, fps, recording)
    ffmpeg = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "start": start,
        "prediction": until["prediction"],
        "blinks, glances, head motion": until["rules"] - until["prediction"],
        "drawing": until["drawing"] - until["rules"],
        "YUV and pipe": time.process_time() - start - until["drawing"],
        "ffmpeg": ffmpeg.ru_utime + ffmpeg.ru_stime,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Make the video in a temporary folder and print the stages as JSON."""
    parser = Parser(description="Processor seconds of a demo by stage.")
    parser.add_argument("recording", type=Path, help="any sound file")
    recording = parser.parse_args(argv).recording
    prepare_process()
    with tempfile.TemporaryDirectory() as folder:
        seconds = stages_of(recording, Path(folder))
    print(json.dumps({name: round(value, 2) for name, value in seconds.items()}))


if __name__ == "__main__":
    collect_seldom()
    sys.exit(run_cli(main))
