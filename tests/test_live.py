"""The live service: sessions over WebSocket, who may open one, packets for engines, the pipe."""

import asyncio
import io
import json
import struct
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import uvicorn
from starlette.requests import ClientDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import live
from common.errors import UserError, run_cli
from export.live_link import ARKIT_UNITS
from streaming.access import Access
from streaming.basis import packed
from streaming.engine import Frame, Stream
from streaming.files import run_python
from streaming.protocol import HEADER, MAGIC
from streaming.senders import OscSender, address_of, live_link_packet, osc_message
from streaming.server import Limits, Service
from streaming.session import Queue
from tests.streams import MOONSHINE, checkpoint
from tests.toy import V

RATE = 16_000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A running service with a toy model: its `port`, its `service` and the `checkpoint`."""
    model = checkpoint(tmp_path_factory.mktemp("toy"), MOONSHINE)
    limits = Limits(sessions=2, message_bytes=100_000, idle_s=0.4)
    made = Service(model, Path("toy.safetensors"), Access("127.0.0.1", None), limits, threads=2)
    listening = live.listen("127.0.0.1", 0)
    config = uvicorn.Config(made.app(), log_level="error", ws_max_size=limits.message_bytes)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield SimpleNamespace(port=listening.getsockname()[1], service=made, checkpoint=model)
    server.should_exit = True
    thread.join(5)


@contextmanager
def open_session(
    service: SimpleNamespace, query: str = "output=vertices"
) -> Iterator[ClientConnection]:
    """A connection after its greeting."""
    with connect(f"ws://127.0.0.1:{service.port}/ws?{query}") as socket:
        assert json.loads(socket.recv(timeout=5))["type"] == "hello"
        yield socket


def error_of(socket: ClientConnection) -> str:
    """The error that ends a session."""
    text = ""
    try:
        while True:
            message = socket.recv(timeout=5)
            if isinstance(message, str) and (content := json.loads(message))["type"] == "error":
                text = content["message"]
    except ConnectionClosed as closed:
        return text or str(closed)


def answer(service: SimpleNamespace, path: str, **headers: str) -> tuple[int, bytes]:
    """Status and body of a request."""
    request = urllib.request.Request(f"http://127.0.0.1:{service.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def speak(socket: ClientConnection, sound: np.ndarray, size: int) -> np.ndarray:
    """The vertices (T, V, 3) of a sound that is sent in messages of `size` samples."""
    for start in range(0, len(sound), size):
        socket.send(sound[start : start + size].tobytes())
    socket.send('{"type": "end"}')
    frames = []
    while True:
        message = socket.recv(timeout=10)
        if isinstance(message, bytes):
            magic, _, output, n, n_values, index, time_s = HEADER.unpack(message[: HEADER.size])
            assert (magic, output, n_values, index) == (MAGIC, 0, 3 * V, len(frames))
            assert time_s == index / 30
            frames += list(np.frombuffer(message, "<f4", offset=HEADER.size).reshape(n, V, 3))
        elif json.loads(message)["type"] == "ended":
            return np.stack(frames)


def sound_of(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Noise (n,) int16."""
    return (3_000 * rng.standard_normal(int(seconds * RATE))).astype(np.int16)


def test_sessions_get_the_frames_of_the_engine_beside_each_other(
    service: SimpleNamespace, rng: np.random.Generator
) -> None:
    one, other = sound_of(rng, 0.7), sound_of(rng, 0.4)
    results = {}

    def run(name: str, sound: np.ndarray) -> None:
        with open_session(service) as socket:
            results[name] = speak(socket, sound, 777)

    threads = [threading.Thread(target=run, args=pair) for pair in (("1", one), ("2", other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, sound in (("1", one), ("2", other)):
        stream = Stream(service.checkpoint)
        expected = [frame.values for frame in stream.push(sound) + stream.flush()]
        assert np.array_equal(results[name], np.stack(expected))


def test_a_session_can_begin_a_new_recording(
    service: SimpleNamespace, rng: np.random.Generator
) -> None:
    sound = sound_of(rng, 0.3)
    with open_session(service) as socket:
        assert np.array_equal(speak(socket, sound, 4_000), speak(socket, sound, 500))


def test_reports_are_json_without_nan(
    service: SimpleNamespace, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.session.REPORT_S", 0.0)
    with open_session(service) as socket:
        socket.send(sound_of(rng, 0.3).tobytes())
        socket.send('{"type": "end"}')  # behind it the stream has no delays yet
        has_delays = []
        while True not in has_delays or has_delays[-1]:
            message = socket.recv(timeout=5)
            if isinstance(message, str) and '"stats"' in message:
                assert "NaN" not in message
                has_delays.append("p50_ms" in message)


def test_sound_behind_an_end_belongs_to_the_next_recording(
    service: SimpleNamespace, rng: np.random.Generator
) -> None:
    sound, end = sound_of(rng, 0.3).tobytes(), '{"type": "end"}'
    counts = []
    with open_session(service) as socket:
        for message in (sound, end, sound[: len(sound) // 3], end, sound, '{"type": "reset"}', end):
            socket.send(message)
        while len(counts) < 3:
            message = socket.recv(timeout=10)
            if isinstance(message, str) and (content := json.loads(message))["type"] == "ended":
                counts.append(content["frames"])
    assert counts == [9, 3, 0]


@pytest.mark.parametrize("message, reason", [
    (b"\0\0\0", "not whole samples of 2 bytes"),
    ("hello", "not JSON"),
    ('{"type": "dance"}', "expected one of end, reset, ping"),
    ("[" * 100_000, ""),
    (b"\0" * 200_000, "1009"),
])  # fmt: skip
def test_a_bad_message_ends_its_session_alone(
    service: SimpleNamespace, rng: np.random.Generator, message: bytes | str, reason: str
) -> None:
    with open_session(service) as good, open_session(service) as bad:
        bad.send(message)
        assert reason in error_of(bad)
        assert len(speak(good, sound_of(rng, 0.2), 1_000)) == 6


def test_nan_ends_its_session(service: SimpleNamespace) -> None:
    with open_session(service, "format=f32") as socket:
        socket.send(np.full(10, np.nan, np.float32).tobytes())
        assert "10 of 10 are NaN" in error_of(socket)


@pytest.mark.parametrize("query, reason", [
    ("rate=5", "expected 8000 to 192000"), ("rate=fast", "expected a number"),
    ("output=film", "expected one of"), ("volume=11", "volume: unknown"),
    ("subject=nobody", "nobody"), ("look_ahead_s=nan", "expected 0 to 2"),
])  # fmt: skip
def test_bad_settings_are_refused_in_one_line(
    service: SimpleNamespace, query: str, reason: str
) -> None:
    with connect(f"ws://127.0.0.1:{service.port}/ws?{query}") as socket:
        assert reason in error_of(socket)


def test_idle_sessions_and_too_many_are_closed(service: SimpleNamespace) -> None:
    with open_session(service) as one, open_session(service):
        with connect(f"ws://127.0.0.1:{service.port}/ws") as third:
            assert "which is the limit" in error_of(third)
        assert "no message for 0.4 s" in error_of(one)


def test_a_page_of_another_address_gets_nothing(service: SimpleNamespace) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{service.port}/ws", origin="http://elsewhere.example")
    assert answer(service, "/api/info", Origin="http://elsewhere.example")[0] == 403
    for address in ("elsewhere.example", "[", "[x]"):
        assert answer(service, "/api/info", Host=address)[0] == 403
    assert answer(service, "/api/info", Origin="http://[")[0] == 403
    assert answer(service, "/api/info", Host="127.0.0.2")[0] == 200
    assert answer(service, "/api/info", Origin=f"http://127.0.0.1:{service.port}")[0] == 200


def test_health_and_metrics_count(service: SimpleNamespace, rng: np.random.Generator) -> None:
    with open_session(service) as socket:
        speak(socket, sound_of(rng, 0.2), 1_000)
    status, body = answer(service, "/healthz")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    text = answer(service, "/metrics")[1].decode()
    rows = dict(line.split() for line in text.splitlines() if not line.startswith("#"))
    assert float(rows["jambatalk_frames_total"]) >= 6
    assert float(rows["jambatalk_sessions_total"]) >= 1


def test_a_service_for_others_needs_its_token() -> None:
    access = Access("0.0.0.0", "secret")
    headers = {"host": "studio:8765"}
    assert "token" in access.refusal(headers, {})
    assert "token" in access.refusal(headers, {"token": "wrong"})
    assert access.refusal(headers, {"token": "secret"}) == ""
    assert access.refusal(headers | {"authorization": "Bearer secret"}, {}) == ""
    assert access.refusal(headers | {"origin": "http://studio:8765"}, {"token": "secret"}) == ""
    assert access.refusal(headers | {"origin": "http://studio:80"}, {"token": "secret"}) != ""
    assert access.refusal({}, {"token": "secret"}) != ""


def test_waiting_sound_is_bounded_and_keeps_its_instants() -> None:
    queue = Queue(limit=10)
    for value in range(1, 6):
        queue.put(np.full(4, value, np.float32))
    # 20 samples came, 10 may wait: the first ten became silence
    assert queue.dropped == 10
    taken = np.concatenate([queue.take(5) for _ in range(6)])
    assert taken.tolist() == [0] * 10 + [3] * 2 + [4] * 4 + [5] * 4
    assert len(queue.take(5)) == 0
    queue.put(np.arange(25, dtype=np.float32))  # one block that is longer than the limit
    taken = np.concatenate([queue.take(5) for _ in range(5)])
    assert taken.tolist() == [0] * 15 + list(range(15, 25))


def test_osc_messages_are_those_of_the_specification() -> None:
    message = osc_message("/a", "jawOpen", 0.5)
    assert message == b"/a\0\0" + b",sf\0" + b"jawOpen\0" + struct.pack(">f", 0.5)
    with pytest.raises(UserError, match="expected HOST:PORT"):
        address_of("127.0.0.1", "--osc")
    sender = OscSender(("127.0.0.1", 9))
    packet = sender.packet(Frame(3, 0.1, np.linspace(0, 1, 52, dtype=np.float32)), 30)
    assert packet.startswith(b"#bundle\0" + struct.pack(">q", 1))
    sizes, rest = [], packet[16:]
    while rest:
        (size,) = struct.unpack(">i", rest[:4])
        sizes.append(size)
        rest = rest[4 + size :]
    assert len(sizes) == 53
    assert all(size % 4 == 0 for size in sizes)


def test_a_live_link_packet_has_61_values_in_the_order_of_the_app() -> None:
    curves = np.arange(52, dtype=np.float32) / 52
    packet = live_link_packet("ID", "Face", 7, 30, curves)
    expected = struct.pack(">Bi2si4s", 6, 2, b"ID", 4, b"Face") + struct.pack(">ifii", 7, 0, 30, 1)
    assert packet.startswith(expected)
    count, *values = struct.unpack(">B61f", packet[len(expected) :])
    assert count == 61
    np.testing.assert_allclose(values, [*curves, *[0.0] * 9])


def test_arrays_of_a_face_are_read_back() -> None:
    arrays = {"a": np.arange(3, dtype=np.uint8), "b": np.ones((2, 2), "<f4")}
    message = packed({"subject": "x"}, arrays)
    (size,) = struct.unpack("<I", message[:4])
    header, body = json.loads(message[4 : 4 + size]), message[4 + size :]
    assert header["subject"] == "x"
    for place in header["arrays"]:
        assert place["offset"] % 4 == 0
        read = np.frombuffer(body, place["type"], np.prod(place["shape"]), place["offset"])
        assert np.array_equal(read.reshape(place["shape"]), arrays[place["name"]])


@pytest.mark.parametrize("argv", [
    ["--port", "99999"], ["--sessions", "0"], ["--osc", "here"], ["--host", "no.such.host."],
    ["--checkpoint", "missing.safetensors"],
])  # fmt: skip
def test_bad_flags_are_one_line_with_exit_code_2(
    argv: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert run_cli(live.main, argv) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_pipe_becomes_lines_of_curves(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    sound = io.BufferedReader(io.BytesIO(sound_of(rng, 0.3).tobytes()))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=sound))
    assert run_cli(live.main, ["--stdin"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["frame"] for row in rows] == list(range(9))
    assert set(rows[0]["curves"]) == set(ARKIT_UNITS)
    assert all(0 <= value <= 1 for row in rows for value in row["curves"].values())


def test_half_a_sample_at_the_end_of_a_pipe_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(b"abc"))))
    assert run_cli(live.main, ["--stdin"]) == 2
    assert "the last sample has one byte" in capsys.readouterr().err


def test_the_program_that_makes_a_file_ends_when_its_client_leaves() -> None:
    async def leaves() -> bool:
        return True

    program = ["-c", "import time; time.sleep(60)"]
    begin = time.monotonic()
    with pytest.raises(ClientDisconnect):
        asyncio.run(run_python(program, leaves))
    assert time.monotonic() - begin < 10
    assert asyncio.run(run_python(["-c", "raise SystemExit('no')"], leaves)) == (1, "no\n")
