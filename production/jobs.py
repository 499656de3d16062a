"""The recordings of a run and the files that each of them becomes.

A result has the stem of its recording. Where recordings of one run share a stem, in any case of
letters, the results of all of them keep the ending of the recording (a.wav.npy beside a.mp3.npy),
and where that is the same too, they begin with the name of its folder (x_a.wav.npy).
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError, reason_of, writable_folder
from config import PROJECT_ROOT
from files.arrays import check_file
from files.listing import list_files, plain_name
from rendering.video_formats import is_picture_folder

DEMO_FOLDER = PROJECT_ROOT / "demo/wav"
SOUND_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".amr", ".aif",
    ".aiff", ".au", ".caf", ".w64", ".rf64", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi",
)  # fmt: skip  # files of a folder with another ending are no recordings


@dataclass(frozen=True)
class Job:
    """A recording, and the files that are made of it.

    video: a file, a folder of pictures if it ends in _png, or None with --no_video.
    """

    recording: Path
    npy: Path
    video: Path | None

    @property
    def result(self) -> Path:
        """The file that the run is for: the video, or the vertices without one."""
        return self.video or self.npy

    @property
    def name(self) -> str:
        """The name of all results, without their endings."""
        return self.npy.stem


def bundled_recording() -> Path:
    """The first recording in demo/wav."""
    recordings = list_files(DEMO_FOLDER, (".wav",)) + list_files(DEMO_FOLDER, (".flac",))
    if not recordings:
        raise UserError(f"no recording in {DEMO_FOLDER}; give one with --wav_path FILE")
    return recordings[0]


def find_recordings(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths` and the recordings in the folders among them, each once.

    Subfolders are not searched. Raises `UserError` for a folder without a recording.
    """
    found: dict[str, Path] = {}
    for path in paths:
        inside = list_files(path, SOUND_SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise UserError(
                f"--wav_path {path}: no recording in this folder; expected files that end in "
                f"{' '.join(SOUND_SUFFIXES)}"
            )
        for file in inside:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def names_of(recordings: Sequence[Path]) -> list[str]:
    """The name of each recording's results, all different, as the module's docstring says.

    Raises `UserError` where even the names of their folders are the same.
    """
    forms = [(path.stem, path.name, f"{path.absolute().parent.name}_{path.name}")
             for path in recordings]  # fmt: skip
    level = [0] * len(recordings)
    while True:
        names = [form[i] for form, i in zip(forms, level, strict=True)]
        keys = [plain_name(name).casefold() for name in names]
        uses = Counter(keys)
        shared = [i for i, key in enumerate(keys) if uses[key] > 1]
        if not shared:
            return names
        if all(level[i] == 2 for i in shared):
            first, second = [path for path, key in zip(recordings, keys, strict=True)
                             if key == keys[shared[0]]][:2]  # fmt: skip
            raise UserError(
                f"--wav_path {first} and {second}: their results would have one name; rename one "
                "of them"
            )
        for i in shared:
            level[i] = min(level[i] + 1, 2)


def check_out(out: Path) -> None:
    """Raise `UserError` unless files can be written into the folder `out`.

    `out` itself is not created yet: that would leave an empty folder behind a failed run.
    """
    folders = out, *out.absolute().parents
    if link := next((path for path in folders if path.is_symlink() and not path.exists()), None):
        raise UserError(f"--out {out}: {link} is a link that leads nowhere; name another folder")
    nearest = existing_folder(out)
    if not nearest.is_dir():
        raise UserError(f"--out {out}: {nearest} is not a folder; name another")
    try:
        writable_folder(nearest)
    except UserError as error:
        raise UserError(f"--out {out}: {error}") from error


def existing_folder(path: Path) -> Path:
    """`path`, or the nearest of the folders around it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def by_inode(recordings: Sequence[Path]) -> dict[tuple[int, int], Path]:
    """(device, inode) -> recording, of those that exist."""
    existing = [(path, path.stat()) for path in recordings if path.exists()]
    return {(status.st_dev, status.st_ino): path for path, status in existing}


def check_job(job: Job, kept: dict[tuple[int, int], Path]) -> None:
    """Raise `UserError` unless the recording is a file and its results can have their names.

    kept: `by_inode` of all recordings of the run; no result may replace one of them.
    """
    check_file(job.recording, "--wav_path")
    out = job.npy.parent
    nearest = existing_folder(out)
    for path in (job.npy, job.result):
        try:
            os.lstat(nearest / path.name)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UserError(
                f"--wav_path {job.recording}: its results cannot have this name "
                f"({reason_of(error)}); rename the recording"
            ) from error
    if job.result.is_dir() and not (job.video and is_picture_folder(job.result)):
        raise UserError(
            f"--out {out}: {job.result} is a folder that holds other things than pictures; "
            "name another --out"
        )
    if job.result.exists():
        status = job.result.stat()
        if replaced := kept.get((status.st_dev, status.st_ino)):
            raise UserError(
                f"--out {out}: the video would replace the recording {replaced}; "
                "name another folder"
            )
