"""The raw download of B3D(AC)^2: where the frames, audio and neutral scan of each clip are."""

import re
from dataclasses import dataclass
from pathlib import Path

from BIWI.prepared import has_prepared_layout
from common.errors import UserError
from config import PROJECT_ROOT
from files.listing import on_disk
from files.names import check_name

RAW_FOLDERS = ("BIWI/data/raw", "BIWI/data", "BIWI")  # searched without --raw
FACES, SCANS = "faces", "rigid_scans"
ARCHIVES = (".tar", ".tgz", ".tar.gz")
AUDIO = ("audio/{}_cut.wav", "videos/{}.flv", "wav/{}.wav", "audio/{}.wav")  # first match is used
# e01: with emotion, used by FaceFormer and its followers; 01: neutral.
SENTENCES = {"emotional": r"e\d\d", "neutral": r"\d\d", "all": r"e?\d\d"}
SOURCE = (
    "expected B3D(AC)^2, the 3D audiovisual corpus of ETH Zurich, or a folder prepared for "
    "CodeTalker; its page is closed, see BIWI/README.md (the Kinect head pose data set, also "
    "called Biwi, is a different one)"
)


@dataclass(frozen=True)
class Clip:
    """One sentence of the raw download."""

    subject: str
    name: str  # <subject>_<sentence>
    sources: tuple[Path, ...]  # folder or archives; one of them holds the .vl files
    audio: Path | None
    scan: Path  # the subject's neutral scan


def find_raw(given: str | None) -> Path:
    """The raw or prepared folder; raises `UserError` naming what is missing and its source."""
    folders = [Path(given)] if given else [PROJECT_ROOT / folder for folder in RAW_FOLDERS]
    best = min(folders, key=lambda folder: len(_missing(folder)))
    if is_raw(best):
        return best
    for folder in folders:
        if has_prepared_layout(folder):
            return folder
        if any(folder.glob(f"{FACES}*.tgz")):
            raise UserError(
                f"{folder}: archives not unpacked; unpack each with tar xzf in that folder"
            )
    raise UserError(f"{best}: {'/, '.join(_missing(best))}/ missing; {SOURCE}")


def is_raw(folder: Path) -> bool:
    """Whether `folder` holds the raw download."""
    return not _missing(folder)


def _missing(folder: Path) -> list[str]:
    return [name for name in (FACES, SCANS) if not (folder / name).is_dir()]


def list_clips(raw: Path, sentences: str = "emotional") -> list[Clip]:
    """The clips of `sentences` (a key of SENTENCES), sorted by name.

    Raises `UserError` if there are none, or if a subject has no neutral scan or a bad name.
    """
    pattern = re.compile(SENTENCES[sentences])
    clips = []
    folders = sorted(path for path in (raw / FACES).iterdir() if path.is_dir())
    for folder in (path for path in folders if not path.name.startswith(".")):
        subject = check_name(folder.name, str(folder.parent))
        scan = on_disk(raw / SCANS / f"{subject}.obj")
        scan = scan if scan.is_file() else on_disk(scan.with_suffix(".OBJ"))
        sources: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir(), key=_priority):
            sentence = path.name if path.is_dir() else _stem(path.name)
            if sentence is not None and pattern.fullmatch(sentence):
                sources.setdefault(sentence, []).append(path)
        if sources and not scan.is_file():
            scan = scan.with_suffix(".obj")
            raise UserError(f"{scan}: missing, the neutral scan of {subject}; {SOURCE}")
        for sentence in sorted(sources):
            name = f"{subject}_{sentence}"
            audio = next(filter(Path.is_file, (raw / a.format(name) for a in AUDIO)), None)
            clips.append(Clip(subject, name, tuple(sources[sentence]), audio, scan))
    if not clips:
        example = "01" if sentences == "neutral" else "e01"
        raise UserError(
            f"{raw / FACES}: no {sentences} sentences, expected <subject>/{example}.tar, .tgz "
            "or a folder; unpack the download's faces*.tgz, or choose other --sentences"
        )
    return clips


def _priority(path: Path) -> int:
    return 0 if path.is_dir() else 1 + path.name.endswith("gz")  # a .tgz may hold only textures


def _stem(name: str) -> str | None:
    return next((name.removesuffix(end) for end in ARCHIVES if name.endswith(end)), None)
