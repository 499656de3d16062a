"""What lies on disk of a prepared data set: its folder, files, clips and frame rate.

Prepared folders of FaceFormer, CodeTalker, SelfTalk and their followers have the same wav/ and
vertices_npy/, but keep templates, topology and masks in one place or another: files are found by
name, so that such a folder is taken as it is.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.paths import relative_to_project
from config import DatasetSpec, Split
from files.arrays import load_npy
from files.meshes import split_key

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
KINDS = ("wav", "vertices_npy")
SUBFOLDERS = ("", "templates", "regions", "masks")  # of a root, where files are looked for
CLIPS_TIMED = 40  # that a data set's frame rate is measured on
RATE_TOLERANCE = 0.1  # of a frame rate, by which frames over seconds may miss it


def find_file(spec: DatasetSpec, named: str) -> Path | None:
    """Where the file of a field of `spec` lies: as written, or by its name in the data's folders.

    named: path, perhaps with ":key". Returns the path, key included, or None.
    """
    path = spec.path(named)
    file, key = split_key(path)
    roots = [spec.path(root) for root in (spec.root, *spec.other_roots)]
    places = [file, *(root / sub / file.name for root in roots for sub in SUBFOLDERS)]
    found = next((place for place in places if place.exists()), None)
    return found if found is None or key is None else found.with_name(f"{found.name}:{key}")


def locate_files(spec: DatasetSpec) -> DatasetSpec:
    """`spec` with topology, templates and regions where they really lie; others stay as named."""
    found = {}
    for field in ("topology", "templates", "lips_region", "upper_region", "inner_lips"):
        named = getattr(spec, field)
        path = find_file(spec, named) if named else None
        if path is not None and path != spec.path(named):
            found[field] = relative_to_project(path)
    return dataclasses.replace(spec, **found)


def locate(spec: DatasetSpec) -> tuple[DatasetSpec, list[str]]:
    """`spec` as it is on disk, and remarks: lines on what differs from the recipe.

    Looked for in `root`, then in `other_roots`. The frame rate is measured on the clips' lengths;
    where no clip has the splits' prefix, all kinds of clips are taken.
    Raises `UserError` naming what is missing and where it comes from.
    """
    root = _find_root(spec)
    place = relative_to_project(root)
    remarks = [f"prepared data found in {place}"] if root != spec.path(spec.root) else []
    spec = locate_files(dataclasses.replace(spec, root=place))
    if not spec.path(spec.templates).exists():
        raise UserError(
            f"{spec.name}: no {Path(spec.templates).name} in {place}; get it: {spec.source}"
        )
    names = sorted(path.stem for path in (root / "vertices_npy").glob("*.npy"))
    prefixes = {split.prefix for split in spec.splits.values()} - {""}
    if prefixes and not any(_sentence(name)[0] in prefixes for name in names):
        splits = {k: dataclasses.replace(split, prefix="") for k, split in spec.splits.items()}
        spec = dataclasses.replace(spec, splits=splits)
        remarks.append(
            f"no clip is named <subject>_{'|'.join(sorted(prefixes))}NN as in the recipe; "
            f"those there are taken ({names[0]}, ...)"
        )
    rate = disk_fps(root, names, spec.fps, spec.source_fps)
    if rate != spec.source_fps:
        remarks.append(f"vertices are stored at {rate} fps (by length), not {spec.source_fps}")
        spec = dataclasses.replace(spec, source_fps=rate)
    return spec, remarks


def _find_root(spec: DatasetSpec) -> Path:
    roots = [spec.path(root) for root in (spec.root, *spec.other_roots)]
    for root in roots:
        if has_clips(root):
            return root
    half = next((r for r in roots for kind in KINDS if (r / kind).is_dir()), roots[0])
    missing = " and ".join(f"{kind}/" for kind in KINDS if not any((half / kind).glob("*")))
    others = "".join(f" or {relative_to_project(root)}" for root in roots if root != half)
    raise UserError(
        f"{spec.name}: no {missing} in {relative_to_project(half)}{others}; get it: {spec.source}"
    )


def has_clips(root: Path) -> bool:
    """Is there something in both folders of prepared clips?"""
    return any((root / "vertices_npy").glob("*.npy")) and any((root / "wav").glob("*"))


def clip_rate(root: Path, name: str) -> float:
    """Frames of a clip over the seconds of its sound."""
    import soundfile

    audio = find_audio(root / "wav", name)
    try:
        info = soundfile.info(audio)
    except soundfile.LibsndfileError as error:
        raise UserError(f"audio {audio}: cannot be read ({error.error_string})") from error
    path = root / "vertices_npy" / f"{name}.npy"
    frames = len(load_npy(path, "vertices", mapped=True))
    if frames == 0 or info.frames == 0:
        raise UserError(f"clip {name}: {frames} frames in {path}, {info.frames} samples of sound")
    return frames * info.samplerate / info.frames


def disk_fps(root: Path, names: list[str], fps: int, expected: int) -> int:
    """The multiple of `fps` at which vertices are stored, from the lengths of some clips:
    `expected` where that fits, else the nearest.

    Audio and frames of real clips never quite agree: 59 to 61 frames a second in VOCASET.
    """
    heard = [name for name in names if find_audio(root / "wav", name, missing_ok=True)]
    chosen = heard[:: max(len(heard) // CLIPS_TIMED, 1)]
    if not chosen:
        return expected
    rates = [clip_rate(root, name) for name in chosen]
    rate = float(np.median(rates))
    nearest = max(round(rate / fps), 1) * fps
    if abs(rate - expected) <= RATE_TOLERANCE * expected:
        return expected
    if abs(rate - nearest) > RATE_TOLERANCE * nearest:
        raise UserError(
            f"{relative_to_project(root)}: {rate:.1f} frames a second of sound "
            f"({chosen[0]}: {rates[0]:.1f}); wanted {fps} or a multiple of it; "
            "are wav/ and vertices_npy/ of the same clips?"
        )
    return nearest


def find_clips(root: Path, split: Split) -> list[tuple[str, str]]:
    """(name, subject) of every clip of `split` under `root`, sorted by name.

    A name is <subject>_<sentence>; the sentence's number is its trailing digits, behind the
    split's prefix if it has one, as in FaceTalk_170725_00137_TA_sentence01, F2_e01 (prefix "e")
    or F2_01. A pair of subject and sentence of which nothing is there is no error (VOCASET lacks
    some); half a pair is. A split that lists `clips` holds these; their subject is the longest of
    its subjects that their name begins with, or its only one.
    """
    audio = {p.stem for p in (root / "wav").glob("*") if p.suffix.lower() in AUDIO_SUFFIXES}
    meshes = {p.stem for p in (root / "vertices_npy").glob("*.npy")}
    found = []
    for name in sorted(set(split.clips) or audio | meshes):
        subject = subject_of(name, split.subjects) if split.clips else _subject_in(name, split)
        if subject is None:
            continue
        if name not in meshes:
            half = ", its wav is there" if name in audio else ""
            raise UserError(f"{root / 'vertices_npy' / name}.npy: missing{half}")
        if name not in audio:
            raise UserError(f"{root / 'wav' / name}.wav: missing, its vertices are there")
        found.append((name, subject))
    return found


def _subject_in(name: str, split: Split) -> str | None:
    subject = name.rpartition("_")[0]
    prefix, number = _sentence(name)
    if subject not in split.subjects or number not in split.sentences:
        return None
    return subject if split.prefix in ("", prefix) else None


def _sentence(name: str) -> tuple[str, int]:
    """("e", 1) of F2_e01, ("sentence", 12) of ..._sentence12; (..., -1) without a number."""
    parts = re.fullmatch(r"(.*?)(\d*)", name.rpartition("_")[2])
    return parts[1], int(parts[2] or -1)


def subject_of(name: str, subjects: tuple[str, ...]) -> str | None:
    """The longest of `subjects` that a clip's name begins with; the only one serves every clip."""
    if len(subjects) == 1:
        return subjects[0]
    begun = [s for s in subjects if re.match(rf"{re.escape(s)}(?![^\W_])", name)]
    return max(begun, key=len, default=None)


def find_audio(folder: Path, name: str, missing_ok: bool = False) -> Path | None:
    """The sound of a clip; `UserError` (or None) where there is none."""
    for suffix in AUDIO_SUFFIXES:
        if (path := folder / f"{name}{suffix}").exists():
            return path
    if missing_ok:
        return None
    raise UserError(f"{folder / name}.wav: missing")
