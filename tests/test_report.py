"""The report of a test: one page that needs nothing else, with tables and pictures."""

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from config import DatasetSpec
from evaluation.report import to_html, write_report

PLATE = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32) * 0.1
VOID = {"meta", "img"}  # elements without an end tag
CLIPS = {"a_01": 1e-3, "a_02": 3e-3, "a_03": 2e-3}  # clip -> distance of its prediction, metres


class Page(HTMLParser):
    """Collects a page's elements and checks that each one is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetSpec:
    """A data set of three clips, its predictions, and the results of their test."""
    monkeypatch.setattr("evaluation.source.SIZE", 64)
    for folder in ("vertices_npy", "pred"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "templates.npz", a=PLATE)
    np.savez(tmp_path / "faces.npz", faces=np.array([[0, 1, 2], [0, 2, 3]]))
    rows = []
    for name, distance in CLIPS.items():
        truth = np.repeat(PLATE[None], 3, axis=0)
        np.save(tmp_path / f"vertices_npy/{name}.npy", truth)
        np.save(tmp_path / f"pred/{name}.npy", truth + np.float32([distance, 0, 0]))
        rows.append({"clip": name, "lve": distance**2})
    (tmp_path / "results.json").write_text(json.dumps({"clips": rows}))
    (tmp_path / "results.md").write_text("plates\n\n| split | LVE |\n| --- | --- |\n| test | 5 |\n")
    return DatasetSpec(
        name="plates", root=str(tmp_path), fps=30, source_fps=30, n_vertices=4,
        metres_per_unit=1.0, templates=str(tmp_path / "templates.npz"),
        topology=str(tmp_path / "faces.npz"), lips_region="", upper_region="",
    )  # fmt: skip


def test_the_page_has_its_pictures_inside_and_loads_nothing(
    spec: DatasetSpec, tmp_path: Path
) -> None:
    page = Page(write_report(tmp_path, "results", spec, tmp_path / "pred").read_text())
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    captions = [picture["alt"] for picture in pictures]
    assert captions == [
        "all 3 clips, mean over their frames",
        "a_01: LVE 1 mm²", "a_03: LVE 4 mm²", "a_02: LVE 9 mm²",
    ]  # fmt: skip
    for picture in pictures:
        kind, data = picture["src"].split(",")
        assert kind == "data:image/jpeg;base64"
        assert base64.b64decode(data)[:3] == b"\xff\xd8\xff"  # a JPEG
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.elements}
    assert "url(" not in "".join(page.texts) and "@import" not in "".join(page.texts)


def test_a_data_set_without_triangles_has_a_report_without_pictures(
    spec: DatasetSpec, tmp_path: Path
) -> None:
    (tmp_path / "faces.npz").unlink()
    page = Page(write_report(tmp_path, "results", spec, tmp_path / "pred").read_text())
    assert "img" not in [tag for tag, _ in page.elements]
    assert any("No pictures: topology" in text for text in page.texts)


def test_tables_lists_and_headings_of_results_become_html() -> None:
    text = "one\n\n| a | b |\n| --- | --- |\n| **1** | <2> |\n\n- x\n- y\n\n## two"
    assert "".join(to_html(text).split("\n")) == (
        '<p>one</p><div class="scroll"><table><thead><tr><th>a</th><th>b</th></tr></thead>'
        "<tbody><tr><td><strong>1</strong></td><td>&lt;2&gt;</td></tr></tbody></table></div>"
        "<ul><li>x</li><li>y</li></ul><h2>two</h2>"
    )
