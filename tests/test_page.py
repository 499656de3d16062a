"""The page of the live service in headless Chromium; needs playwright and Chromium."""

import re
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
import soundfile
import uvicorn

import live
from config import BUNDLED_MODEL, SAMPLE_RATE
from jambatalk import load_checkpoint
from speech.audio import read_audio
from streaming.access import Access
from streaming.resampler import BlockResampler
from streaming.server import PAGE, RECORDING, Limits, Service

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={RECORDING}%noloop",
]  # fmt: skip
P_B_M_S = (0.39, 4.05, 4.57, 4.815, 4.995, 5.775, 6.765)  # middles of the recording's, as aligned
VIEWPORT = {"width": 390, "height": 400}  # a phone's width; pictures are drawn by the processor
SILENT_MP4 = "00000018667479706d703432000000006d70343269736f6d"  # no sound in it
DROP = """([bytes, name]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name));
  for (const type of ["dragover", "drop"]) {
    const flags = { dataTransfer: data, bubbles: true, cancelable: true };
    document.body.dispatchEvent(new DragEvent(type, flags));
  }
}"""
REFUSE = """name => {
  navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", name));
}"""
KEPT_FRAMES = """async () => {
  const { Timeline } = await import("/static/timeline.js");
  const timeline = new Timeline(30);
  const frame = (index) => new Float32Array([index]);
  for (let i = 0; i < 2000; i += 4) timeline.add(i, [0, 1, 2, 3].map((k) => frame(i + k)));
  return [timeline.frames.size, timeline.at(1500.25 / 30)[0], timeline.at(0)];
}"""
KEPT_SOUND = """async () => {
  const { Kept } = await import("/static/kept.js");
  const kept = new Kept(16000, 10);
  for (let i = 1; i <= 6; i += 1) kept.add(new Float32Array(4).fill(i / 16));
  const bytes = await kept.file().arrayBuffer();
  return [...new Int16Array(bytes.slice(44))];
}"""
KEPT = """async () => {
  const { context, kept } = globalThis.liveHead.state;
  const bytes = await kept.file().arrayBuffer();
  return [context.sampleRate, [...new Int16Array(bytes.slice(44))]];
}"""
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
        context = browser.new_context(permissions=["microphone"], viewport=VIEWPORT)
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
    """Wait until the page has n frames; a slow processor may take long, but frames must come."""
    count, since = 0, time.monotonic()
    while count < n:
        page.wait_for_timeout(50)
        before, count = count, int(page.get_attribute("body", "data-frames"))
        since = time.monotonic() if count > before else since
        assert time.monotonic() - since < 60, page.inner_text("body")


def heard_begin_s(page: Any) -> float:
    """Where the recording begins in the sound that a page sent, in seconds.

    Negative where the page's microphone was opened after the recording had begun.
    """
    rate, samples = page.evaluate(KEPT)
    resampler = BlockResampler(int(rate))
    heard = np.concatenate([resampler.push(np.array(samples, np.float32)), resampler.flush()])
    recording = read_audio(RECORDING)
    n = 2 * max(len(heard), len(recording))
    product = np.fft.rfft(heard, n) * np.fft.rfft(recording, n).conj()
    lag = int(np.fft.irfft(product, n).argmax())
    return (lag if lag < n / 2 else lag - n) / SAMPLE_RATE


def check_lips(page: Any) -> None:
    """The lips close on the recording's p, b and m, but for one, and open between them."""
    assert page.inner_text("#dropped") == "0.0 s"
    gaps, begin_s = np.array(page.evaluate(GAPS)), heard_begin_s(page)
    frames = [round(30 * (begin_s + instant_s)) for instant_s in P_B_M_S]
    least = [gaps[frame - 2 : frame + 3].min() for frame in frames if 2 <= frame < len(gaps) - 2]
    assert len(least) >= 5, f"the sound begins {begin_s} s from the recording's beginning"
    assert sum(gap < 0.8 for gap in least) >= len(least) - 1, (begin_s, least)
    assert gaps.max() > 5


@pytest.fixture(scope="module")
def port(browser: Any) -> Iterator[int]:
    """A service that outlives a test."""
    with serving() as number:
        yield number


def wait_for(page: Any, state: str) -> None:
    """Wait until the page does this."""
    page.wait_for_selector(f"body[data-state={state}]", timeout=60_000)


def test_two_pages_speak_a_recording_and_a_microphone(
    open_page: Callable, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.session.QUEUE_S", 600.0)  # a slow processor drops no sound
    one, other = open_page(port), open_page(port)
    one.page.click("#recording")
    other.page.click("#microphone")
    wait_for_frames(one.page, 213)
    wait_for_frames(other.page, 213)
    other.page.click("#stop")
    for opened in (one, other):
        assert opened.console == []
        host = f"127.0.0.1:{port}/"
        assert all(host in url or url.startswith(("data:", "blob:")) for url in opened.requests)
        check_lips(opened.page)


def test_wrong_files_and_microphones_give_a_message_and_the_page_goes_on(
    open_page: Callable, port: int, tmp_path: Path
) -> None:
    opened = open_page(port)
    page = opened.page
    for content in (b"text", b"", bytes.fromhex(SILENT_MP4)):
        page.evaluate(DROP, [list(content), "wrong"])
        wait_for(page, "error")
        assert "finds no sound in this file" in page.inner_text("#status")
    for name, message in (("NotAllowedError", "refused"), ("NotFoundError", "No microphone")):
        page.evaluate(REFUSE, name)
        page.click("#microphone")
        page.wait_for_function("text => document.getElementById('status').innerText.includes(text)",
                               arg=message)  # fmt: skip
        assert page.get_attribute("body", "data-state") == "error"
    soundfile.write(tmp_path / "short.wav", np.full(400, 0.1), 16_000)
    for _ in range(2):  # the same file can be chosen again
        page.set_input_files("#file", tmp_path / "short.wav")
        wait_for(page, "speaking")
        wait_for(page, "ready")
        assert page.inner_text("#status") == ""
        assert page.get_attribute("body", "data-frames") == "1"
    assert opened.console == []


def test_every_control_has_a_name_and_works_by_keys(open_page: Callable, port: int) -> None:
    page = open_page(port).page
    assert page.locator("[aria-live], output, [role=status], [role=alert]").count() == 1
    for role, names in (
        ("button", ("Microphone", "Play the sample", "Choose a file", "Stop", "Save video")),
        ("combobox", ("Face", "Background")), ("slider", ("Motion", "Smoothing")),
    ):  # fmt: skip
        for name in names:
            assert page.get_by_role(role, name=name, exact=True).count() == 1
    order = []
    for _ in range(8):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
    expected = "head microphone recording file subject gain smooth background"
    assert order == expected.split()
    page.focus("#gain")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#gain", "aria-valuetext") == "101 %"
    page.focus("#head")
    for key in ("ArrowLeft", "+"):
        page.keyboard.press(key)
    view = "[liveHead.head.yaw, liveHead.head.zoom]"
    assert page.evaluate(view) == [-0.1, 1.15]
    page.keyboard.press("Home")
    assert page.evaluate(view) == [0, 1]
    page.focus("#recording")
    page.keyboard.press("Enter")
    wait_for(page, "speaking")
    page.focus("#stop")
    page.keyboard.press("Enter")
    wait_for(page, "ready")
    assert page.evaluate("document.activeElement.id") == "microphone"


def test_a_head_that_rests_is_not_drawn(open_page: Callable, port: int) -> None:
    page = open_page(port).page
    twice = "[liveHead.head.draw(), liveHead.head.draw()]"
    assert page.evaluate(f"liveHead.head.turn(0.1, 0), {twice}") == [True, False]


def test_the_page_keeps_the_last_sound_and_frames_alone(open_page: Callable, port: int) -> None:
    page = open_page(port).page
    assert page.evaluate(KEPT_FRAMES) == [900, 1500.25, None]
    assert page.evaluate(KEPT_SOUND) == [int(v / 16 * 32767) for v in (5, 5, 5, 5, 6, 6, 6, 6)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(scheme: str) -> None:
    style = (PAGE / "style.css").read_text()
    rules = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", rules[0]))
    if scheme == "dark":
        colors |= dict(re.findall(r"--([\w-]+): (#\w{6})", rules[1]))

    def luminance(color: str) -> float:  # https://www.w3.org/TR/WCAG21/#dfn-relative-luminance
        values = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    pairs = (("text", "panel"), ("dim", "panel"), ("accent", "panel"), ("accent-text", "accent"))
    for one, other in pairs:
        low, high = sorted((luminance(colors[one]), luminance(colors[other])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (one, other)


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
    wait_for(page, "lost")
    page.click("#stop")
    page.click("#microphone")  # while the program is away
    wait_for(page, "lost")
    assert "Trying again" in page.inner_text("#status")
    with serving(port):
        wait_for(page, "listening")
        wait_for_frames(page, 4)
