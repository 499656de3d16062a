"""The table of published scores, runs and predictions: sources, one protocol, LaTeX."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import paper_tables
from benchmarks.paper_tables import escaped, latex, measured, published
from common.errors import run_cli
from config import BIWI, RECIPES, VOCASET, Recipe


def run(*flags: str) -> int:
    return run_cli(paper_tables.main, list(flags))


def test_published_rows_have_figure_unit_region_and_source() -> None:
    rows = {(row.cells["method"], row.cells["measured by"]): row.cells
            for row in published(BIWI, "test_a")}  # fmt: skip
    code_talker = rows["CodeTalker", "its own paper, as listed"]
    assert code_talker["LVE"] == "4.7914 ×1e-4 mm" and code_talker["FDD"] == "4.1170 ×1e-5 mm"
    assert "issues/22" in code_talker["vertices"] and code_talker["source"].startswith("papersw")
    assert rows["FaceFormer", "its own paper"]["vertices"] == "not stated"
    assert rows["FaceXHuBERT", "-"]["LVE"] == "not found"


def test_jambatalks_own_figures_are_stated_as_not_found() -> None:
    first = published(VOCASET, "test")[0]
    assert first.cells["method"] == "JambaTalk" and first.published
    assert first.cells["LVE"] == first.cells["FDD"] == "not found in public text"
    assert first.cells["source"] == "arXiv 2408.01627"


def test_another_topology_has_no_published_rows() -> None:
    assert published(dataclasses.replace(VOCASET, n_vertices=7), "test") == []


def test_measured_figures_are_in_millimetres() -> None:
    figures = {"lve": 2e-6, "fdd": -1e-7, "mve": 1e-3, "mtm_ms": 12.34, "opening_r": None}
    assert measured(figures, mm=1000.0) == {
        "lve": "2.0000 mm²", "fdd": "-0.1000 mm²", "mve": "1.0000 mm", "mtm_ms": "12.3 ms",
    }  # fmt: skip


def test_latex_has_no_bare_special_character() -> None:
    assert escaped("4.1 ×1e-5 mm²") == r"4.1 $\times 10^{-5}$ mm\textsuperscript{2}"
    assert escaped("a_b & 5 % #1") == r"a\_b \& 5 \% \#1" and escaped("-0.1") == "$-$0.1"
    lines = latex(published(VOCASET, "test")).splitlines()
    columns = {line.count(" & ") for line in lines if line.endswith(r"\\")}
    assert columns == {len(paper_tables.COLUMNS) - 1}


def test_runs_and_predictions_stand_below_each_other(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    """Predictions 3 mm too far to the right, with the true motion: LVE 9 mm², MVE 3 mm, MTM 0."""
    folder = Path("pred")
    folder.mkdir()
    for name in ("b_sentence02", "b_sentence03"):
        truth = np.load(Path(recipe.dataset.root) / f"vertices_npy/{name}.npy").reshape(60, -1, 3)
        np.save(folder / f"{name}.npy", truth[::2] + np.float32([0.003, 0, 0]))
    total = {"dataset": "toy", "split": "test", "metres_per_unit": 1.0,
             "regions": {"lips": "lips.txt (3 vertices)", "upper": "upper.txt (2 vertices)"},
             "splits": {"test": {"lve": 4e-6, "fdd": 0.0, "mve": 2e-3}}}  # fmt: skip
    Path("results.json").write_text(json.dumps({"total": total}))
    assert run("--dataset", "toy", "--results", "ours=results.json", "--pred", "peer=pred",
               "--out", "tables") == 0  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    ours, peer = (next(line for line in lines if line.startswith(f"| {n} |"))
                  for n in ("ours", "peer"))  # fmt: skip
    assert "| 4.0000 mm² | 0.0000 mm² | 2.0000 mm | - | - | lips lips.txt (3 vertices)" in ours
    assert peer.startswith("| peer | 9.0000 mm² |") and "| 3.0000 mm | 1.000 | 0.0 ms |" in peer
    assert "lips lips.txt, upper upper.txt | our script, 2 clips | pred |" in peer
    rows = json.loads(Path("tables/table.json").read_text())["rows"]
    assert [row["published"] for row in rows] == [False, False]
    assert Path("tables/table.tex").read_text().count(r"\\") == 3


def test_results_of_another_data_set_are_refused(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("results.json").write_text(json.dumps({"total": {"dataset": "BIWI", "split": "test_a"}}))
    assert run("--dataset", "toy", "--results", "x=results.json") == 2
    assert "results.json: expected the test of toy test, got BIWI test_a" in capsys.readouterr().err
    assert run("--dataset", "toy", "--results", "results.json") == 2
    assert "--results results.json: expected NAME=PATH" in capsys.readouterr().err
    assert run("--dataset", "toy") == 2
    assert "no published scores; add --results or --pred" in capsys.readouterr().err
    assert "toy" in RECIPES
