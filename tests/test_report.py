"""The report of a test: one page that needs nothing else, with tables and pictures."""

import base64
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from config import DatasetSpec
from evaluation import page_media, report
from evaluation.comparison import Layout
from evaluation.report import to_html, write_report
from rendering.srgb import srgb_to_linear

PLATE = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32) * 0.1
VOID = {"meta", "img", "source"}  # elements without an end tag
VIDEO_HEIGHT = 64
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


def plates(tmp_path: Path) -> DatasetSpec:
    """A data set of three clips, its predictions, and the results of their test."""
    for folder in ("vertices_npy", "pred", "wav"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "templates.npz", a=PLATE)
    np.savez(tmp_path / "faces.npz", faces=np.array([[0, 1, 2], [0, 2, 3]]))
    rows = []
    for name, distance in CLIPS.items():
        truth = np.repeat(PLATE[None], 3, axis=0)
        np.save(tmp_path / f"vertices_npy/{name}.npy", truth)
        np.save(tmp_path / f"pred/{name}.npy", truth + np.float32([distance, 0, 0]))
        soundfile.write(tmp_path / f"wav/{name}.wav", np.zeros(1600), 16_000)
        rows.append({"clip": name, "lve": distance**2, "mve": distance, "opening_r": None})
    (tmp_path / "inner_lips.txt").write_text("2 1")
    (tmp_path / "results.json").write_text(json.dumps({"clips": rows}))
    (tmp_path / "results.md").write_text("plates\n\n| split | LVE |\n| --- | --- |\n| test | 5 |\n")
    return DatasetSpec(
        name="plates", root=str(tmp_path), fps=30, source_fps=30, n_vertices=4,
        metres_per_unit=1.0, templates=str(tmp_path / "templates.npz"),
        topology=str(tmp_path / "faces.npz"), lips_region="", upper_region="",
        inner_lips=str(tmp_path / "inner_lips.txt"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the report."""
    folder = tmp_path_factory.mktemp("plates")
    spec = plates(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.source.SIZE", 64)
        patch.setattr(report, "VIDEO_HEIGHT", VIDEO_HEIGHT)
        patch.setattr(report, "CLIPS", 1)
        patch.setattr("evaluation.figures.STILLS", 1)
        for name in ("DOTS_PER_INCH", "PLOT_DOTS_PER_INCH"):
            patch.setattr(page_media, name, 50)
        return write_report(folder, "results", spec, folder / "pred").read_text()


def test_the_page_has_pictures_and_videos_inside_and_loads_nothing(text: str) -> None:
    page = Page(text)
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    captions = [picture["alt"].split(" over ")[0] for picture in pictures]
    clips = ("a_01", "a_02")  # of the lowest error, and of the highest
    assert captions == [
        "distance of prediction and truth, mean",
        "motion from one frame to the next, mean and deviation",
        *(start + clip for clip in clips for start in ("Mouth opening of ", "stills of ")),
    ]  # fmt: skip
    assert [t.strip() for t in page.texts if "LVE" in t and "_0" in t] == [
        "a_01: LVE 1 mm²", "a_02: LVE 9 mm²",
    ]  # fmt: skip
    videos = [attributes for tag, attributes in page.elements if tag == "video"]
    assert [video["aria-label"][:4] for video in videos] == list(clips)
    assert all(base64.b64decode(v["src"].split(",")[1])[4:8] == b"ftyp" for v in videos)
    sources = [a.get(key) for _, a in page.elements for key in ("src", "srcset", "poster", "href")]
    assert {source.split(",")[0] for source in filter(None, sources)} == {
        "data:image/jpeg;base64", "data:image/png;base64", "data:video/mp4;base64",
    }  # fmt: skip
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.elements}
    assert "url(" not in "".join(page.texts) and "@import" not in "".join(page.texts)


def test_a_browser_shows_the_page_at_the_width_of_a_phone(text: str, tmp_path: Path) -> None:
    """Chromium decodes every picture and video, loads nothing else and follows the dark mode."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    script = """
      const read = document.getElementById("page"), page = () => read.contentDocument
      const measure = () => JSON.stringify({
        overflow: page().scrollingElement.scrollWidth - page().scrollingElement.clientWidth,
        images: [...page().images].map(i => i.naturalWidth),
        videos: [...page().querySelectorAll("video")].map(v => [v.videoWidth, v.videoHeight]),
        loaded: read.contentWindow.performance.getEntriesByType("resource").map(r => r.name)
          .filter(name => !name.startsWith("data:")),
        background: read.contentWindow.getComputedStyle(page().body).backgroundColor })
      const ready = () => [...page().querySelectorAll("video")].every(v => v.readyState > 0)
      const wait = n => ready() || n == 0 ? document.body.append("RESULT" + measure() + "END")
        : setTimeout(wait, 50, n - 1)
      read.onload = () => wait(200)"""
    frame = f'<iframe id="page" width="390" height="800" srcdoc="{html.escape(text)}"></iframe>'
    (tmp_path / "phone.html").write_text(f"<body>{frame}<script>{script}</script></body>")
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000",
         "--blink-settings=preferredColorScheme=0", "--dump-dom", f"--user-data-dir={tmp_path}/c",
         (tmp_path / "phone.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.split("RESULT")[-1].split("END")[0])
    assert found["overflow"] == 0 and found["loaded"] == []
    assert len(found["images"]) == 6 and min(found["images"]) > 0
    layout = Layout(VIDEO_HEIGHT)
    assert found["videos"] == 2 * [[layout.width, layout.height]]
    assert found["background"] == "rgb(23, 23, 26)"


def test_letters_have_enough_contrast_in_both_modes() -> None:
    """4.5:1, level AA of the Web Content Accessibility Guidelines 2.2 (1.4.3)."""

    def light(colour: str) -> float:
        digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        return srgb_to_linear(np.array([*bytes.fromhex(digits)]) / 255) @ [0.2126, 0.7152, 0.0722]

    for colours in re.findall(r"--text: #(\w+); --page: #(\w+); .*--dim: #(\w+)", report.STYLE):
        text, page, dim = map(light, colours)
        for letters in (text, dim):
            assert (max(letters, page) + 0.05) / (min(letters, page) + 0.05) >= 4.5


def test_a_data_set_without_triangles_has_a_report_without_pictures(
    tmp_path: Path,
) -> None:
    spec = plates(tmp_path)
    (tmp_path / "faces.npz").unlink()
    page = Page(write_report(tmp_path, "results", spec, tmp_path / "pred").read_text())
    assert not {"img", "video"} & {tag for tag, _ in page.elements}
    assert any("No pictures: topology" in text for text in page.texts)


def test_tables_lists_and_headings_of_results_become_html() -> None:
    text = "one\n\n| a | b |\n| --- | --- |\n| **1** | <2> |\n\n- x\n- y\n\n## two"
    assert "".join(to_html(text).split("\n")) == (
        '<p>one</p><div class="scroll" tabindex="0" role="region" aria-label="table by a, b">'
        '<table><thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead>'
        '<tbody><tr><th scope="row"><strong>1</strong></th><td>&lt;2&gt;</td></tr></tbody>'
        "</table></div>"
        "<ul><li>x</li><li>y</li></ul><h2>two</h2>"
    )
