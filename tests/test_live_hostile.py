"""Bad input of the live service: it ends its own session with one error, and no other."""

import asyncio
import io
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import live
from common.errors import run_cli
from streaming.engine import Frame
from streaming.senders import OscSender
from tests.live_clients import answer, error_of, open_session, serving, sound_of, speak
from tests.streams import MOONSHINE, checkpoint


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A service for all tests."""
    with serving(tmp_path_factory.mktemp("toy")) as running:
        yield running


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


def test_a_frame_of_a_gigabyte_is_refused_when_it_is_announced(service: SimpleNamespace) -> None:
    with open_session(service) as good, open_session(service) as bad:
        bad.socket.sendall(b"\x82\xff" + struct.pack(">Q", 1 << 30) + bytes(4))
        assert "exceeds limit of 100000 bytes" in error_of(bad)
        good.send('{"type": "ping"}')


def test_hundreds_of_tiny_messages_are_one_recording(
    service: SimpleNamespace, rng: np.random.Generator
) -> None:
    sound = sound_of(rng, 0.05)
    with open_session(service) as socket:
        for _ in range(200):
            socket.send(b"")
        assert np.array_equal(speak(socket, sound, 1), speak(socket, sound, len(sound)))


def test_a_client_that_reads_nothing_is_disconnected(
    service: SimpleNamespace, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(*_: object) -> None:
        await asyncio.sleep(60)

    with open_session(service) as socket:
        monkeypatch.setattr("streaming.server.SEND_TIMEOUT_S", 0.05)
        monkeypatch.setattr("starlette.websockets.WebSocket.send_bytes", wait)
        socket.send(sound_of(rng, 0.4).tobytes())
        assert "has read nothing for 0.05 s" in error_of(socket)


def test_a_connection_that_breaks_in_a_message_ends_its_session(service: SimpleNamespace) -> None:
    with open_session(service) as good:
        with open_session(service) as bad:
            bad.socket.sendall(b"\x82\xfe" + struct.pack(">H", 3_000) + bytes(100))
            bad.socket.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + 5
        while service.service.sessions > 1:
            assert time.monotonic() < deadline
            good.send('{"type": "ping"}')
            time.sleep(0.01)


def test_clients_are_told_that_the_service_stops(tmp_path: Path) -> None:
    with serving(tmp_path) as running, open_session(running) as client:
        client.send(np.zeros(8_000, np.int16).tobytes())
        running.server.should_exit = True
        assert "1012" in error_of(client)  # "service restart" of RFC 6455's registry
        running.thread.join(5)
        assert not running.thread.is_alive()


def test_idle_sessions_and_too_many_are_closed(service: SimpleNamespace) -> None:
    with open_session(service) as one, open_session(service):
        with connect(f"ws://127.0.0.1:{service.port}/ws") as third:
            assert "which is the limit" in error_of(third)
        assert "no message for 1.5 s" in error_of(one)


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


def test_a_page_of_another_address_gets_nothing(service: SimpleNamespace) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{service.port}/ws", origin="http://elsewhere.example")
    assert answer(service, "/api/info", Origin="http://elsewhere.example")[0] == 403
    for address in ("elsewhere.example", "[", "[x]"):
        assert answer(service, "/api/info", Host=address)[0] == 403
    assert answer(service, "/api/info", Origin="http://[")[0] == 403
    assert answer(service, "/api/info", Host="127.0.0.2")[0] == 200
    assert answer(service, "/api/info", Origin=f"http://127.0.0.1:{service.port}")[0] == 200


def test_a_pipe_that_nobody_reads_and_a_closed_one_are_one_line(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(live, "print", broken, raising=False)
    sound = io.BufferedReader(io.BytesIO(sound_of(rng, 0.1).tobytes()))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=sound))
    assert run_cli(live.main, ["--stdin"]) == 2
    assert "stdout takes no more frames (Broken pipe)" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", None)
    assert run_cli(live.main, ["--stdin"]) == 2
    assert "stdin is closed" in capsys.readouterr().err


def test_half_a_sample_at_the_end_of_a_pipe_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(b"abc"))))
    assert run_cli(live.main, ["--stdin"]) == 2
    assert "the last sample has one byte" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [
    ["--port", "99999"], ["--sessions", "0"], ["--osc", "here"], ["--host", "no.such.host."],
    ["--checkpoint", "missing.safetensors"],
])  # fmt: skip
def test_bad_flags_are_one_line_with_exit_code_2(
    argv: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert run_cli(live.main, argv) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_model_that_is_too_slow_is_named_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model = checkpoint(tmp_path, MOONSHINE)
    monkeypatch.setattr("streaming.latency.least_time", lambda work: work() and 0.0661)
    live.warn_of_slowness(model, None)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("streaming.latency.least_time", lambda work: work() and 0.5)
    live.warn_of_slowness(model, None)
    assert "2 frames of this model take 500 ms, expected at most 67 ms" in capsys.readouterr().err


def test_curves_to_an_address_that_nobody_answers_are_lost(rng: np.random.Generator) -> None:
    frame = Frame(0, 0.0, np.zeros(52, np.float32))
    for address in (("127.0.0.1", 9), ("192.0.2.1", 9)):  # closed; reserved for documentation
        sender = OscSender(address)
        for _ in range(3):
            sender.send([frame], 30)
