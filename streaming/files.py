"""Files from a recording that a page sends, made by demo.py in a process of its own."""

import asyncio
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from starlette.requests import ClientDisconnect

from common.errors import UserError
from config import PROJECT_ROOT

FORMATS = {  # name -> (ending, flags of demo.py, media type)
    "mp4": (".mp4", ("--size", "720x720"), "video/mp4"),
    "glb": (".glb", ("--no_video", "--export", "glb"), "model/gltf-binary"),
    "csv": (".csv", ("--no_video", "--export", "arkit"), "text/csv"),
}
TIMEOUT_S = 1800.0
ASK_S = 0.5  # between two looks whether the client is still there
STOP_S = 2.0  # for demo.py to end its own children


async def make_file(
    name: str,
    recording: bytes,
    longest_s: float,
    flags: list[str],
    is_gone: Callable[[], Awaitable[bool]],
) -> tuple[bytes, str, str]:
    """(content, file name, media type) of the format `name` of FORMATS.

    recording: a file in any format that demo.py reads; longest_s: what follows is left out;
    flags: further flags of demo.py; is_gone: whether the client has left. Raises
    `UserError` for an unknown format and a recording that cannot be used, `ClientDisconnect` once
    the client has left. demo.py ends with this call, however it ends.
    """
    if name not in FORMATS:
        raise UserError(f"file {name}: expected one of {', '.join(FORMATS)}")
    ending, kind_flags, kind = FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.wav"
        path.write_bytes(recording)
        command = [
            PROJECT_ROOT / "demo.py", "--wav_path", path, "--out", Path(folder) / "out",
            "--end", str(longest_s), "--quiet", *kind_flags, *flags,
        ]  # fmt: skip
        code, error = await run_python(command, is_gone)
        if code:
            lines = error.strip().splitlines() or ["demo.py failed"]
            raise UserError(message_for_page(lines[-1], path))
        return (Path(folder) / "out" / f"recording{ending}").read_bytes(), f"speech{ending}", kind


async def run_python(
    command: list[str | Path], is_gone: Callable[[], Awaitable[bool]]
) -> tuple[int, str]:
    """Exit status and stderr of a Python program; it ends with this call, as `make_file`."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    ending = asyncio.ensure_future(child.communicate())
    try:
        for _ in range(round(TIMEOUT_S / ASK_S)):
            done, _ = await asyncio.wait([ending], timeout=ASK_S)
            if done:
                return child.returncode or 0, ending.result()[1].decode(errors="replace")
            if await is_gone():
                raise ClientDisconnect
        raise UserError(f"the file took longer than {TIMEOUT_S:g} s")
    finally:
        if not ending.done():
            with suppress(ProcessLookupError):
                child.terminate()
            done, _ = await asyncio.wait([ending], timeout=STOP_S)
            if not done:
                child.kill()
                await ending


def message_for_page(line: str, path: Path) -> str:
    """demo.py's message about the recording at `path`, without its flags and folders."""
    line = line.removeprefix("error: ").replace(str(path), "the recording")
    return re.sub(r"^(audio|--wav_path) the recording", "the recording", line)
