"""Small pieces of work, each timed in a fresh process: `python -m benchmarks.timed_work predict`.

`benchmarks.compare` runs this file in two versions of the project, each time with that version as
the current folder: `python - NAME < timed_work.py` imports the modules of that folder. So it uses
only what has existed for long, and imports nothing at the top but the standard library. The last
line is JSON: processor seconds, the median of several calls after one that is not counted. The
whole demo runs once; its first run in a folder, which compiles, is not counted by `compare`.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SECONDS, SHORT_SECONDS = 10, 7  # of speech, for the prediction and for the start
FRAMES, SIZE = 60, 512  # of the drawing
SCAN_FRAMES, D_INNER, D_STATE = 1_200, 1_024, 16
REPEATS = 3
RECORDING = "demo/wav/sense_and_sensibility.wav"


def processor_s(run: Callable[[], object]) -> float:
    """Median processor seconds of a call, after one that is not counted."""
    run()
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


def command_s(*words: str) -> float:
    """Processor seconds of a command of the current folder."""
    started = children_s()
    subprocess.run(
        [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
    )
    return children_s() - started


def children_s() -> float:
    """Processor seconds of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def predict() -> float:
    """The shipped model's vertices of 10 s of speech."""
    import numpy as np

    from config import SAMPLE_RATE
    from data_loader import load_wav
    from dataset.faces import choose_face
    from jambatalk import load_checkpoint

    checkpoint = load_checkpoint()
    template = choose_face(checkpoint.spec, None, None)[1]
    audio = np.resize(load_wav(RECORDING), SECONDS * SAMPLE_RATE)
    return processor_s(lambda: checkpoint.vertices(audio, template, checkpoint.spec.fps))


def draw() -> float:
    """60 frames of the shipped model at 512 by 512."""
    from jambatalk import load_checkpoint
    from rendering.face import appearance
    from rendering.renderer import Renderer

    animation = load_checkpoint().animate(RECORDING)
    renderer = Renderer(
        animation.faces, animation.template, size=SIZE,
        **appearance(animation.dataset, animation.subject),
    )  # fmt: skip
    step = len(animation.vertices) // FRAMES
    meshes = animation.vertices[::step][:FRAMES]
    return processor_s(lambda: [renderer.frame(mesh) for mesh in meshes])


def scan() -> float:
    """The selective scan of 40 s at the paper's width, forward and backward."""
    from benchmarks.bench_scan import make_inputs, scan_both

    inputs = make_inputs(D_INNER, D_STATE, SCAN_FRAMES, "cpu")
    return processor_s(lambda: scan_both(inputs, "auto"))


def train() -> float:
    """A step of the small network of bench_train: eight clips of 3 to 5 s."""
    import torch

    from benchmarks.bench_train import PARTS, our_pass, write_encoder

    part = PARTS["small"]
    with tempfile.TemporaryDirectory() as folder:
        write_encoder(part, Path(folder))
        torch.manual_seed(1)
        one_pass = our_pass(part, Path(folder), False)
        return processor_s(one_pass) * part.batch_size / len(part.seconds)


def show_help() -> float:
    """`demo.py --help`."""
    return statistics.median(command_s("demo.py", "--help") for _ in range(REPEATS))


def start() -> float:
    """`demo.py --no_video` on 7 s, whose frames all come from one part of the sound."""
    import soundfile

    audio, rate = soundfile.read(RECORDING, dtype="int16")
    with tempfile.TemporaryDirectory() as folder:
        wav = f"{folder}/clip.wav"
        soundfile.write(wav, audio[: SHORT_SECONDS * rate], rate)
        return command_s("demo.py", "--no_video", "--wav_path", wav, "--out", folder)


WORK = {
    "predict": predict, "draw": draw, "scan": scan, "train": train, "help": show_help,
    "start": start,
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps({"seconds": WORK[sys.argv[1]]()}))
