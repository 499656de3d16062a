"""The live service: a page, WebSocket sessions, files made from recordings, health and metrics.

docs/streaming.md describes the addresses and the protocol.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from common.errors import UserError, message_of
from config import PROJECT_ROOT
from dataset.faces import choose_face
from export.live_link import ARKIT_UNITS
from files.meshes import load_templates
from jambatalk import Checkpoint
from streaming.access import Access
from streaming.basis import face_message
from streaming.engine import STEP_FRAMES, Frame, Stream
from streaming.files import FORMATS as FILE_FORMATS
from streaming.files import make_file
from streaming.protocol import (
    BadMessage,
    Settings,
    command_of,
    frames_message,
    samples_of,
    settings_of,
)
from streaming.senders import Sender
from streaming.session import Counts, Session

PAGE = Path(__file__).parent / "page"
RECORDING = PROJECT_ROOT / "demo/wav/sense_and_sensibility.wav"
SEND_TIMEOUT_S = 10.0  # for a client that does not read
CLOSE_TIMEOUT_S = 2.0  # for its last message
MAX_UPLOADS = 3  # at a time; each may be `Limits.upload_bytes` large
BAD_DATA, REFUSED, FULL = 1007, 1008, 1013  # close codes of RFC 6455
STATIC_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' "
    "blob:; style-src 'self' 'unsafe-inline'; worker-src 'self' blob:",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Limits:
    """What a service grants."""

    sessions: int = 8  # at a time
    message_bytes: int = 1 << 20
    idle_s: float = 60.0  # without a message
    session_s: float = 3600.0
    upload_bytes: int = 64 << 20
    upload_s: float = 600.0  # of sound


@dataclass
class Service:
    """What all sessions share. threads: that compute steps."""

    checkpoint: Checkpoint
    path: Path  # of the checkpoint
    access: Access
    limits: Limits
    threads: int
    subject: str | None = None
    dataset: str | None = None  # as `--dataset`
    senders: list[Sender] = field(default_factory=list)  # get curves of every session
    is_stopping: Callable[[], bool] = lambda: False  # files are then given up
    total: Counts = field(default_factory=Counts)
    sessions: int = 0
    opened: int = 0
    failed: int = 0
    uploads: int = 0  # that are read or wait for their file

    def __post_init__(self) -> None:
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="live")
        self.making = asyncio.Semaphore(1)  # files are made one after the other
        spec = self.checkpoint.spec
        self.subjects = list(load_templates(spec.path(spec.templates)))
        self.subject, _ = choose_face(spec, self.subject, None)

    def app(self) -> Starlette:
        """The application for an ASGI server."""
        routes = [
            Route("/", self.page), Route("/healthz", self.health), Route("/metrics", self.metrics),
            Route("/api/info", self.info), Route("/api/face", self.face),
            Route("/api/recording", self.recording),
            Route("/api/files/{format}", self.file, methods=["POST"]),
            WebSocketRoute("/ws", self.live),
            Mount("/static", Static(directory=PAGE)),
        ]  # fmt: skip
        return Starlette(routes=routes, middleware=[], lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        self.pool.shutdown(wait=False, cancel_futures=True)

    async def page(self, request: Request) -> Response:
        """The page; it needs no token, what it asks for does."""
        return FileResponse(PAGE / "index.html", headers=STATIC_HEADERS)

    async def health(self, request: Request) -> Response:
        """For supervisors: that the service answers."""
        return JSONResponse({"status": "ok", "sessions": self.sessions})

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/."""
        return self._granted(request) or PlainTextResponse(self.metrics_text())

    async def info(self, request: Request) -> Response:
        """What a client needs to know before it opens a session."""
        spec, model = self.checkpoint.spec, self.checkpoint.model
        has_components = model.head.coefficients is not None
        content = {
            "dataset": spec.name, "fps": spec.fps, "subjects": self.subjects,
            "subject": self.subject, "n_vertices": spec.n_vertices,
            "components": model.config.vertex_rank if has_components else 0,
            "curves": ARKIT_UNITS, "step_frames": STEP_FRAMES, "files": sorted(FILE_FORMATS),
            "limits": vars(self.limits),
        }  # fmt: skip
        return self._granted(request) or JSONResponse(content)

    async def face(self, request: Request) -> Response:
        """The mesh and the components of a subject's head: `streaming.basis`."""
        if refused := self._granted(request):
            return refused
        try:
            subject = request.query_params.get("subject", self.subject)
            name, template = choose_face(self.checkpoint.spec, subject, None)
            if self.checkpoint.model.head.coefficients is None:
                raise UserError("live: the model's vertex head has no components")
        except UserError as error:
            return JSONResponse({"error": message_of(error)}, 400)
        message = face_message(self.checkpoint, name, template)
        return Response(message, media_type="application/octet-stream")

    async def recording(self, request: Request) -> Response:
        """The bundled recording."""
        return self._granted(request) or FileResponse(RECORDING, media_type="audio/wav")

    async def file(self, request: Request) -> Response:
        """A file made from the recording in the request's body, as demo.py makes it."""
        if refused := self._granted(request):
            return refused
        if self.uploads >= MAX_UPLOADS:
            return JSONResponse({"error": "other files are being made; try again later"}, 503)
        self.uploads += 1
        try:
            body = await self._body(request)
            async with self.making:
                content, name, kind = await make_file(
                    request.path_params["format"], body, self.limits.upload_s,
                    self._demo_flags(request), lambda: self._is_over(request),
                )  # fmt: skip
        except UserError as error:
            return JSONResponse({"error": message_of(error)}, 400)
        except ClientDisconnect:  # or the service stops
            return JSONResponse({"error": "the service is stopping; start it again"}, 503)
        finally:
            self.uploads -= 1
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=kind, headers=headers)

    async def live(self, socket: WebSocket) -> None:
        """A live session; a message that cannot be used ends it with an error, and no other."""
        refusal = self.access.refusal(socket.headers, socket.query_params)
        if refusal:
            await socket.close(REFUSED, refusal)
            return
        await socket.accept()
        if self.sessions >= self.limits.sessions:
            await end(socket, FULL, f"{self.sessions} sessions are open, which is the limit")
            return
        self.sessions, self.opened = self.sessions + 1, self.opened + 1
        try:
            await asyncio.wait_for(self._session(socket), self.limits.session_s)
        except TimeoutError:
            self.failed += 1
            await end(socket, REFUSED, f"a session lasts {self.limits.session_s:g} s at most")
        except (BadMessage, ValueError, UserError) as error:
            self.failed += 1
            await end(socket, BAD_DATA, str(error))
        except (WebSocketDisconnect, ConnectionError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "close" not in str(error).lower():
                raise
        finally:
            self.sessions -= 1

    async def _session(self, socket: WebSocket) -> None:
        settings = settings_of(socket.query_params)
        stream = await asyncio.get_running_loop().run_in_executor(self.pool, self._stream, settings)

        async def send(data: bytes | str) -> None:
            sending = socket.send_bytes(data) if isinstance(data, bytes) else socket.send_text(data)
            try:
                await asyncio.wait_for(sending, SEND_TIMEOUT_S)
            except TimeoutError as error:
                raise BadMessage(f"the client has read nothing for {SEND_TIMEOUT_S:g} s") from error

        async def send_frames(frames: list[Frame]) -> None:
            for sender in self.senders:
                sender.send(frames, stream.fps)
            await send(frames_message(frames, settings.output))

        session = Session(
            stream, self.pool, send_frames,
            lambda message: send(json.dumps(message)),
            self.total,
        )  # fmt: skip
        hello = {
            "type": "hello", "subject": stream.subject, "fps": stream.fps,
            "output": settings.output, "rate": settings.rate, "look_ahead_s": settings.look_ahead_s,
            "context_s": settings.context_s, "step_frames": STEP_FRAMES,
        }  # fmt: skip
        await send(json.dumps(hello))
        await both(session.run(), self._listen(socket, session, settings))

    def _stream(self, settings: Settings) -> Stream:
        return Stream(
            self.checkpoint, settings.subject or self.subject, settings.rate,
            settings.look_ahead_s, settings.context_s, settings.output, bool(self.senders),
        )  # fmt: skip

    async def _listen(self, socket: WebSocket, session: Session, settings: Settings) -> None:
        """Take the messages of a client until it leaves."""
        while True:
            try:
                message = await asyncio.wait_for(socket.receive(), self.limits.idle_s)
            except TimeoutError as error:
                raise BadMessage(f"no message for {self.limits.idle_s:g} s") from error
            if message["type"] == "websocket.disconnect":
                return
            if (data := message.get("bytes")) is not None:
                session.hear(samples_of(data, settings))
            elif (command := command_of(message.get("text") or "")) != "ping":
                await session.command(command)

    def _demo_flags(self, request: Request) -> list[str]:
        """Flags of demo.py for a file: `subject` and `background` are those of the request."""
        query = request.query_params
        flags = [f"--checkpoint={self.path}", f"--subject={query.get('subject', self.subject)}"]
        if self.dataset is not None:
            flags.append(f"--dataset={self.dataset}")
        if "background" in query and request.path_params["format"] == "mp4":
            flags.append(f"--background={query['background']}")
        return flags

    async def _is_over(self, request: Request) -> bool:
        return self.is_stopping() or await request.is_disconnected()

    async def _body(self, request: Request) -> bytes:
        """The body of a request; `UserError` where it is too large."""
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self.limits.upload_bytes:
                limit = self.limits.upload_bytes >> 20
                raise UserError(f"recording: more than {limit} MB; send a shorter one")
            parts.append(part)
        return b"".join(parts)

    def _granted(self, request: Request) -> Response | None:
        """None, or the answer to a request that is refused."""
        refusal = self.access.refusal(request.headers, request.query_params)
        return JSONResponse({"error": refusal}, 403) if refusal else None

    def metrics_text(self) -> str:
        """The metrics of the service."""
        total = self.total
        rows = (
            ("sessions", "gauge", "Sessions that are open.", self.sessions),
            ("sessions_total", "counter", "Sessions since the start.", self.opened),
            ("sessions_failed_total", "counter", "Sessions that ended by an error.", self.failed),
            ("frames_total", "counter", "Frames that were sent.", total.frames),
            ("frames_late_total", "counter", "Frames that came late.", total.late),
            ("sound_dropped_seconds_total", "counter", "Sound that came too fast.",
             total.dropped_ms / 1000),
            ("busy_seconds_total", "counter", "Processor time of steps.", total.busy_s),
        )  # fmt: skip
        return "".join(
            f"# HELP jambatalk_{name} {text}\n# TYPE jambatalk_{name} {kind}\n"
            f"jambatalk_{name} {value:g}\n"
            for name, kind, text, value in rows
        )


class Static(StaticFiles):
    """The files of the page, with the headers of the page."""

    async def get_response(self, path: str, scope: Any) -> Response:
        """As the base class."""
        response = await super().get_response(path, scope)
        response.headers.update(STATIC_HEADERS)
        return response


async def end(socket: WebSocket, code: int, reason: str) -> None:
    """Tell a client why its session ends, and close it."""

    async def close() -> None:
        await socket.send_text(json.dumps({"type": "error", "message": reason}))
        await socket.close(code, reason[:100])

    with suppress(RuntimeError, WebSocketDisconnect, ConnectionError, TimeoutError):
        await asyncio.wait_for(close(), CLOSE_TIMEOUT_S)


async def both(one: Awaitable[None], other: Awaitable[None]) -> None:
    """Run both until the first ends, then cancel the other; raises what ended it."""
    tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
