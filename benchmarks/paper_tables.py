"""One table of published scores, our runs and the peers' predictions: `python -m
benchmarks.paper_tables --dataset vocaset --results ours=runs/vocaset/results.json --pred
SelfTalk=DIR --out runs/tables`.

Published rows are those of `evaluation.literature`, as printed, with paper, table, unit and region
as far as public text states them; they are not comparable with anything else. --results are the
results.json of `main.py --mode test`. --pred are folders of predictions of any method, scored here
under one protocol: truth, regions, templates, frame rates and inner lips of the data set, as for
metrics.py. Into --out go table.md, table.tex and table.json.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

from common.errors import Parser, UserError, run_cli, writable_folder
from common.frame_rates import parse_rate
from common.whole_file import write_together
from config import RECIPES, DatasetSpec
from dataset.prepared import find_file, locate
from dataset.regions import find_inner_lips, look_up
from evaluation.literature import NOT_FOUND, WARNING, benchmark, rows_of
from evaluation.score_folders import Protocol, score_folder
from files.meshes import load_templates
from files.texts import read_json

COLUMNS = ("method", "LVE", "FDD", "MVE", "gap r", "MTM", "vertices", "measured by", "source")
METRICS = ("lve", "fdd", "mve")
NOT_STATED = "not stated"
OWN_PAPER = "arXiv 2408.01627"
NOT_IN_TEXT = "not found in public text"
LATEX = {"\\": r"\textbackslash{}", "²": r"\textsuperscript{2}", "×": r"$\times$", "σ": r"$\sigma$"}
LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: its cells as text, by column; published: taken from a paper."""

    cells: dict[str, str]
    published: bool


# fmt: off
def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description="Published scores, own runs and predictions in one table.")
    add = parser.add_argument
    add("--dataset", required=True, choices=list(RECIPES), help="whose scores are listed")
    add("--split", metavar="NAME", help="default: the first test split")
    add("--results", nargs="+", default=[], metavar="NAME=FILE",
        help="results.json of runs, by main.py --mode test")
    add("--pred", nargs="+", default=[], metavar="NAME=DIR",
        help="folders of predictions, scored against the data set on disk")
    add("--pred_fps", metavar="RATE", help="of the predictions, if it is not the data set's")
    add("--out", default="runs/tables", metavar="FOLDER", help="default: runs/tables")
    return parser.parse_args(argv)
# fmt: on


def named(words: Sequence[str], flag: str) -> dict[str, Path]:
    """{NAME: path} of words NAME=PATH; `UserError` for others and for a name given twice."""
    paths: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path) or name in paths:
            raise UserError(f"{flag} {word}: expected NAME=PATH, each name once")
        paths[name] = Path(path)
    return paths


def published(spec: DatasetSpec, split: str) -> list[Row]:
    """The published rows of a split, JambaTalk's first; [] where no paper has this data set."""
    reference = benchmark(spec.name, split, spec.n_vertices)
    if reference is None:
        return []
    merged: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows_of(reference):
        key = (row.method, row.region or NOT_STATED, row.note or "-", row.source or "-")
        cell = row.value if row.value == NOT_FOUND else f"{row.value} {row.unit}"
        merged.setdefault(key, {})[row.metric] = cell
    own = ("JambaTalk", NOT_STATED, "its own paper", OWN_PAPER)
    rows = {own: dict.fromkeys(METRICS[:2], NOT_IN_TEXT)} | merged
    return [
        Row(_cells(method, values, vertices, note, source), published=True)
        for (method, vertices, note, source), values in rows.items()
    ]


def _cells(
    method: str, values: dict[str, str], vertices: str, note: str, source: str
) -> dict[str, str]:
    texts = [method, *(values.get(m, "-") for m in METRICS), values.get("opening_r", "-"),
             values.get("mtm_ms", "-"), vertices, note, source]  # fmt: skip
    return dict(zip(COLUMNS, texts, strict=True))


def measured(figures: dict[str, Any], mm: float) -> dict[str, str]:
    """Figures in the data's unit as text in millimetres; mm: of that unit. Missing ones are "-"."""
    formats = {
        "lve": (mm**2, ".4f", " mm²"), "fdd": (mm**2, ".4f", " mm²"), "mve": (mm, ".4f", " mm"),
        "opening_r": (1.0, ".3f", ""), "mtm_ms": (1.0, ".1f", " ms"),
    }  # fmt: skip
    return {
        name: f"{figures[name] * factor:{style}}{unit}"
        for name, (factor, style, unit) in formats.items()
        if figures.get(name) is not None
    }


def of_results(name: str, file: Path, spec: DatasetSpec, split: str) -> Row:
    """The row of a results.json; `UserError` for one of another data set or without the split."""
    total = read_json(file, "--results").get("total", {})
    if total.get("dataset") != spec.name or split not in total.get("splits", {}):
        raise UserError(
            f"--results {file}: expected the test of {spec.name} {split}, got "
            f"{total.get('dataset')} {total.get('split')}"
        )
    regions = total["regions"]
    vertices = f"lips {regions['lips']}, upper {regions['upper']}"
    values = measured(total["splits"][split], 1000 * total["metres_per_unit"])
    return Row(_cells(name, values, vertices, "our test", str(file)), published=False)


def protocol_of(spec: DatasetSpec, pred_fps: str | None) -> tuple[Protocol, str]:
    """How predictions are scored on a data set on disk, and its regions in words."""
    rate = parse_rate(pred_fps, "--pred_fps") if pred_fps else Fraction(spec.fps)
    files = {
        which: find_file(spec, getattr(spec, f"{which}_region")) for which in ("lips", "upper")
    }
    for which, file in files.items():
        if file is None:
            _, remark = look_up(spec, which)
            raise UserError(f"--pred: a score needs the file of its region; {remark}")
    inner = find_inner_lips(spec)
    pairs = [v for pair in zip(*inner, strict=True) for v in pair] if inner else []
    templates = load_templates(find_file(spec, spec.templates) or spec.path(spec.templates))
    protocol = Protocol(
        {which: str(file) for which, file in files.items()}, templates, rate,
        Fraction(parse_rate(str(spec.source_fps), "source_fps")) / rate, tuple(pairs),
    )  # fmt: skip
    return protocol, ", ".join(f"{which} {file.name}" for which, file in files.items())


def of_predictions(name: str, folder: Path, spec: DatasetSpec, pred_fps: str | None) -> Row:
    """The row of a folder of predictions, scored now."""
    protocol, vertices = protocol_of(spec, pred_fps)
    result = score_folder(folder, spec.path(spec.root) / "vertices_npy", protocol)
    values = measured(result.as_json(), 1000 * spec.metres_per_unit)
    note = f"our script, {result.scores.clips} clips"
    return Row(_cells(name, values, vertices, note, str(folder)), published=False)


def markdown(rows: Sequence[Row]) -> str:
    """The table with a remark above."""
    lines = [WARNING, "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
    return "\n".join([*lines, *(_line(list(row.cells.values())) for row in rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def latex(rows: Sequence[Row]) -> str:
    """A tabular that needs no package; a rule parts published rows from measured ones."""
    lines = [f"% {WARNING}", r"\begin{tabular}{l" + "r" * 5 + "lll}", r"\hline"]
    lines += [" & ".join(map(escaped, COLUMNS)) + r" \\", r"\hline"]
    for i, row in enumerate(rows):
        if i and rows[i - 1].published and not row.published:
            lines.append(r"\hline")
        lines.append(" & ".join(map(escaped, row.cells.values())) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"])


def escaped(text: str) -> str:
    """Text for LaTeX: special characters, powers of ten, the minus sign."""
    text = "".join(LATEX.get(character, character) for character in text)
    text = re.sub(r"\$\\times\$1e(-?\d+)", r"$\\times 10^{\1}$", text)
    return re.sub(r"^-(?=\d)", "$-$", text)


def main(argv: Sequence[str] | None = None) -> None:
    """Collect the rows, write the tables, print the one in Markdown."""
    args = parse(argv)
    results, folders = named(args.results, "--results"), named(args.pred, "--pred")
    spec = RECIPES[args.dataset].dataset
    split = args.split or next(name for name in spec.splits if name.startswith("test"))
    if split not in spec.splits:
        raise UserError(f"--split {split}: expected one of {', '.join(spec.splits)}")
    rows = published(spec, split)
    rows += [of_results(name, file, spec, split) for name, file in results.items()]
    if folders:
        spec, _ = locate(spec)
        rows += [of_predictions(name, path, spec, args.pred_fps) for name, path in folders.items()]
    if not rows:
        raise UserError(f"{spec.name} {split}: no published scores; add --results or --pred")
    out, text = writable_folder(args.out), markdown(rows)
    content = {"warning": WARNING, "rows": [dataclasses.asdict(row) for row in rows]}
    write_together(
        {
            out / "table.md": text + "\n",
            out / "table.tex": latex(rows) + "\n",
            out / "table.json": json.dumps(content, indent=1) + "\n",
        }
    )
    print(text)


if __name__ == "__main__":
    sys.exit(run_cli(main))
