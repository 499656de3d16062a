"""A toy run of main.py in a process of its own that reports what it is doing.

For `bench_resume`: synthetic data and encoder (`write_data`), processes that run
`python main.py ...` (`Attempt`), and the shared memory in which they report (`Watch`). Importing
torch takes longer than the run, so attempts are forked from a `Server` that has imported it. Each
server is an interpreter with another hash seed, as real runs have, so the order of sets of strings
differs.
"""

import json
import os
import resource
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from common.errors import UserError, run_cli
from config import PROJECT_ROOT

FPS, V, FRAME_SAMPLES = 30, 60, 1_600 // 3
EPOCHS, TRAIN_CLIPS, BATCH_SIZE = 60, 16, 2
STEPS = TRAIN_CLIPS // BATCH_SIZE  # of an epoch
ENCODER = dict(
    model_type="wav2vec2", hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=32, conv_dim=[16] * 7, num_conv_pos_embedding_groups=2,
    feat_extract_norm="layer", do_stable_layer_norm=True, mask_time_length=3,
)  # fmt: skip
MODEL = dict(layout="MEA", d_model=24, d_state=4, moe_d_state=4, moe_d_conv=4, n_heads=4,
             n_kv_heads=2, d_ff=32, rope_rank=3, vertex_rank=2, dropout=0.1)  # fmt: skip
TRAIN = dict(epochs=EPOCHS, batch_size=BATCH_SIZE, steps_per_epoch=0, learning_rate=1e-3,
             ema_decay=0.9, max_clip_s=0, augment=False, closure_gain=0)  # fmt: skip
PHASES = ("start", "step", "state", "validation", "model", "log")  # what a process is doing


def write_data(folder: Path) -> None:
    """A folder of own data for main.py: an egg whose lips open with the loudness of a hum."""
    import soundfile
    import torch

    from benchmarks.fabricate import make_egg
    from speech.bodies import build_ctc, transformers_config

    rng = np.random.default_rng(0)
    face = make_egg(V)
    near = np.argsort(np.linalg.norm(face.vertices - face.mouth, axis=1))
    for part in ("wav", "vertices_npy"):
        (folder / part).mkdir(parents=True)
    np.savez(folder / "templates.npz", a=face.vertices, b=face.vertices * 1.05)
    splits = {"train": [f"a_{i:02d}" for i in range(TRAIN_CLIPS)], "val": ["b_0", "b_1"],
              "test": ["b_2"]}  # fmt: skip
    for name in sum(splits.values(), []):
        n_frames = int(rng.integers(12, 20))
        loud = np.abs(np.sin(np.arange(n_frames) / FPS * 2 * np.pi * rng.uniform(1, 4)))
        vertices = np.tile(face.vertices * (1.0 if name[0] == "a" else 1.05), (n_frames, 1, 1))
        vertices[:, near[:4], 1] -= 0.01 * loud[:, None]
        np.save(folder / f"vertices_npy/{name}.npy", vertices.astype(np.float32))
        sound = np.repeat(loud, FRAME_SAMPLES)
        sound = 0.5 * sound * np.sin(2 * np.pi * 200 * np.arange(len(sound)) / 16_000)
        soundfile.write(folder / f"wav/{name}.wav", sound, 16_000)
    for region, rows in (("lips", near[:8]), ("upper", near[-8:])):
        (folder / f"{region}.txt").write_text("\n".join(map(str, rows)) + "\n")
    torch.manual_seed(0)
    build_ctc(transformers_config(ENCODER)).save_pretrained(folder / "encoder")
    settings = {"base": "synthetic", "wav2vec2": "encoder", "splits": splits, "fps": FPS,
                "source_fps": FPS, "model": MODEL, "train": TRAIN}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(settings))


class Watch:
    """What a process reports, in a memory-mapped file; times in seconds are of `time.time`."""

    FIELDS = ("phase", "steps", "saved_steps", "saved_s", "checked_s", "longest_s")

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(bytes(8 * len(self.FIELDS)))
        object.__setattr__(self, "memory", np.memmap(file, np.float64, "r+"))

    def __getattr__(self, name: str) -> float:
        return self.memory[self.FIELDS.index(name)]

    def __setattr__(self, name: str, value: float) -> None:
        self.memory[self.FIELDS.index(name)] = value

    def reset(self) -> None:
        """Prepare for the next process; the number of steps stays."""
        self.phase = self.checked_s = self.saved_s = self.longest_s = 0.0


def observe(watch: Watch) -> None:
    """Make the training of this process report to `watch`."""
    from training import run

    def within(phase: str, function: Callable) -> Callable:
        def reported(*args: Any, **kwargs: Any) -> Any:
            before, watch.phase = watch.phase, PHASES.index(phase)
            result = function(*args, **kwargs)
            watch.phase = before
            return result

        return reported

    def save_state(path: Path, state: dict[str, Any]) -> str:
        started = time.time()
        problem = write_state(path, state)
        if not problem:
            watch.saved_steps, watch.saved_s = steps_of(state), started
        return problem

    def check(run: Any, batches: Any) -> None:
        now = time.time()
        watch.phase = watch.phase or PHASES.index("step")  # called in validation, too
        watch.steps = (run.epoch - 1) * STEPS + batches.plan.position
        watch.saved_s = watch.saved_s or run.saved_s
        watch.longest_s = max(watch.longest_s, now - (watch.checked_s or run.saved_s))
        watch.checked_s = now
        save_or_stop(run, batches)

    write_state, save_or_stop = run.save_state, run.Run._save_or_stop
    run.save_state = within("state", save_state)
    run.save_checkpoint = within("model", run.save_checkpoint)
    run.Run._save_or_stop = check
    run.Run._validate = within("validation", run.Run._validate)
    run.Log.add = within("log", run.Log.add)


def steps_of(state: dict[str, Any]) -> int:
    """Number of optimizer steps before a state."""
    of_epoch = state["batches"]["position"] if state["epoch"] == state["batches"]["epoch"] else 0
    return (state["epoch"] - 1) * STEPS + of_epoch


class Server:
    """An interpreter with a hash seed of its own that has imported torch and forks attempts."""

    def __init__(self, hash_seed: int, watch: Path) -> None:
        self.hash_seed = hash_seed
        environment = {"PYTHONHASHSEED": str(hash_seed), "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.watched_run", str(watch)], cwd=PROJECT_ROOT,
            env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip

    def start(self, arguments: Sequence[str], output: Path, largest_file: int = 0) -> "Attempt":
        """Start `python main.py arguments`; its output is appended to a file.

        largest_file: bytes; larger files cannot be written, as on a full disk; 0 for no limit.
        """
        order = json.dumps([list(arguments), str(output), largest_file])
        self.process.stdin.write(order.encode() + b"\n")
        return Attempt(int(self.answer()), self)

    def answer(self) -> bytes:
        """The next line of the server: the process id of an attempt, later its exit code."""
        line = self.process.stdout.readline()
        if not line:
            raise UserError(
                f"the server with hash seed {self.hash_seed} has ended; see its output above"
            )
        return line

    def close(self) -> None:
        """End the server; its attempts must have ended."""
        self.process.stdin.close()
        self.process.wait()


class Attempt:
    """One of the successive processes of a run."""

    def __init__(self, pid: int, server: Server) -> None:
        self.pid, self.server = pid, server

    def ended(self) -> bool:
        """Whether it has ended; does not read its exit code."""
        return bool(select.select([self.server.process.stdout], [], [], 0)[0])

    def exit_code(self) -> int:
        """Wait for its exit code; minus the number of a signal that ended it."""
        return int(self.server.answer())

    def kill(self, number: int) -> None:
        """Send it a signal; no effect if it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Wait until it has ended, `seconds` have passed, or `until()` is true."""
        end = time.time() + seconds
        while time.time() < end and not until() and not self.ended():
            time.sleep(0.0003)


def serve(watch: Watch) -> None:
    """Fork the attempts that the lines of stdin describe, one at a time, until stdin ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print goes to stderr, not among the answers
    load_libraries()
    observe(watch)
    for line in sys.stdin:
        watch.reset()
        if not (pid := os.fork()):
            os._exit(attempt(*json.loads(line)))
        os.write(answers, f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(answers, f"{code}\n".encode())


def attempt(arguments: Sequence[str], output: str, largest_file: int) -> int:
    """Run `python main.py arguments` in this process; returns the exit code."""
    import main as entry

    code = 1
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        code = run_cli(entry.main, arguments)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def load_libraries() -> None:
    """Import what a run imports, before any fork; with one thread, since forks copy no threads."""
    import torch

    torch.set_num_threads(1)
    import librosa  # noqa: F401
    import transformers
    from torch.utils.tensorboard import summary  # noqa: F401

    from training import run  # noqa: F401

    transformers.Wav2Vec2ForCTC  # noqa: B018  # loaded when first named
    transformers.utils.logging.disable_progress_bar()


if __name__ == "__main__":
    serve(Watch(Path(sys.argv[1])))
