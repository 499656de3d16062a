"""ffmpeg as a child process: missing, stalled, and left behind by a killed parent."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import UserError
from config import PROJECT_ROOT
from speech import ffmpeg
from speech.audio import read_audio


def fake_ffmpeg(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))


def unknown_format(folder: Path) -> Path:
    """A file that libsndfile leaves to ffmpeg."""
    (folder / "x.bin").write_bytes(bytes(range(256)) * 9)
    return folder / "x.bin"


def test_a_missing_ffmpeg_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no ffmpeg: .*none is no program; .*IMAGEIO_FFMPEG_EXE"):
        read_audio(unknown_format(tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="a text file is no program elsewhere")
def test_an_ffmpeg_that_is_no_program_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ffmpeg").write_bytes(b"\x7fELF of another system")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "ffmpeg"))
    with pytest.raises(UserError, match="ffmpeg .*: cannot be started .* another system"):
        read_audio(unknown_format(tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for ffmpeg")
def test_an_ffmpeg_that_stalls_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ffmpeg(tmp_path / "ffmpeg", "exec sleep 60", monkeypatch)
    monkeypatch.setattr(ffmpeg, "STALL_S", 0.1)
    began = time.monotonic()
    with pytest.raises(UserError, match="ffmpeg found no sound in 0 s and was stopped"):
        read_audio(unknown_format(tmp_path))
    assert time.monotonic() - began < 30


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
def test_ffmpeg_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from speech import ffmpeg\n"
        "child = ffmpeg.start(['-v', 'error', '-f', 'lavfi', '-re', '-i', 'anullsrc', '-f', 'null',"
        " '-'], stdin=-3, stdout=-3, stderr=-3)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=PROJECT_ROOT, text=True
    )
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    for _ in range(200):
        if not is_running(child):
            return
        time.sleep(0.05)
    pytest.fail("ffmpeg still runs")


def is_running(process: int) -> bool:
    """Whether a process exists and is no zombie, which waits for its parent to be told."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2]
    except FileNotFoundError:
        return False
    return not state.startswith("Z")
