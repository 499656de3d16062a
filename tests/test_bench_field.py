"""The field at equal budget: a cell on toy data, resumed cells, the table's arithmetic."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks import bench_field, field_cell, field_reader
from benchmarks.bench_field import cells_of, commits_of, parse, rows_of, steps_of
from benchmarks.field_cell import Cell, held_out, look_ahead
from benchmarks.field_table import COST, Column, best, cell_text, markdown, summary
from benchmarks.field_variants import count, equal_width, variants
from benchmarks.stored_features import store_features
from common.errors import UserError
from config import MODELS, SYNTHETIC, ModelConfig, Recipe
from jambatalk import JambaTalk
from lip_reader import LipReader
from speech.clip_audio import ClipAudio
from tests.toy import DECODER, ENCODER, V, loaded_encoder, moonshine_folder
from wav2vec import SpeechEncoder

STEPS = dict.fromkeys(MODELS, 2)
FLAGS = ["--dataset", "toy", "--base", "toy", "--steps", "2", "--seeds", "1"]


def small(**changes: object) -> ModelConfig:
    encoder = ENCODER | {"apply_spec_augment": False}
    return ModelConfig(encoder=encoder, n_vertices=V, fps=30, fold=2, **DECODER | changes)


def test_a_cell_is_trained_by_main_and_scored(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field_cell, "SPEED_S", 1.0)
    monkeypatch.setattr(field_cell, "SPEED_RUNS", 1)
    arguments = ("--dataset", "toy", "--precision", "fp32", "--set", "train.closure_gain=0")
    judge = tmp_path / "judge.safetensors"
    judge.write_bytes(b"no reader")
    cell = Cell("jambatalk", 3, str(tmp_path / "cell"), arguments, 2, "", "", str(judge))
    record = field_cell.run(cell)
    assert json.loads((tmp_path / "cell/cell.json").read_text())["lve"] == record["lve"]
    assert record["steps"] == 2 and record["cell"]["seed"] == 3
    run = json.loads((tmp_path / "cell/run/run.json").read_text())
    assert run["recipe"]["train"]["steps_per_epoch"] == 2 and run["recipe"]["train"]["seed"] == 3
    assert run["recipe"]["train"]["closure_gain"] == 0
    total = json.loads((tmp_path / "cell/test/results.json").read_text())["total"]
    assert record["lve"] == pytest.approx(total["lve"] * 1e6)  # m² in mm²
    assert total["lip_reader"].startswith("no character error rate") and record["cer"] is None
    assert record["decoder_parameters"] < record["parameters"]
    assert record["real_time_factor"] > 0 and not any(name.startswith("real_j") for name in record)
    again = field_cell.train(cell)  # a finished training takes no further step
    assert again == {"steps": 2, "seconds_a_step": None, "training_mb": None}


def test_minutes_are_converted_to_steps_of_each_model(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, started = {"jambatalk": 0.5, "voca": 0.25}, []

    def time_steps(command: list[str], log: Path) -> int:
        settings = Path(command[1])
        name = json.loads(settings.read_text())["name"]
        started.append((name, command[2:]))
        timing = {"seconds_a_step": seconds[name]}
        (settings.parent / field_cell.TIMING_FILE).write_text(json.dumps(timing))
        return 0

    monkeypatch.setattr(bench_field, "compute", time_steps)
    flags = ["--dataset", "toy", "--base", "toy", "--minutes", "2", "--models", *seconds]
    for _ in range(2):  # the second time from the files
        args = parse([*flags, "--out", str(tmp_path)])
        steps = steps_of(args, tmp_path)
        assert steps == {"jambatalk": 240, "voca": 480}
    assert started == [(name, ["probe"]) for name in seconds]
    cells = cells_of(args, tmp_path, steps)
    assert [cell.steps for cell in cells] == [240, 480] * 3
    with pytest.raises(UserError, match="--steps and --minutes: expected more than 0"):
        steps_of(parse([*flags, "--minutes", "0"]), tmp_path)


def test_enough_steps_are_timed_and_the_step_is_as_before(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.step import TrainingStep

    monkeypatch.setattr(field_cell, "PROBE_STEPS", 6)
    plain = TrainingStep.__call__
    arguments = ("--dataset", "toy", "--precision", "fp32")
    cell = Cell("jambatalk", 1, str(tmp_path / "cell"), arguments, 0, "", "")
    cell.path.mkdir()
    (cell.path / "settings.json").write_text(json.dumps(dataclasses.asdict(cell)))
    field_cell.main([str(cell.path / "settings.json"), "probe"])
    assert json.loads((cell.path / "timing.json").read_text())["seconds_a_step"] > 0
    assert TrainingStep.__call__ is plain


def test_stored_features_are_those_of_the_encoder(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    encoder = loaded_encoder(moonshine_folder(tmp_path / "encoder"), mix_layers=True)
    generator = torch.Generator().manual_seed(1)
    clips = [ClipAudio(torch.randn(20_000, generator=generator)) for _ in range(2)]
    clips.append(clips[0].after(-1_600))  # silence before it

    def features(encoder: SpeechEncoder) -> list[torch.Tensor]:
        parts = [encoder.reader(clip) for clip in clips]
        return [torch.cat([read(0, 20), read(20, 60)], dim=1) for read in parts]

    plain = features(encoder)
    store_features(encoder, tmp_path / "features")
    assert encoder.kind.__class__.reader is not encoder.kind.reader
    for _ in range(2):  # computed, then read
        for ours, theirs in zip(features(encoder), plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert len(list((tmp_path / "features").glob("*/*.npy"))) == 3
    other = loaded_encoder(str(tmp_path / "encoder"), mix_layers=True)
    with torch.no_grad():
        next(other.body.parameters()).add_(0.1)
    store_features(other, tmp_path / "features")
    assert not torch.allclose(features(other)[0], plain[0], atol=1e-3)


def test_the_judging_reader_learns_from_true_lips() -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = 0.01 * torch.randn(4, 3, 3, generator=generator)  # of lips while a character is spoken
    clips = []
    for text in ((0, 1, 2), (3, 0, 2), (1, 3, 0, 2)):
        frames = torch.tensor(text).repeat_interleave(5)
        clips.append(field_reader.Clip(shapes[frames], torch.tensor(text) + 1, len(frames)))
    torch.manual_seed(1)
    reader = LipReader(3, 16, 5, fps=50, d_model=32, n_layers=1)
    field_reader.train(reader, clips, 0, 120)
    for clip in clips:
        _, logits = reader(clip.offsets[None], clip.n_audio_frames)
        read = torch.unique_consecutive(logits.argmax(-1)[0])
        assert read[read != 0].tolist() == clip.text.tolist()


@pytest.mark.parametrize(("layout", "expected"), [("M", 0), ("A", field_cell.WHOLE_CLIP)])
def test_look_ahead_of_a_causal_and_of_an_attending_decoder(layout: str, expected: int) -> None:
    torch.manual_seed(0)
    model = JambaTalk(small(layout=layout)).eval()
    torch.nn.init.normal_(model.head.offsets.weight, std=0.1)
    assert look_ahead(model) == expected


def test_look_ahead_of_a_window_is_its_half() -> None:
    class Window(torch.nn.Module):
        project = torch.nn.Linear(4, 4)

        def hidden(self, features: torch.Tensor) -> tuple[torch.Tensor, None]:
            padded = torch.nn.functional.pad(features, (0, 0, 0, 7))
            return padded.unfold(1, 8, 1).sum(-1), None  # a frame and the next 7

        def offsets(self, x: torch.Tensor) -> torch.Tensor:
            return x[..., None]

    assert look_ahead(Window()) == 7


def test_error_rates_of_a_reader_that_cannot_read_are_left_out() -> None:
    total = {"lve": 1e-6, "fdd": 0.0, "abs_fdd": 0.0, "mve": 2e-3, "jitter": 0.1, "cer": 0.9}
    assert held_out(total, 1000.0)["mve"] == pytest.approx(2.0)
    reading = held_out(total | {"cer_truth": 0.4, "cer_motionless": 1.0}, 1000.0)
    blind = held_out(total | {"cer_truth": 0.99, "cer_motionless": 1.0}, 1000.0)
    assert (reading["cer"], blind["cer"]) == (0.9, None)
    assert (reading["cer_truth"], blind["cer_truth"]) == (0.4, None)


def test_every_model_and_seed_is_a_cell_of_its_own(recipe: Recipe, tmp_path: Path) -> None:
    cells = cells_of(parse(FLAGS[:-1] + ["1", "2"]), tmp_path, STEPS)
    assert [(c.name, c.seed) for c in cells] == [(m, s) for s in (1, 2) for m in MODELS]
    assert len({cell.folder for cell in cells}) == len(cells)
    other = cells_of(parse([*FLAGS[:-1], "1", "2"]), tmp_path, dict.fromkeys(MODELS, 3))
    assert not {cell.folder for cell in cells} & {cell.folder for cell in other}
    with pytest.raises(UserError, match="--models x: expected some of jambatalk, "):
        cells_of(parse([*FLAGS, "--models", "x"]), tmp_path, STEPS)


def test_a_finished_cell_is_not_run_again_and_a_failed_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*FLAGS, "--models", "jambatalk", "selftalk", "--out", str(tmp_path)]
    done, _ = cells_of(parse(flags), tmp_path, STEPS)
    done.path.mkdir(parents=True)
    record = {"cell": dataclasses.asdict(done), "lve": 2.0, "processor_s": 60.0, "cer_truth": 0.7}
    (done.path / "cell.json").write_text(json.dumps(record))
    started = []

    def fail(command: list[str], log: Path) -> int:
        started.append(command[1])
        return 2

    monkeypatch.setattr(bench_field, "compute", fail)
    with pytest.raises(UserError, match="lip reader: exit code 2; see .*reader.txt"):
        bench_field.main(flags)
    assert not (tmp_path / "field.md").exists()
    (tmp_path / "reader.safetensors").touch()
    started.clear()
    with pytest.raises(UserError, match="selftalk, seed 1: exit code 2; see .*output.txt"):
        bench_field.main(flags)
    assert len(started) == 1 and "selftalk" in started[0]
    assert (tmp_path / "field.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "field.md").read_text()
    assert "| jambatalk | 2.000 |" in text and "2 steps" in text and "1 cells took 1 pro" in text
    assert "(CER) on true lips is 0.700." in text
    assert json.loads((tmp_path / "field.json").read_text())["models"]["jambatalk"]["lve"] == {
        "mean": 2.0, "sd": None, "n": 1,
    }  # fmt: skip


def record(name: str, seed: int, **figures: float | None) -> dict:
    return {"cell": {"name": name, "seed": seed}} | figures


def test_the_table_names_the_commits_of_its_cells() -> None:
    cells = [{"commit": "1a"}, {"commit": "2b"}, {"commit": "1a"}, {"commit": ""}, {}]
    assert commits_of(cells) == "1a, 2b, unknown"


def test_means_spread_and_the_best_of_a_column() -> None:
    models = summary([record("a", 1, lve=1.0, cer=None), record("a", 2, lve=3.0),
                      record("b", 1, lve=1.5), record("b", 2, lve=1.7)])  # fmt: skip
    assert models["a"]["lve"] == {"mean": 2.0, "sd": pytest.approx(2**0.5), "n": 2}
    assert "cer" not in models["a"]
    column = Column("lve", "LVE mm²", 2, -1)
    assert best(models, column) == pytest.approx(1.6)
    assert cell_text(models["b"], column, best(models, column)) == "**1.60** ± 0.14"
    lines = markdown(models).splitlines()
    assert lines[2] == "|  | LVE mm² |" and lines[4] == "| a | 2.000 ± 1.414 |"


def test_neither_parameters_nor_units_are_lost_in_the_table() -> None:
    parameters = next(column for column in COST if column.name == "decoder_parameters")
    models = summary([record("a", 1, decoder_parameters=3_210_000)])
    assert cell_text(models["a"], parameters, float("nan")) == "3.21"


def test_ablations_of_equal_parameters_have_equal_parameters() -> None:
    config = small(layout="MEAEME", d_model=24)
    for layout in ("MMMMMM", "AAAAAA"):
        other = dataclasses.replace(config, layout=layout, d_ff=equal_width(config, layout))
        wider = dataclasses.replace(other, d_ff=other.d_ff + 1)
        step = count(wider) - count(other)
        assert abs(count(other) - count(config)) <= step / 2


def test_ablations_are_settings_of_main(recipe: Recipe) -> None:
    rows = rows_of(parse([*FLAGS, "--ablations", "order B", "1 expert"]))
    assert list(rows) == ["jambatalk", "order B", "1 expert"]
    assert rows["order B"][-2:] == ["--set", "model.layout=B"]
    models = rows_of(parse([*FLAGS, "--models", "jambatalk"]))
    assert rows["jambatalk"] == models["jambatalk"]  # the same cells in both tables
    with pytest.raises(UserError, match="--ablations order E: expected some of order A"):
        rows_of(parse([*FLAGS, "--ablations", "order E"]))
    assert SYNTHETIC.name == "synthetic" and len(variants(recipe.model)) >= 14
