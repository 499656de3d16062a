"""The page of the live service in headless Chromium; needs playwright and Chromium."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import uvicorn

import live
from config import BUNDLED_MODEL
from jambatalk import load_checkpoint
from streaming.access import Access
from streaming.server import RECORDING, Limits, Service

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={RECORDING}%noloop",
]  # fmt: skip
GAPS = """() => {
  const { head, state } = globalThis.liveHead;
  const frames = [...state.timeline.frames.entries()].sort((a, b) => a[0] - b[0]);
  return frames.map(([, frame]) => { head.pose(frame, 1); return head.gap(); });
}"""


@contextmanager
def serving(port: int = 0) -> Iterator[int]:
    """A service with the bundled model; its port."""
    listening = live.listen("127.0.0.1", port)
    service = Service(
        load_checkpoint(), BUNDLED_MODEL, Access("127.0.0.1", None), Limits(), threads=2
    )
    server = uvicorn.Server(
        uvicorn.Config(service.app(), log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(10)
    listening.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[[int], SimpleNamespace]]:
    """A function that opens the page of a port: the page, its console and its requests."""
    contexts = []

    def opened(port: int) -> SimpleNamespace:
        context = browser.new_context(permissions=["microphone"])
        contexts.append(context)
        page, console, requests = context.new_page(), [], []
        page.on("console", lambda m: m.type == "error" and console.append(m.text))
        page.on("pageerror", lambda error: console.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("body[data-state=ready]", timeout=60_000)
        return SimpleNamespace(page=page, console=console, requests=requests)

    yield opened
    for context in contexts:
        context.close()


def wait_for_frames(page: Any, n: int) -> None:
    """Wait until the page has n frames."""
    deadline = time.monotonic() + 60
    while int(page.get_attribute("body", "data-frames")) < n:
        assert time.monotonic() < deadline, page.inner_text("body")
        page.wait_for_timeout(50)


def check_lips(gaps: list[float]) -> None:
    """The lips open, and close on several of the recording's p, b and m."""
    closed = np.array(gaps) < 0.8
    closures = int((closed[1:] & ~closed[:-1]).sum())
    assert max(gaps) > 5
    assert closures >= 4


def test_two_pages_speak_a_recording_and_a_microphone(open_page: Callable) -> None:
    with serving() as port:
        one, other = open_page(port), open_page(port)
        one.page.click("#recording")
        other.page.click("#microphone")
        wait_for_frames(one.page, 200)
        wait_for_frames(other.page, 200)
        check_lips(one.page.evaluate(GAPS))
        check_lips(other.page.evaluate(GAPS))
        for opened in (one, other):
            assert opened.console == []
            host = f"127.0.0.1:{port}/"
            assert all(host in url or url.startswith(("data:", "blob:")) for url in opened.requests)


def test_a_page_saves_curves_and_outlives_the_program(open_page: Callable, tmp_path: Path) -> None:
    with serving() as port:
        page = open_page(port).page
        page.click("#microphone")
        wait_for_frames(page, 20)
        page.click("#stop")
        with page.expect_download(timeout=120_000) as download:
            page.click("button[data-format=csv]")
        download.value.save_as(tmp_path / "speech.csv")
        lines = (tmp_path / "speech.csv").read_text().splitlines()
        assert lines[0].startswith("Timecode,BlendshapeCount,EyeBlinkLeft")
        assert len(lines) > 20
        page.click("#microphone")
        wait_for_frames(page, 10)
    page.wait_for_selector("body[data-state=lost]", timeout=30_000)
    assert "Trying again" in page.inner_text("#status")
    time.sleep(0.5)
    with serving(port):
        page.wait_for_selector("body[data-state=listening]", timeout=60_000)
