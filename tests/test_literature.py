"""Published scores: sources, order of methods, and the arithmetic of their units."""

import math

import pytest

from evaluation.literature import BENCHMARKS, METHODS, NOT_FOUND, benchmark, comparison, rows_of

METRICS = ("lve", "fdd", "mve")


@pytest.mark.parametrize("key", BENCHMARKS)
def test_every_method_has_a_row_with_a_source_or_marked_not_found(key: tuple[str, str]) -> None:
    rows = rows_of(BENCHMARKS[key])
    assert list(dict.fromkeys(row.method for row in rows)) == list(METHODS)
    for row in rows:
        assert row.metric in METRICS
        if row.value == NOT_FOUND:
            assert not row.source and not row.unit
        else:
            assert float(row.value) > 0 and row.source and row.unit and row.note


def test_values_equal_the_printed_ones() -> None:
    """Figures of the papers and listings named in the rows, typed a second time."""
    printed = {
        (name, row.method, row.metric, row.value)
        for (name, _), reference in BENCHMARKS.items()
        for row in reference.rows
    }
    assert {
        ("vocaset", "VOCA", "lve", "4.9245"),
        ("vocaset", "SelfTalk", "lve", "3.2238"),
        ("vocaset", "UniTalker", "lve", "0.814"),
        ("BIWI", "CodeTalker", "lve", "4.7914"),
        ("BIWI", "CodeTalker", "fdd", "4.1170"),
        ("BIWI", "SelfTalk", "fdd", "3.5761"),
    } <= printed


def test_the_notes_on_units_are_arithmetically_right() -> None:
    vocaset, biwi = (BENCHMARKS[key].unit_note for key in (("vocaset", "test"), ("BIWI", "test_a")))
    assert "41 mm²" in vocaset and math.isclose(4.1e-5 * 1000**2, 41)
    assert "6.4 mm off" in vocaset and round(math.sqrt(4.1e-5) * 1000, 1) == 6.4
    assert "41 nanometres" in vocaset and math.isclose(4.1e-5 * 1e6, 41)  # mm to nm
    assert "0.022 units" in biwi and round(math.sqrt(4.8e-4), 3) == 0.022
    assert "4 mm off" in biwi and round(math.sqrt(4.8e-4) * 190) == 4


def test_a_benchmark_is_identified_by_name_split_and_vertices() -> None:
    assert benchmark("vocaset", "test", 5_023) is BENCHMARKS["vocaset", "test"]
    for other in (("vocaset", "test", 23_370), ("vocaset", "val", 5_023), ("synthetic", "test", 1)):
        assert benchmark(*other) is None


def test_a_run_is_listed_below_the_rows_in_the_printed_unit() -> None:
    run = {"lve": 4.5e-4, "fdd": -2.25e-5, "mve": 3e-3}
    lines = comparison(BENCHMARKS["BIWI", "test_a"], {"**mine**": run}, "lips x.txt").splitlines()
    assert "not comparable" in lines[0] and "printed as" in lines[4]
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert table[0].startswith('|  | LVE (×1e-4 unit², printed as "mm") | FDD (×1e-5 unit²')
    assert any(line.startswith("| CodeTalker | 4.7914 | 4.1170 | - |") for line in table)
    assert any(line.startswith("| ScanTalk | not found | - | - |") for line in table)
    assert table[-1].startswith("| **mine** | 4.5000 | -2.2500 | 3.0000e-03 | this run on lips x.t")
