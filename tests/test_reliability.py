"""Every row of the fault table names a test that exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reliability.md"


def test_every_fault_names_a_test_that_exists() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## Faults\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!fault |---)(.+) \|$", table, re.MULTILINE)
    assert len(rows) > 20
    for row in rows:
        *_, proof = row.split(" | ")
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", proof)
        assert named, row
        for file, name in named:
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if hasattr(node, "name")}, name
