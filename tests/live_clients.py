"""A live service with a toy model, and clients of it, for tests."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import live
from streaming.access import Access
from streaming.protocol import HEADER, MAGIC
from streaming.server import Limits, Service
from tests.streams import MOONSHINE, checkpoint
from tests.toy import V

RATE = 16_000


@contextmanager
def serving(folder: Path, host: str = "127.0.0.1") -> Iterator[SimpleNamespace]:
    """A running service with a toy model: `port`, `service`, `checkpoint`, `server`, `thread`."""
    model = checkpoint(folder, MOONSHINE)
    limits = Limits(sessions=2, message_bytes=100_000, idle_s=1.5)
    made = Service(model, Path("toy.safetensors"), Access(host, None), limits, threads=2)
    listening = live.listen(host, 0)
    config = uvicorn.Config(made.app(), log_level="error", ws_max_size=limits.message_bytes)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield SimpleNamespace(
        port=listening.getsockname()[1], service=made, checkpoint=model, server=server,
        thread=thread,
    )  # fmt: skip
    server.should_exit = True
    thread.join(5)


@contextmanager
def open_session(
    service: SimpleNamespace, query: str = "output=vertices"
) -> Iterator[ClientConnection]:
    """A connection after its greeting."""
    with connect(f"ws://127.0.0.1:{service.port}/ws?{query}") as socket:
        assert json.loads(socket.recv(timeout=60))["type"] == "hello"
        yield socket


def error_of(socket: ClientConnection) -> str:
    """The error that ends a session."""
    text = ""
    try:
        while True:
            message = socket.recv(timeout=60)
            if isinstance(message, str) and (content := json.loads(message))["type"] == "error":
                text = content["message"]
    except ConnectionClosed as closed:
        return text or str(closed)


def speak(socket: ClientConnection, sound: np.ndarray, size: int) -> np.ndarray:
    """The vertices (T, V, 3) of a sound that is sent in messages of `size` samples."""
    for start in range(0, len(sound), size):
        socket.send(sound[start : start + size].tobytes())
    socket.send('{"type": "end"}')
    frames = []
    while True:
        message = socket.recv(timeout=60)
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


def answer(service: SimpleNamespace, path: str, **headers: str) -> tuple[int, bytes]:
    """Status and body of a request."""
    request = urllib.request.Request(f"http://127.0.0.1:{service.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
