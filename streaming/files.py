"""Files from a recording that a page sends, made by demo.py in a process of its own."""

import subprocess
import sys
import tempfile
from pathlib import Path

from common.errors import UserError
from config import PROJECT_ROOT

FORMATS = {  # name -> (ending, flags of demo.py, media type)
    "mp4": (".mp4", ("--size", "720x720"), "video/mp4"),
    "glb": (".glb", ("--no_video", "--export", "glb"), "model/gltf-binary"),
    "csv": (".csv", ("--no_video", "--export", "arkit"), "text/csv"),
}
TIMEOUT_S = 1800.0


def make_file(
    name: str, recording: bytes, longest_s: float, checkpoint: Path, subject: str
) -> tuple[bytes, str, str]:
    """(content, file name, media type) of the format `name` of FORMATS.

    recording: a file in any format that demo.py reads; longest_s: what follows is left out;
    checkpoint, subject: as for demo.py. Raises `UserError` for an unknown format and a recording
    that cannot be used.
    """
    if name not in FORMATS:
        raise UserError(f"file {name}: expected one of {', '.join(FORMATS)}")
    ending, flags, kind = FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.wav"
        path.write_bytes(recording)
        command = [
            sys.executable, PROJECT_ROOT / "demo.py", "--wav_path", path,
            "--out", Path(folder) / "out", "--end", str(longest_s), "--quiet",
            "--checkpoint", checkpoint, "--subject", subject, *flags,
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"the file took longer than {TIMEOUT_S:g} s") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["demo.py failed"]
            raise UserError(lines[-1].replace(str(path), "the recording"))
        return (Path(folder) / "out" / f"recording{ending}").read_bytes(), f"speech{ending}", kind
