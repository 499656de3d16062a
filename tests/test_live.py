"""The live service: sessions over WebSocket, who may open one, packets for engines, the pipe."""

import asyncio
import gc
import io
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from starlette.requests import ClientDisconnect
from websockets.sync.client import connect

import live
from common.errors import UserError, run_cli
from export.live_link import ARKIT_UNITS
from streaming.access import Access
from streaming.basis import packed
from streaming.engine import Frame, Stream
from streaming.files import run_python
from streaming.senders import OscSender, address_of, live_link_packet, osc_message
from streaming.session import Queue
from tests.live_clients import answer, open_session, serving, sound_of, speak
from tests.streams import MOONSHINE, checkpoint


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A service for all tests."""
    with serving(tmp_path_factory.mktemp("toy")) as running:
        yield running


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


def test_an_ipv6_address_is_served(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this system has no IPv6")
    with (
        serving(tmp_path, "::1") as running,
        connect(f"ws://[::1]:{running.port}/ws", origin=f"http://[::1]:{running.port}") as client,
    ):
        assert json.loads(client.recv(timeout=5))["type"] == "hello"


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


def test_garbage_collection_leaves_out_what_was_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    monkeypatch.setattr(
        "uvicorn.Server.run", lambda *_, **__: counts.append((gc.get_freeze_count(), gc.unfreeze()))
    )
    live.serve(live.parse(["--port", "0"]), checkpoint(tmp_path, MOONSHINE), [])
    assert counts[0][0] > 1_000


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


def test_the_program_that_makes_a_file_ends_when_its_client_leaves() -> None:
    async def leaves() -> bool:
        return True

    program = ["-c", "import time; time.sleep(60)"]
    begin = time.monotonic()
    with pytest.raises(ClientDisconnect):
        asyncio.run(run_python(program, leaves))
    assert time.monotonic() - begin < 10
    assert asyncio.run(run_python(["-c", "raise SystemExit('no')"], leaves)) == (1, "no\n")
