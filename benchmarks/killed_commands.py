"""The commands of `bench_kills`, on small inputs that are made here."""

import csv
import dataclasses
import importlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import demo
import main
from benchmarks.bench_resume import TIME_COLUMNS
from benchmarks.fabricate import fabricate
from benchmarks.watched_run import load_libraries, write_data
from BIWI import process_biwi_data
from common.errors import UserError
from config import BIWI, VOCASET
from export import __main__ as export_command
from files.models import load_model_file
from jambatalk import HEADER
from lip_reader import HEADER as READER_HEADER
from production.jobs import bundled_recording
from synthetic.head import load_head
from training.state_file import load_state
from vocaset import process_voca_data

N_VERTICES, SUBJECTS, SENTENCES, SECONDS = 300, 2, 3, 1.0  # of the fabricated downloads
EPOCHS = 2
SOUND_S = 1.0  # of the demo's recording
EXPORTED_FRAMES = 12
OF_TRAINING = ("best.safetensors", "reader.safetensors", "log.csv", "results.json", "results.csv",
               "results.md")  # fmt: skip

LIBRARIES = (  # that commands import; loaded before any fork, as they take longer than the commands
    "imageio_ffmpeg", "layers.scan_numba", "matplotlib.figure", "rendering.renderer",
    "transformers.models.moonshine.modeling_moonshine",
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command that is killed; it writes into a folder that is given to `arguments`.

    replaces: whether it replaces older results; the others keep, or continue, what is there.
    compared: names of the files that must be equal to an undisturbed run's; () for all.
    """

    name: str
    entry: Callable[[Sequence[str]], None]
    flags: Sequence[str]
    replaces: bool = True
    compared: tuple[str, ...] = ()

    def arguments(self, out: Path) -> list[str]:
        """The flags as the command gets them."""
        name = str(out / "plot.png") if "--plot" in self.flags else str(out)
        return [*self.flags, "--out", name]

    def content(self, out: Path) -> dict[str, bytes]:
        """Name -> bytes of the files that the command has written, without times and paths."""
        paths = [out / name for name in self.compared] or sorted(out.rglob("[!.]*"))
        files = [path for path in paths if path.is_file()]
        return {str(p.relative_to(out)): comparable(p, out) for p in files}

    def is_whole(self, path: Path) -> bool:
        """Whether a file of an unfinished training can be read; False for all other commands."""
        if not self.compared:
            return False
        try:
            return is_readable(path)
        except (UserError, ValueError, OSError):
            return False


def comparable(path: Path, out: Path) -> bytes:
    """The bytes of a file; a log without its columns of times, `out` replaced in texts."""
    if path.name != "log.csv":
        return path.read_bytes().replace(str(out).encode(), b"OUT")
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    kept = [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in rows]
    return json.dumps(kept).encode()


def is_readable(path: Path) -> bool:
    """Whether a file that a training writes is whole; raises where a reader refuses it."""
    if path.name in ("best.safetensors", "reader.safetensors"):
        load_model_file(path, HEADER if path.name[0] == "b" else READER_HEADER)
    elif path.suffix == ".pt":
        load_state(path)
    elif path.suffix == ".npy":
        np.load(path, mmap_mode="r")
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.name == "log.csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        return not any(None in row.values() or None in row for row in rows)
    return True


def make_commands(folder: Path, names: Sequence[str] | None = None) -> list[Command]:
    """The commands with these names, None for all; their inputs are written into `folder`.

    Raises `UserError` for an unknown name.
    """
    load_libraries()
    for library in LIBRARIES:
        importlib.import_module(library)
    raw = ["--raw", str(folder / "raw_vocaset")]
    raw_biwi = ["--raw", str(folder / "raw_biwi"), "--workers", "1"]
    train = ["--dataset", str(folder / "data"), "--epochs", str(EPOCHS), "--workers", "0",
             "--precision", "fp32", "--resume", "--save_every", "0.01", "--cache", "off",
             ]  # fmt: skip
    sound = ["--wav_path", str(folder / "speech.wav")]
    motion = [str(folder / "motion.npy"), "--formats", "arkit", "glb", "obj", "npz"]
    run = str(folder / "run")
    commands = [
        Command("vocaset", process_voca_data.main, raw, replaces=False),
        Command("biwi", process_biwi_data.main, raw_biwi, replaces=False),
        Command("train", main.main, train, replaces=False, compared=OF_TRAINING),
        Command("demo", demo.main, [*sound, "--no_video"]),
        Command("video", demo.main, [*sound, "--size", "64"]),
        Command("export", export_command.main, motion),
        Command("plot", main.main, ["--plot", run]),
    ]
    known = {command.name: command for command in commands}
    if unknown := set(names or ()) - known.keys():
        raise UserError(f"--what {' '.join(sorted(unknown))}: expected {', '.join(known)}")
    write_inputs(folder)
    return [known[name] for name in names or known]


def write_inputs(folder: Path) -> None:
    """Write downloads, training data, a recording, a prediction and a run folder."""
    import soundfile

    for name, spec in (("raw_vocaset", VOCASET), ("raw_biwi", BIWI)):
        small = dataclasses.replace(spec, n_vertices=N_VERTICES)
        fabricate(small, folder / name, SUBJECTS, SENTENCES, SECONDS)
    write_data(folder / "data")
    audio, rate = soundfile.read(bundled_recording())
    soundfile.write(folder / "speech.wav", audio[: round(SOUND_S * rate)], rate)
    head = load_head()
    opening = np.sin(np.linspace(0, 3, EXPORTED_FRAMES, dtype=np.float32))
    jaw = opening[:, None, None] * head.units["jawOpen"]
    np.save(folder / "motion.npy", next(iter(head.templates.values())) + jaw)
    (folder / "run").mkdir()
    record = {"recipe": {"dataset": {"metres_per_unit": 1.0}}}
    (folder / "run/run.json").write_text(json.dumps(record))
    (folder / "run/log.csv").write_text("epoch,seconds,val_lve,loss\n1,60,4e-6,2\n2,60,2e-6,1\n")
