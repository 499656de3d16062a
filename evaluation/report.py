"""The results of a test as one HTML page: tables, errors on the face, best and worst clips.

The page is made of <name>.md and <name>.json, which the test mode has written, and of the predicted
vertices. It needs no other file and loads nothing; it follows the reader's choice of light or dark.
"""

import base64
import html
import io
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, reason_of
from common.whole_file import write_whole
from config import DatasetSpec
from dataset.faces import find_faces, missing_faces
from evaluation.figures import draw_errors, draw_strips
from evaluation.source import Source
from files.texts import read_json, read_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRIPS = 2  # of the clips with the lowest errors, and of those with the highest
DOTS_PER_INCH = 160
STYLE = """
:root { color-scheme: light dark; --text: #1c1c1e; --page: #fff; --line: #d5d5da; --dim: #60606a }
@media (prefers-color-scheme: dark) {
  :root { --text: #e9e9ec; --page: #17171a; --line: #3a3a40; --dim: #a3a3ad }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.4rem } h2 { font-size: 1.15rem; margin-top: 2rem }
p, li, figcaption { color: var(--dim) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap }
th:first-child, td:first-child { text-align: left }
figure { margin: 1rem 0 }
figure .scroll { background: #fff; border-radius: .5rem; padding: .5rem }
img { display: block; max-width: 100%; height: auto }
img.strip { width: 100%; min-width: 40rem; max-width: none }
"""


def write_report(folder: Path, name: str, spec: DatasetSpec, predictions: Path) -> Path:
    """Write <name>.html beside <name>.md and <name>.json of a test; returns its path.

    predictions: folder of the clips' predicted vertices. Without triangles of the data set there
    are no pictures, and a sentence says so. Raises `UserError` where the file cannot be written.
    """
    rows = read_json(folder / f"{name}.json", "results")["clips"]
    tables = read_text(folder / f"{name}.md", "results")
    pictures = "\n".join(_pictures(spec, predictions, rows))
    title = html.escape(f"{spec.name}: {name}")
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"{to_html(tables)}\n{pictures}\n</body>\n</html>\n"
    )
    path = folder / f"{name}.html"
    try:
        write_whole(path, page)
    except OSError as error:
        raise UserError(f"report {path}: cannot be written ({reason_of(error)})") from error
    return path


def to_html(markdown: str) -> str:
    """The parts of Markdown that results have: paragraphs, lists, tables, headings, **bold**."""

    def kind(line: str) -> str:
        is_text = not line.startswith(("|", "- ", "## "))
        return (line and "text") if is_text else line[0]

    return "\n".join(
        _block(key, list(lines)) for key, lines in groupby(markdown.splitlines(), kind)
    )


def _block(kind: str, lines: list[str]) -> str:
    if kind == "|":
        cells = [[_inline(cell.strip()) for cell in line[1:-1].split("|")] for line in lines]
        head, body = cells[0], [row for row in cells[1:] if set("".join(row)) != {"-"}]
        return (
            f'<div class="scroll"><table><thead>{_row("th", head)}</thead>'
            f"<tbody>{''.join(_row('td', row) for row in body)}</tbody></table></div>"
        )
    if kind == "-":
        return f"<ul>{''.join(f'<li>{_inline(line[2:])}</li>' for line in lines)}</ul>"
    if kind == "#":
        return "".join(f"<h2>{_inline(line.lstrip('# '))}</h2>" for line in lines)
    return f"<p>{_inline(' '.join(lines))}</p>" if kind else ""


def _row(tag: str, cells: list[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def _inline(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text))


def _pictures(spec: DatasetSpec, predictions: Path, rows: list[dict]) -> Iterator[str]:
    """HTML of the errors on the face and of the strips of the best and worst clips."""
    if find_faces(spec) is None:
        yield f"<p>No pictures: {html.escape(missing_faces(spec))}</p>"
        return
    source = Source.open(spec, predictions, [row["clip"] for row in rows])
    pairs = {pair.name: pair for pair in source.pairs}
    yield "<h2>Mean error of every vertex</h2>"
    yield _picture(draw_errors(source), f"all {len(rows)} clips, mean over their frames", "")
    ranked = sorted(rows, key=lambda row: row["lve"])
    n = min(STRIPS, (len(ranked) + 1) // 2)
    chosen = ranked[:n] + ranked[n:][-n:][::-1]
    strips = draw_strips(source, [pairs[row["clip"]] for row in chosen])
    for place, (row, figure) in enumerate(zip(chosen, strips, strict=True)):
        if place in (0, n):
            yield f"<h2>{'Highest' if place else 'Lowest'} lip errors</h2>"
        lve = row["lve"] * (spec.metres_per_unit * 1e3) ** 2
        yield _picture(figure, f"{row['clip']}: LVE {lve:.3g} mm²", "strip")


def _picture(figure: "Figure", caption: str, style: str) -> str:
    """A figure as JPEG inside of the page."""
    content = io.BytesIO()
    figure.savefig(content, format="jpeg", dpi=DOTS_PER_INCH)
    data = base64.b64encode(content.getvalue()).decode()
    caption = html.escape(caption)
    return (
        f'<figure><div class="scroll"><img class="{style}" alt="{caption}" '
        f'src="data:image/jpeg;base64,{data}"></div><figcaption>{caption}</figcaption></figure>'
    )
