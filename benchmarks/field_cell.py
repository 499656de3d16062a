"""A cell of the field: one model, one seed, trained and scored, in a process of its own.

`bench_field` runs `python -m benchmarks.field_cell CELL.json` for each cell. main.py trains it.
Processor seconds are of all threads, without those of other programs. What the cell has measured
stands in cell.json in its folder, which is written last: a cell that has it is finished.
"""

import dataclasses
import json
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from common.errors import run_cli
from common.whole_file import write_whole
from config import SAMPLE_RATE
from training.run_log import git

RESULT_FILE, TIMING_FILE = "cell.json", "timing.json"
PROBE_STEPS, WARM_STEPS = 14, 4  # of the timing of a step; the first ones compile kernels
SPEED_S, SPEED_RUNS = 10.0, 3  # clip of the real-time factor, and predictions of it
PROBE_FRAMES = 120  # of the look-ahead
WHOLE_CLIP = PROBE_FRAMES // 2 - 1  # frames after the middle one
CHANGE = 1e-5  # of the motion's standard deviation, at least, that is a dependence
LIP_FIGURES = (
    "jaw_r", "aperture_r", "closed", "others_closed", "false_closures", "auc", "width_r",
    "protrusion_r", "jitter_mm",
)  # fmt: skip
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, the unit of ru_maxrss


@dataclass(frozen=True)
class Cell:
    """What is trained and scored, and where.

    arguments: of main.py, without seed, steps and folders; steps: of the training; reader: file of
    the lip reader that judges (`field_reader`), "" for the model's own; features: folder of
    `store_features`, "" for none; asterisk: of `bench_lips`, "" for none; half: of its clips.
    """

    name: str
    seed: int
    folder: str
    arguments: tuple[str, ...]
    steps: int
    extra_wav: str
    asterisk: str
    reader: str = ""
    features: str = ""
    half: str = "dev"

    @property
    def path(self) -> Path:
        """The cell's folder."""
        return Path(self.folder)


class Enough(Exception):
    """Raised in a step once enough of them are timed: no code of a run handles it."""


@contextmanager
def timed_steps(limit: int = 0) -> Iterator[list[float]]:
    """Inside, the processor seconds of each training step are added to the list that is yielded.

    limit: `Enough` is raised after so many steps; 0 for none.
    """
    from training.step import TrainingStep

    plain, seconds = TrainingStep.__call__, []

    def timed(self: TrainingStep, *args: Any, **named: Any) -> dict[str, float]:
        started = time.process_time()
        losses = plain(self, *args, **named)
        seconds.append(time.process_time() - started)
        if limit and len(seconds) >= limit:
            raise Enough
        return losses

    TrainingStep.__call__ = timed
    try:
        yield seconds
    finally:
        TrainingStep.__call__ = plain


def training_arguments(cell: Cell, steps: int, out: Path) -> list[str]:
    """The command line of main.py for a training of one epoch of `steps` steps."""
    return [
        *cell.arguments, "--mode", "train", "--seed", str(cell.seed), "--epochs", "1",
        "--steps_per_epoch", str(steps), "--workers", "0", "--out", str(out),
        "--set", "train.preview_every=0",
    ]  # fmt: skip


def probe(cell: Cell) -> float:
    """Median processor seconds of a training step, also written into the cell's `TIMING_FILE`."""
    from main import main as train_or_test

    with timed_steps(PROBE_STEPS) as seconds, suppress(Enough):
        train_or_test(training_arguments(cell, PROBE_STEPS, cell.path / "probe"))
    value = statistics.median(seconds[WARM_STEPS:])
    write_whole(cell.path / TIMING_FILE, json.dumps({"seconds_a_step": value}))
    return value


def train(cell: Cell) -> dict[str, Any]:
    """Train the cell, or the rest of it; its steps and their cost."""
    from main import main as train_or_test

    with timed_steps() as seconds:
        train_or_test([*training_arguments(cell, cell.steps, cell.path / "run"), "--resume"])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "steps": cell.steps,
        "seconds_a_step": statistics.median(timed) if (timed := seconds[WARM_STEPS:]) else None,
        "training_mb": memory * RSS_UNIT / 2**20 if seconds else None,  # else of an earlier process
    }


def score(cell: Cell) -> dict[str, Any]:
    """Everything that is measured on the trained model."""
    import torch

    from jambatalk import load_checkpoint
    from lip_reader import READER_FILE
    from main import main as train_or_test

    checkpoint = cell.path / "run/best.safetensors"
    if cell.reader:
        shutil.copyfile(cell.reader, checkpoint.with_name(READER_FILE))
    train_or_test(
        ["--mode", "test", "--checkpoint", str(checkpoint), "--out", str(cell.path / "test")]
    )
    total = json.loads((cell.path / "test/results.json").read_text())["total"]
    model, spec = load_checkpoint(checkpoint)
    torch.manual_seed(cell.seed)  # of models that draw
    figures = held_out(total, 1000 * spec.metres_per_unit)
    figures |= sizes(model) | {"real_time_factor": real_time_factor(model, spec.n_vertices)}
    figures |= {"look_ahead_frames": look_ahead(model)}
    return figures | lip_figures(cell, checkpoint)


def held_out(total: dict[str, Any], mm: float) -> dict[str, float | None]:
    """The figures of the test in millimetres; mm: of the data's unit.

    Error rates are left out where the lip reader cannot read true lips.
    """
    from evaluation.results import MAX_TRUTH_CER_SHARE

    scales = {"lve": mm**2, "fdd": mm**2, "abs_fdd": mm**2, "mve": mm, "jitter": mm}
    figures = {name: total[name] * scale for name, scale in scales.items()}
    for name in ("opening_r", "mtm_ms", "closed"):
        figures[f"test_{name}"] = total.get(name)
    truth, still = total.get("cer_truth"), total.get("cer_motionless")
    reads = truth is not None and still and truth <= MAX_TRUTH_CER_SHARE * still
    return figures | {"cer": total["cer"] if reads else None, "cer_truth": truth if reads else None}


def sizes(model: Any) -> dict[str, int]:
    """Numbers of parameters: of the whole model, and without the speech encoder."""
    whole, encoder = (sum(p.numel() for p in m.parameters()) for m in (model, model.encoder))
    return {"parameters": whole, "decoder_parameters": whole - encoder}


def real_time_factor(model: Any, n_vertices: int) -> float:
    """Processor seconds of a prediction by seconds of sound, encoder included; median of runs."""
    import torch

    generator = torch.Generator().manual_seed(1)
    audio = torch.randn(round(SPEED_S * SAMPLE_RATE), generator=generator)
    template, seconds = torch.zeros(n_vertices, 3), []
    for _ in range(SPEED_RUNS + 1):  # the first one warms up
        started = time.process_time()
        model.predict(audio, template)
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:]) / SPEED_S


def look_ahead(model: Any) -> int:
    """The farthest later frame of features that changes a frame of the motion, in mesh frames.

    `WHOLE_CLIP` means that the decoder needs all frames. The speech encoder, which is the same for
    all models of a table, is left out.
    """
    import torch

    generator = torch.Generator().manual_seed(1)
    middle, width = PROBE_FRAMES // 2, model.project.in_features
    features, other = torch.randn(2, 1, PROBE_FRAMES, width, generator=generator)

    @torch.no_grad()
    def motion(known: int) -> torch.Tensor:
        """The middle frame's (V, 3), where later frames than the `known` next ones are others."""
        torch.manual_seed(1)
        last = middle + known + 1
        hidden, _ = model.hidden(torch.cat([features[:, :last], other[:, last:]], dim=1))
        return model.offsets(hidden)[0, middle]

    exact = motion(PROBE_FRAMES)
    low, high = 0, WHOLE_CLIP  # `high` known frames are enough; bisected
    while low < high:
        known = (low + high) // 2
        if float((motion(known) - exact).abs().max()) > CHANGE * float(exact.std()):
            low = known + 1
        else:
            high = known
    return high


def lip_figures(cell: Cell, checkpoint: Path) -> dict[str, float | None]:
    """Figures of `bench_lips` on one half of the human recordings; {} for other faces."""
    from benchmarks.bench_lips import predictor_of, score_model
    from benchmarks.real_speech import load_real_clips
    from benchmarks.stored_features import store_features
    from jambatalk import load_checkpoint
    from synthetic.head import load_head

    head = load_head()
    template = next(reversed(head.templates.values()))  # of bench_lips' default subject
    model, spec = load_checkpoint(checkpoint)
    if spec.n_vertices != len(template):
        return {}
    if cell.features:
        store_features(model.encoder, Path(cell.features))
    clips = load_real_clips(cell.half, cell.extra_wav, cell.asterisk or None)
    scores = score_model(predictor_of(model, template), clips, head)
    figures = {f"real_{name}": getattr(scores, name).value for name in LIP_FIGURES}
    figures = {name: float(v) if np.isfinite(v) else None for name, v in figures.items()}
    return figures | {"real_clips": len(clips), "real_pbm": scores.n_closures,
                      "real_free": scores.n_free}  # fmt: skip


def run(cell: Cell) -> dict[str, Any]:
    """Train and score a cell; its record, which is also in `RESULT_FILE`."""
    import torch

    torch.set_num_threads(1)
    cell.path.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    record = {"cell": dataclasses.asdict(cell), "commit": git("rev-parse", "--short", "HEAD")}
    record |= train(cell)
    record["training_s"] = time.process_time() - started
    record |= score(cell)
    record["processor_s"] = time.process_time() - started
    write_whole(cell.path / RESULT_FILE, json.dumps(record, indent=1) + "\n")
    return record


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cell of the file that the command names; with "probe" behind it, time its steps."""
    file, *what = sys.argv[1:] if argv is None else argv
    fields = json.loads(Path(file).read_text())
    task = probe if what == ["probe"] else run
    task(Cell(**fields | {"arguments": tuple(fields["arguments"])}))


if __name__ == "__main__":
    sys.exit(run_cli(main))
