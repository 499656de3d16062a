"""The results of a test as one HTML page: tables, maps on the face, best and worst clips.

The page is made of <name>.md and <name>.json, which the test mode has written, and of the predicted
vertices. Of the best and worst clips it has videos with sound, curves of the mouth and stills. It
needs no other file, and its policy (CSP) forbids the browser to load anything. It follows the
reader's choice of light or dark.
"""

import html
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from common.errors import UserError, reason_of
from common.whole_file import write_whole
from config import DatasetSpec
from dataset.faces import find_faces, missing_faces
from dataset.regions import find_inner_lips
from evaluation.comparison import Comparison, Layout
from evaluation.figures import clip_opening, draw_errors, draw_motion, draw_strips
from evaluation.opening import in_words, opening_figure
from evaluation.page_media import picture, plot, scrolled, video
from evaluation.phones import load_phones
from evaluation.pictures import COLUMN_IN
from evaluation.source import Source
from files.texts import read_json, read_text

CLIPS = 2  # with the lowest errors, and with the highest
VIDEO_HEIGHT = 480  # pixels
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --text: #1c1c1e; --page: #fff; --line: #d5d5da; --dim: #55555f }
@media (prefers-color-scheme: dark) {
  :root { --text: #e9e9ec; --page: #17171a; --line: #3a3a40; --dim: #a9a9b3 }
  img.plot { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.4rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
h3 { font-size: 1rem; margin: 2rem 0 .5rem }
p, li, figcaption { color: var(--dim) }
summary { cursor: pointer; padding: .5rem 0 }
.scroll { overflow-x: auto }
.scroll:focus-visible { outline: 2px solid Highlight }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap }
th:first-child, td:first-child { text-align: left }
figure { margin: 1rem 0 }
.maps { display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: flex-start }
.maps figure { flex: 1 1 18rem; max-width: 28rem }
img, video { display: block; max-width: 100%; height: auto; border-radius: .5rem }
img:not(.plot), video { background: #fff }
img.plot { width: 100% }
img.strip { width: 100%; min-width: 40rem; max-width: none }
"""


def write_report(folder: Path, name: str, spec: DatasetSpec, predictions: Path) -> Path:
    """Write <name>.html beside <name>.md and <name>.json of a test; returns its path.

    predictions: folder of the clips' predicted vertices. Without triangles of the data set there
    are no pictures, without vertices of the inner lips no curves, and a sentence says so. Raises
    `UserError` where the file cannot be written.
    """
    rows = read_json(folder / f"{name}.json", "results")["clips"]
    tables = read_text(folder / f"{name}.md", "results")
    parts = [to_html(tables), *_pictures(spec, predictions, rows), _all_clips(spec, rows)]
    content = "\n".join(parts)
    title = html.escape(f"{spec.name}: {name}")
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{title}</h1>\n{content}\n</main>\n</body>\n</html>\n"
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
        return _table(cells[0], [row for row in cells[1:] if set("".join(row)) != {"-"}])
    if kind == "-":
        return f"<ul>{''.join(f'<li>{_inline(line[2:])}</li>' for line in lines)}</ul>"
    if kind == "#":
        return "".join(f"<h2>{_inline(line.lstrip('# '))}</h2>" for line in lines)
    return f"<p>{_inline(' '.join(lines))}</p>" if kind else ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table of cells of HTML; the first one of a row is its heading."""
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = (
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    label = "table by " + ", ".join(re.sub("<.*?>", "", cell) for cell in head[:2] if cell)
    return scrolled(
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>", label
    )


def _inline(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text))


def _pictures(spec: DatasetSpec, predictions: Path, rows: list[dict]) -> Iterator[str]:
    """HTML of the maps on the face, and of the best and worst clips."""
    if find_faces(spec) is None:
        yield f"<p>No pictures: {html.escape(missing_faces(spec))}</p>"
        return
    source = Source.open(spec, predictions, [row["clip"] for row in rows])
    of_all = f"over the frames of all {len(rows)} clips"
    yield '<h2>Error and motion of every vertex</h2>\n<div class="maps">'
    yield picture(draw_errors(source), f"distance of prediction and truth, mean {of_all}")
    yield picture(
        draw_motion(source), f"motion from one frame to the next, mean and deviation {of_all}"
    )
    yield "</div>"
    ranked = sorted(rows, key=lambda row: row["lve"])
    n = min(CLIPS, (len(ranked) + 1) // 2)
    yield from _clips(source, ranked[:n], "Lowest lip errors")
    yield from _clips(source, ranked[n:][-n:][::-1], "Highest lip errors")


def _clips(source: Source, rows: list[dict], heading: str) -> Iterator[str]:
    """HTML of some clips: video, curves and stills of each."""
    if not rows:
        return
    yield f"<h2>{heading}</h2>"
    by_name = {pair.name: pair for pair in source.pairs}
    pairs = [by_name[row["clip"]] for row in rows]
    inner_lips, phones = find_inner_lips(source.spec), load_phones(source.spec)
    if inner_lips is None:
        yield f"<p>No curves: {html.escape(source.spec.name)} names no inner lips.</p>"
    for row, pair, stills in zip(rows, pairs, draw_strips(source, pairs), strict=True):
        yield f"<h3>{html.escape(pair.name)}: LVE {_lve_mm2(source.spec, row):.3g} mm²</h3>"
        yield video(Comparison(source, pair, Layout(VIDEO_HEIGHT), limit=1.0), pair.name)
        if inner_lips is not None:
            opening = clip_opening(source, pair, inner_lips, phones)
            figures = (opening_figure(opening, *width) for width in ((), (COLUMN_IN,)))
            yield plot(*figures, in_words(opening, pair.name))
        yield picture(stills, f"stills of {pair.name}", "strip")


def _lve_mm2(spec: DatasetSpec, row: dict) -> float:
    return row["lve"] * (spec.metres_per_unit * 1e3) ** 2


def _all_clips(spec: DatasetSpec, rows: list[dict]) -> str:
    """The scores of every clip, folded up."""
    columns = {"mve": ("MVE (mm)", spec.metres_per_unit * 1e3), "opening_r": ("opening r", 1.0),
               "sync_ms": ("sync (ms)", 1.0)}  # fmt: skip
    columns = {name: value for name, value in columns.items() if name in rows[0]}
    cells = [
        [html.escape(row["clip"]), f"{_lve_mm2(spec, row):.3g}"]
        + ["-" if row[name] is None else f"{row[name] * scale:.3g}"
           for name, (_, scale) in columns.items()]
        for row in rows
    ]  # fmt: skip
    table = _table(["clip", "LVE (mm²)", *(title for title, _ in columns.values())], cells)
    return f"<details><summary>Scores of all {len(rows)} clips</summary>{table}</details>"
