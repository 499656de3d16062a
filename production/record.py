"""What a folder of results was made of, so that a run over many recordings leaves out what is done.

`.demo.json` in the folder has an entry for each name: the recording, the flags and the files with
their sizes. A result is done if all its files are there in these sizes, newer than the recording,
and made of the same recording with the same flags.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.whole_file import write_whole
from files.texts import read_json
from production.jobs import Job

RECORD = ".demo.json"


def is_done(job: Job, flags: dict[str, Any]) -> bool:
    """Whether the results of `job` are complete, newer than its recording and of these flags."""
    entry = _read(job.npy.parent).get(job.name, {})
    if entry.get("recording") != str(job.recording.resolve()) or entry.get("flags") != flags:
        return False
    made = job.recording.stat().st_mtime_ns
    return job.result.name in entry["files"] and all(
        _size(job.npy.parent / name) == size and (job.npy.parent / name).stat().st_mtime_ns >= made
        for name, size in entry["files"].items()
    )


def check_owner(job: Job) -> None:
    """Raise `UserError` if the results of this name are those of another recording."""
    owner = _read(job.npy.parent).get(job.name, {}).get("recording")
    if owner not in (None, str(job.recording.resolve())) and job.result.exists():
        raise UserError(
            f"--wav_path {job.recording}: {job.result} is the result of {owner}; name another "
            "--out, or --overwrite replaces it"
        )


def note_done(job: Job, flags: dict[str, Any], files: Sequence[Path]) -> None:
    """Write down that `files` are the results of `job` with these flags. Raises `OSError`."""
    folder = job.npy.parent
    entry = {
        "recording": str(job.recording.resolve()),
        "flags": flags,
        "files": {str(path.relative_to(folder)): _size(path) for path in files},
    }
    content = json.dumps(_read(folder) | {job.name: entry}, indent=1, ensure_ascii=False)
    write_whole(folder / RECORD, content + "\n")


def _read(folder: Path) -> dict[str, Any]:
    """The record of a folder; empty where there is none, or none that can be read."""
    try:
        content = read_json(folder / RECORD)
    except UserError:  # then nothing counts as done, and it is made again
        return {}
    return content if isinstance(content, dict) else {}


def _size(path: Path) -> int | None:
    """Bytes of a file; 0 of a folder, None where nothing is there."""
    if path.is_dir():
        return 0
    return path.stat().st_size if path.exists() else None
