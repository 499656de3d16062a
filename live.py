"""A head that speaks with you: `python live.py`, then open the address that it prints.

The page takes a microphone, a file or the bundled recording. `--osc` and `--livelink` also send
ARKit's curves to an engine. `--stdin` serves no page: it reads raw samples from a pipe and writes a
line of JSON for each frame. docs/streaming.md has the protocol and the engine in Python.
"""

import argparse
import gc
import json
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from common.errors import Parser, UserError, reason_of, report, run_cli
from config import BUNDLED_MODEL, SAMPLE_RATE
from layers import PRECISIONS

if TYPE_CHECKING:
    from jambatalk import Checkpoint

PORT = 8765
READ_BYTES = 1 << 16  # of a pipe at a time, at most
GONE_MS = 30_000  # a connection whose other side takes nothing for so long is closed


# fmt: off
def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description="Serve a page on which a head speaks with you, live.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to serve on; others than this machine's own "
        "need a token, which is printed; default: %(default)s")
    add("--port", type=int, default=PORT, help="default: %(default)s; 0 takes a free one")
    add("--token", help="what clients must know; default: none on this machine's own address, "
        "else a new one")
    add("--checkpoint", type=Path, default=BUNDLED_MODEL, metavar="FILE",
        help="a model of main.py; default: the bundled one")
    add("--dataset", metavar="NAME", help="as for demo.py")
    add("--subject", metavar="NAME", help="whose face; default: the data set's first")
    add("--look_ahead", type=float, default=0.25, metavar="S",
        help="sound after its instant that a frame of --stdin waits for; default: %(default)s s")
    add("--sessions", type=int, default=8, metavar="N", help="at a time; default: %(default)s")
    add("--threads", type=int, default=min(2, os.cpu_count() or 1), metavar="N",
        help="that compute; default: %(default)s")
    add("--precision", choices=PRECISIONS, default="int8", metavar="NAME",
        help="of matrix products, as for demo.py; default: %(default)s")
    add("--osc", metavar="HOST:PORT", help="send curves by OSC with VMC's addresses, such as to "
        "127.0.0.1:39539")
    add("--livelink", metavar="HOST:PORT", help="send curves as Live Link Face does, such as to "
        "127.0.0.1:11111")
    add("--stdin", action="store_true", help="read 16-bit mono samples, little-endian, from a pipe")
    add("--rate", type=int, default=16_000, metavar="HZ", help="of --stdin; default: %(default)s")
    args = parser.parse_args(argv)
    for name, low, high in (("port", 0, 65_535), ("sessions", 1, 1_000), ("threads", 1, 256)):
        value = getattr(args, name)
        if not low <= value <= high:
            raise UserError(f"--{name} {value}: expected {low} to {high}")
    return args
# fmt: on


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C, or read a pipe to its end."""
    args = parse(argv)
    if args.stdin and sys.stdin is None:
        raise UserError("--stdin: stdin is closed; pipe 16-bit samples into live.py")
    import torch

    from jambatalk import load_checkpoint
    from streaming.senders import LiveLinkSender, OscSender, address_of

    torch.set_num_threads(1)  # a step is too small for more; sessions run beside each other
    senders = [
        kind(address_of(getattr(args, name), f"--{name}"))
        for name, kind in (("osc", OscSender), ("livelink", LiveLinkSender))
        if getattr(args, name) is not None
    ]
    cpu = torch.device("cpu")  # the engine works there alone
    checkpoint = load_checkpoint(args.checkpoint, args.dataset, "torch", args.precision, cpu)
    if args.stdin:
        read_pipe(args, checkpoint, senders)
    else:
        serve(args, checkpoint, senders)


def read_pipe(args: argparse.Namespace, checkpoint: "Checkpoint", senders: list) -> None:
    """Samples from stdin to a line of JSON for each frame on stdout, and to `senders`."""
    from export.live_link import ARKIT_UNITS
    from streaming.engine import Stream

    try:
        stream = Stream(checkpoint, args.subject, args.rate, args.look_ahead, output="curves")
    except ValueError as error:
        raise UserError(f"--stdin: {error}") from error

    def write(frames: list) -> None:
        for sender in senders:
            sender.send(frames, stream.fps)
        for frame in frames:
            curves = {n: round(float(v), 4) for n, v in zip(ARKIT_UNITS, frame.values, strict=True)}
            row = {"frame": frame.index, "time_s": round(frame.time_s, 4), "curves": curves}
            try:
                print(json.dumps(row), flush=True)
            except OSError as error:
                raise UserError(
                    f"--stdin: stdout takes no more frames ({reason_of(error)})"
                ) from error

    pipe, rest = sys.stdin.buffer, b""
    while data := pipe.read1(READ_BYTES):
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        write(stream.push(np.frombuffer(data[:whole], "<i2")))
    write(stream.flush())
    if rest:
        raise UserError("--stdin: the last sample has one byte, expected 16-bit samples")


def serve(args: argparse.Namespace, checkpoint: "Checkpoint", senders: list) -> None:
    """Serve the page and its sessions until Ctrl-C."""
    try:
        import uvicorn

        from streaming.server import Limits, Service
    except ImportError as error:
        raise UserError(
            f"live.py: package {error.name} is missing; pip install -r requirements.txt"
        ) from error
    from streaming.access import Access, is_local

    warn_of_slowness(checkpoint, args.subject)
    token = args.token or (None if is_local(args.host) else secrets.token_urlsafe(16))
    listening = listen(args.host, args.port)
    service = Service(
        checkpoint, args.checkpoint, Access(args.host, token), Limits(sessions=args.sessions),
        args.threads, args.subject, args.dataset, senders,
    )  # fmt: skip
    shown = args.host if args.host not in ("0.0.0.0", "::") else socket.gethostname()
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{listening.getsockname()[1]}/"
    print(f"open {address}{f'?token={token}' if token else ''}  (Ctrl-C ends)", flush=True)
    config = uvicorn.Config(
        service.app(), log_level="warning", ws_max_size=service.limits.message_bytes,
        ws_max_queue=32, timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    service.is_stopping = lambda: server.should_exit
    gc.freeze()  # collecting garbage would else look through the model's objects: 0.1 s
    server.run(sockets=[listening])


def warn_of_slowness(checkpoint: "Checkpoint", subject: str | None) -> None:
    """Say on stderr that a step of the model takes longer than the sound that it is made of."""
    from streaming.engine import STEP_FRAMES, Stream
    from streaming.latency import least_time

    stream = Stream(checkpoint, subject)
    rng, step = np.random.default_rng(0), SAMPLE_RATE * STEP_FRAMES // stream.fps
    sound = 0.1 * rng.standard_normal(SAMPLE_RATE).astype(np.float32)
    stream.push(sound[: stream.look_ahead + step])
    taken_ms = 1000 * least_time(lambda: stream.push(sound[:step]))
    there_ms = 1000 * STEP_FRAMES / stream.fps
    if taken_ms > there_ms:
        report(
            f"warning: {STEP_FRAMES} frames of this model take {taken_ms:.0f} ms, expected at most "
            f"{there_ms:.0f} ms: sound will be dropped; use a model on the bundled encoder"
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address; `UserError` where that is not possible."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_MS)
        bound.bind(address)
        bound.listen(64)
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: {reason_of(error)}; choose another port, or 0 for a "
            "free one"
        ) from error
    return bound


if __name__ == "__main__":
    sys.exit(run_cli(main))
