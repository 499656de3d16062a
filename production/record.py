"""What a folder of results was made of, so that a run over many recordings leaves out what is done.

`.demo.jsonl` in the folder has a line for each result: its name, the recording, the flags, the
files with their sizes and the time. The newest line of a name counts. A result is done if all its
files are there in these sizes, newer than the recording, and made of the same recording with the
same flags. Each shard appends to a file of its own, such as `.demo-3of16.jsonl`, because appending
by several machines is not safe on network drives. All of these files are read.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.errors import UserError
from files.texts import parse_json, read_json
from production.jobs import Job
from production.shards import Shard

FORMER = ".demo.json"  # one object with an entry for each name, until version 0.2


class Record:
    """The record of the results in a folder, read once; `flags` are those of this run."""

    def __init__(self, folder: Path, flags: dict[str, Any], shard: Shard | None = None) -> None:
        self.folder, self.flags = folder, flags
        self.path = folder / (".demo.jsonl" if shard is None else f".demo-{shard}.jsonl")
        self.entries: dict[str, dict[str, Any]] = {}
        for entry in sorted(_entries(folder), key=lambda entry: entry["time"]):
            self.entries[entry["name"]] = entry

    def is_done(self, job: Job) -> bool:
        """Whether the results of `job` are complete, newer than its recording, of these flags."""
        entry = self.entries.get(job.name, {})
        is_same = entry.get("recording") == str(job.recording.resolve())
        if not is_same or entry.get("flags") != self.flags:
            return False
        made = job.recording.stat().st_mtime_ns
        return job.result.name in entry["files"] and all(
            _size(self.folder / name) == size and (self.folder / name).stat().st_mtime_ns >= made
            for name, size in entry["files"].items()
        )

    def check_owner(self, job: Job) -> None:
        """Raise `UserError` if the results of this name are those of another recording."""
        owner = self.entries.get(job.name, {}).get("recording")
        if owner not in (None, str(job.recording.resolve())) and job.result.exists():
            raise UserError(
                f"--wav_path {job.recording}: {job.result} is the result of {owner}; name another "
                "--out, or --overwrite replaces it"
            )

    def note_done(self, job: Job, files: Sequence[Path]) -> None:
        """Write down that `files` are the results of `job`. Raises `OSError`."""
        entry = {
            "name": job.name,
            "time": time.time(),
            "recording": str(job.recording.resolve()),
            "flags": self.flags,
            "files": {str(path.relative_to(self.folder)): _size(path) for path in files},
        }
        with self.path.open("a", encoding="utf-8") as file:
            # a killed process may have left a part of a line
            file.write(f"\n{json.dumps(entry, ensure_ascii=False)}\n")


def _entries(folder: Path) -> Iterator[dict[str, Any]]:
    """The entries of all records of a folder; lines that are none are skipped."""
    with suppress(UserError, AttributeError):
        for name, entry in read_json(folder / FORMER).items():
            if _is_entry(entry := {"name": name, "time": 0.0} | entry):
                yield entry
    for path in sorted(folder.glob(".demo*.jsonl")):
        with suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError):
                    if _is_entry(entry := parse_json(line)):
                        yield entry


def _is_entry(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    kinds = {"name": str, "time": float, "recording": str, "flags": dict, "files": dict}
    return all(isinstance(value.get(key), kind) for key, kind in kinds.items())


def _size(path: Path) -> int | None:
    """Bytes of a file; 0 of a folder, None where nothing is there."""
    if path.is_dir():
        return 0
    return path.stat().st_size if path.exists() else None
