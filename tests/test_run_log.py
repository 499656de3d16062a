"""What a run leaves for people: rows, events, nothing lost when it is cut off."""

from pathlib import Path

import pytest

from training.run_log import Log, read_log

ROW = {"epoch": 1, "steps": 7, "val_lve": 2e-6, "seconds": 90.0}


def size_of_events(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("events.out.tfevents.*"))


def test_an_epoch_is_on_disk_after_add(tmp_path: Path) -> None:
    log = Log(tmp_path)  # never closed: the run is killed
    before = size_of_events(tmp_path)
    log.add(ROW, epochs=3)
    assert size_of_events(tmp_path) > before
    assert [row["steps"] for row in read_log(tmp_path / "log.csv")] == ["7"]


def test_errors_are_printed_with_their_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = ROW | {"val_mve": 3e-3, "val_selection_score": 1e-6}
    for unit in ("m", "mm"):
        Log(tmp_path, unit=unit).add(row, epochs=3)
        line = capsys.readouterr().out
        assert f"val_lve 2e-06 {unit}²  " in line and f"val_mve 0.003 {unit}  " in line
        assert f"val_selection_score 1e-06 {unit}²" in line and "seconds 90  " in line


def test_rows_after_the_resumed_state_are_dropped(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for epoch in (1, 2, 3):
        log.add(ROW | {"epoch": epoch, "steps": 7 * epoch}, epochs=3)
    Log(tmp_path, done=2)
    assert [row["steps"] for row in read_log(tmp_path / "log.csv")] == ["7", "14"]
