"""Curves and table of several runs, from run folders written by hand."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from common.errors import UserError, run_cli
from training.plots import RunLog, _draw_panel, plot_runs, progress_of, read_run, table

EPOCHS = [  # seconds, val_lve in m², loss, ctc
    (60, 4e-6, 8.0, 2.0),
    (60, 2e-6, 4.0, 1.9),
    (60, 3e-6, 2.0, 1.8),
]


def write_run(folder: Path, epochs: list[tuple] = EPOCHS, **changes: Any) -> Path:
    """A run folder in metres, 30 steps an epoch, five epochs planned."""
    record = {
        "command": "main.py --dataset toy",
        "commit": "0123456789abcdef",
        "changed_files": [],
        "recipe": {
            "dataset": {"metres_per_unit": 1.0},
            "train": {"epochs": 5, "steps_per_epoch": 30},
        },
    } | changes
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    with open(folder / "log.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "seconds", "val_lve", "loss", "ctc"])
        writer.writerows([i, *row] for i, row in enumerate(epochs, start=1))
    return folder


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_table_has_the_best_epoch_in_square_millimetres(tmp_path: Path) -> None:
    heading, _, row = table([read_run(write_run(tmp_path / "a"))]).splitlines()
    assert dict(zip(cells(heading), cells(row), strict=True)) == {
        "run": "a", "epochs": "3 of 5", "best": "2", "val LVE mm²": "2", "minutes": "3.0",
        "steps/s": "0.5", "commit": "0123456789", "command": "main.py --dataset toy",
    }  # fmt: skip


def test_units_of_a_data_set_are_taken_into_account(tmp_path: Path) -> None:
    dataset = {"metres_per_unit": 0.001}  # millimetres
    run = read_run(write_run(tmp_path / "a", recipe={"dataset": dataset}))
    np.testing.assert_allclose(run.lve, [4e-6, 2e-6, 3e-6])
    row = cells(table([run]).splitlines()[2])
    assert row[1] == "3 of ?" and row[5] == "-"  # such a record does not tell


def test_runs_that_differ_in_steps_an_epoch_are_drawn_over_steps(tmp_path: Path) -> None:
    def with_steps(name: str, an_epoch: int) -> RunLog:
        run = read_run(write_run(tmp_path / name))
        return dataclasses.replace(run, columns=run.columns | {"steps": run.epochs * an_epoch})

    run, other = with_steps("a", 30), with_steps("b", 50)
    without_steps = read_run(
        write_run(tmp_path / "c", recipe={"dataset": {"metres_per_unit": 1.0}})
    )
    unit, progress = progress_of([run, other])
    assert unit == "steps" and [list(p) for p in progress] == [[30, 60, 90], [50, 100, 150]]
    for runs in ([run, with_steps("d", 30)], [other, without_steps], [other]):
        unit, progress = progress_of(runs)
        assert unit == "epoch" and list(progress[0]) == [1, 2, 3]
    assert cells(table([other]).splitlines()[2])[5] == "0.833"  # 150 steps in 180 s


def test_the_table_shows_changed_code_and_escapes_pipes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", changed_files=["x", "y"], command="main.py --out a|b")
    row = table([read_run(folder)]).splitlines()[2]
    assert "0123456789 + 2 changed files" in row and "a\\|b" in row


def test_runs_of_one_name_are_listed_by_their_paths(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "one/toy"), write_run(tmp_path / "two/toy")]
    rows = table([read_run(folder) for folder in folders]).splitlines()[2:]
    assert [cells(row)[0] for row in rows] == [str(folder) for folder in folders]


def test_an_epoch_without_a_finite_error_is_not_the_best(tmp_path: Path) -> None:
    epochs = [(1, "nan", 1.0, 1.0), (1, 2e-6, 1.0, 1.0), (1, "", 1.0, 1.0)]
    assert read_run(write_run(tmp_path / "a", epochs)).best == 1
    lost = read_run(write_run(tmp_path / "b", epochs[:1]))
    assert lost.best is None and cells(table([lost]).splitlines()[2])[2:4] == ["-", "-"]


def test_the_best_epoch_is_the_one_whose_model_was_saved(tmp_path: Path) -> None:
    log = write_run(tmp_path / "a") / "log.csv"
    rows = log.read_text().splitlines()
    choices = [
        "val_selection_score",
        *(str(10.0 - i) for i in range(len(rows) - 1)),
    ]  # the last is best
    log.write_text("\n".join(f"{a},{b}" for a, b in zip(rows, choices, strict=True)))
    assert read_run(tmp_path / "a").best == len(rows) - 2


def test_a_picture_and_a_table_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", EPOCHS[1:])]
    out = plot_runs(folders, tmp_path / "pictures/two.png")
    assert out == tmp_path / "pictures/two.png"
    output = capsys.readouterr().out
    assert output == out.with_suffix(".md").read_text() + f"{out}, {out.with_suffix('.md')}\n"
    picture = imread(out)[..., :3]  # (H, W, 3), 0 to 1
    assert picture.shape[0] > 500 and picture.shape[1] > 1000
    for colour in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)):  # a line of each run, in its colour
        drawn = np.abs(picture - np.array(colour) / 255).max(-1) < 0.02
        assert drawn.sum() > 200


def test_a_run_of_one_epoch_has_no_fractions_of_epochs(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", EPOCHS[:1]))
    axes = Figure().add_subplot()
    _draw_panel(axes, [run], "loss", "loss")
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_a_folder_that_holds_no_run_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str, file: str, text: str) -> Path:
        folder = write_run(tmp_path / name)
        (folder / file).write_text(text)
        return folder

    good = write_run(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    for folders, part in (
        ([], "expected one run folder"),
        (
            [good, tmp_path / "none"],
            "none: no run.json; expected a folder that main.py has trained",
        ),
        ([tmp_path / "empty"], "empty: no run.json"),
        ([broken("young", "log.csv", "")], "young: no epoch has ended yet"),
        ([broken("words", "log.csv", "epoch,seconds,val_lve\n1,2,x\n")], "not a run's log"),
        ([broken("wide", "log.csv", "epoch,seconds\n1,2,3\n")], "not a run's log"),
        ([broken("other", "log.csv", "epoch,seconds\n1,2\n")], "has no column val_lve"),
        ([broken("binary", "log.csv", "\0\0")], "binary"),
        ([broken("half", "run.json", '{"recipe":')], "run.json: not JSON"),
        ([broken("list", "run.json", "[]")], "run.json is not a run's record"),
    ):
        assert run_cli(lambda _, folders=folders: plot_runs(folders, tmp_path / "x.png")) == 2
        message = capsys.readouterr().err
        assert part in message and message.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_an_out_that_cannot_be_written_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        plot_runs([write_run(tmp_path / "a")], "/proc/nowhere/x.png")
