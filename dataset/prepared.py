"""A prepared data set on disk: its folder, files, clips and frame rate.

Folders prepared for FaceFormer, CodeTalker, SelfTalk and their followers share wav/ and
vertices_npy/, but keep templates, topology and masks in different places. Files are searched for
by name, so such a folder is used as it is.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.frame_rates import parse_rate, rate_text, stored_rate
from common.paths import relative_to_project
from config import DatasetSpec, Split
from dataset.clip_files import audio_files, find_audio, mesh_files, npy_path, wav_path
from files.arrays import load_npy
from files.listing import on_disk, plain_name
from files.meshes import load_templates, split_key
from speech.audio import length_of

SUBFOLDERS = ("", "templates", "regions", "masks")  # of a root, searched for files
CLIPS_TIMED = 40  # clips that the frame rate of a data set is measured on
SAME_FACE_M = 1e-4  # metres: neutral faces that differ by less are the same
RATE_TOLERANCE = 0.1  # relative: accepted difference of the measured frame rate


def find_file(spec: DatasetSpec, named: str) -> Path | None:
    """Where a file of `spec` is: at the path as written, or by its name in the data's folders.

    named: path, perhaps with ":key". Returns the path with its key, or None.
    """
    path = spec.path(named)
    file, key = split_key(path)
    roots = [spec.path(root) for root in (spec.root, *spec.other_roots)]
    places = [file, *(root / sub / file.name for root in roots for sub in SUBFOLDERS)]
    existing = next((place for place in map(on_disk, places) if place.exists()), None)
    if existing is None or key is None:
        return existing
    return existing.with_name(f"{existing.name}:{key}")


def locate_files(spec: DatasetSpec) -> DatasetSpec:
    """`spec` with the paths at which topology, templates and regions exist; others unchanged."""
    moved = {}
    for field in ("topology", "templates", "lips_region", "upper_region", "inner_lips"):
        named = getattr(spec, field)
        path = find_file(spec, named) if named else None
        if path is not None and path != spec.path(named):
            moved[field] = relative_to_project(path)
    return dataclasses.replace(spec, **moved)


def locate(spec: DatasetSpec) -> tuple[DatasetSpec, list[str]]:
    """`spec` as it is on disk, and one line for each difference from the recipe.

    The clips are in `root` or one of `other_roots`. The frame rate is measured on the clips'
    lengths; of own data (splits that list their clips), it has to fit every clip. If no clip has
    the prefix of the splits, clips of any prefix are used.
    Raises `UserError` naming what is missing and its source.
    """
    root = _find_root(spec)
    place = relative_to_project(root)
    remarks = [f"prepared data found in {place}"] if root != spec.path(spec.root) else []
    spec = locate_files(dataclasses.replace(spec, root=place))
    if not spec.path(spec.templates).exists():
        raise UserError(
            f"{spec.name}: no {Path(spec.templates).name} in {place}; get it: {spec.source}"
        )
    names = list(mesh_files(root))
    prefixes = {split.prefix for split in spec.splits.values()} - {""}
    if prefixes and not any(_sentence(name)[0] in prefixes for name in names):
        splits = {k: dataclasses.replace(split, prefix="") for k, split in spec.splits.items()}
        spec = dataclasses.replace(spec, splits=splits)
        remarks.append(
            f"no clip is named <subject>_{'|'.join(sorted(prefixes))}NN as in the recipe; "
            f"using the others ({names[0]}, ...)"
        )
    expected = parse_rate(spec.source_fps, f"{spec.name}: source_fps")
    own = {clip for split in spec.splits.values() for clip in split.clips}
    if own:
        present = own & audio_files(root).keys() & set(names)
        lengths = {name: clip_length(root, name) for name in sorted(present)}
        allowed_s = allowed_drift_s(expected, spec.fps, spec.max_drift_s)
        check_drift(root, lengths, expected, allowed_s)
        return spec, remarks
    rate = disk_fps(root, names, spec.fps, expected)
    if rate != expected:
        remarks.append(
            f"vertices are stored at {rate_text(rate)} fps (by length), not {rate_text(expected)}"
        )
        spec = dataclasses.replace(spec, source_fps=stored_rate(rate))
    return spec, remarks


def _find_root(spec: DatasetSpec) -> Path:
    roots = [spec.path(root) for root in (spec.root, *spec.other_roots)]
    for root in roots:
        if has_clips(root):
            return root
    files = {"wav": audio_files, "vertices_npy": mesh_files}
    partial = next((r for r in roots for kind in files if (r / kind).is_dir()), roots[0])
    missing = " and ".join(f"{kind}/" for kind, list_of in files.items() if not list_of(partial))
    others = "".join(f" or {relative_to_project(root)}" for root in roots if root != partial)
    raise UserError(
        f"{spec.name}: no {missing} in {relative_to_project(partial)}{others}; "
        f"get it: {spec.source}"
    )


def has_clips(root: Path) -> bool:
    """Whether both folders of a prepared data set hold files."""
    return bool(mesh_files(root)) and bool(audio_files(root))


@dataclass(frozen=True)
class ClipLength:
    """Frames of a clip's vertices and the seconds of its audio, exact."""

    frames: int
    sound_s: Fraction

    @property
    def rate(self) -> Fraction:
        """Frames per second of audio."""
        return self.frames / self.sound_s


Lengths = Mapping[str, ClipLength]  # of clips, by name


def clip_length(root: Path, name: str) -> ClipLength:
    """The length of both files of a clip; `UserError` if one is empty or cannot be read."""
    audio, path = find_audio(root, name), npy_path(root, name)
    sound_s = length_of(audio)
    frames = len(load_npy(path, "vertices", mapped=True))
    if frames == 0 or sound_s == 0:
        raise UserError(
            f"clip {name}: {frames} frames in {path}, {float(sound_s):.2f} s of sound in {audio}; "
            "expected some of each"
        )
    return ClipLength(frames, sound_s)


def drift_s(length: ClipLength, rate: Fraction) -> Fraction:
    """Seconds by which the motion of a clip at `rate` is longer than its sound (< 0: shorter)."""
    return length.frames / rate - length.sound_s


def allowed_drift_s(source: Fraction, fps: int, max_drift_s: float = 0.0) -> Fraction:
    """`max_drift_s`, but at least a frame of the slower of capture and network."""
    return max(1 / min(source, Fraction(fps)), Fraction(max_drift_s))


def check_drift(root: Path, lengths: Lengths, source: Fraction, allowed_s: Fraction) -> None:
    """Raise `UserError` naming the clip whose sound and motion differ most, if by too much."""
    drifts = {name: abs(drift_s(length, source)) for name, length in lengths.items()}
    n_drifting = sum(drift > allowed_s for drift in drifts.values())
    if not n_drifting:
        return
    name = max(drifts, key=drifts.__getitem__)
    length = lengths[name]
    others = f" ({n_drifting} clips differ by too much)" if n_drifting > 1 else ""
    raise UserError(
        f"{npy_path(root, name)}: {measured_text(length.rate, source)} frames per second of its "
        f"audio, expected {rate_text(source)}: {length.frames} frames last "
        f"{float(length.frames / source):.3f} s, wav/{find_audio(root, name).name} lasts "
        f"{float(length.sound_s):.3f} s; {float(drifts[name]):.3f} s apart, expected at most "
        f"{float(allowed_s):.3f} s{others}; cut both to one take; if the lengths may differ, set "
        '"source_fps" and "max_drift_s" in dataset.json'
    )


def measured_text(rate: Fraction, expected: Fraction) -> str:
    """A measured rate, with the digits that tell it from the expected one."""
    return f"{float(rate):.{1 if abs(rate - expected) >= 0.1 else 3}f}"


def disk_fps(root: Path, names: list[str], fps: int, expected: Fraction | int) -> Fraction:
    """The multiple of `fps` at which vertices are stored, measured on the lengths of some clips.

    `expected` where that fits, else the nearest multiple. Audio and frames of real clips differ a
    little in length: 59 to 61 frames a second in VOCASET. Raises `UserError` if none fits.
    """
    audio = audio_files(root)
    with_audio = [name for name in names if name in audio]
    timed = with_audio[:: max(len(with_audio) // CLIPS_TIMED, 1)]
    if not timed:
        return Fraction(expected)
    rates = {name: float(clip_length(root, name).rate) for name in timed}
    rate = float(np.median(list(rates.values())))
    nearest = Fraction(max(round(rate / fps), 1) * fps)
    if abs(rate - expected) <= RATE_TOLERANCE * expected:
        return Fraction(expected)
    if abs(rate - nearest) > RATE_TOLERANCE * nearest:
        first = next(iter(rates))
        raise UserError(
            f"{relative_to_project(root)}: {rate:.1f} frames per second of audio "
            f"({first}: {rates[first]:.1f}), expected {fps} or a multiple; "
            "do wav/ and vertices_npy/ hold the same clips?"
        )
    return nearest


def check_prepared_with(spec: DatasetSpec, templates: Mapping[str, NDArray]) -> None:
    """Raise `UserError` where the data were prepared with other neutral faces than `templates`.

    Preparation leaves the faces of the data in `templates.pkl` beside the clips. Vertices made with
    an earlier head would be compared with the neutral faces of the present one.
    """
    path = spec.path(spec.root) / "templates.pkl"
    if path == spec.path(spec.templates) or not path.exists():
        return
    for name, face in load_templates(path).items():
        now = templates.get(name)
        if now is None or now.shape != face.shape:
            continue
        apart = float(np.abs(now - face).max()) * spec.metres_per_unit
        if apart > SAME_FACE_M:
            place = relative_to_project(path)
            raise UserError(
                f"{spec.name}: the neutral face of {name} in {place} differs by "
                f"{1000 * apart:.1f} mm from that in {spec.templates}: the data were prepared with "
                "an earlier head; prepare them again"
            )


def find_clips(root: Path, split: Split) -> list[tuple[str, str]]:
    """(name, subject) of every clip of `split` under `root`, sorted by name.

    A name is <subject>_<sentence>. The sentence is a number after the split's prefix if it has
    one, as in FaceTalk_170725_00137_TA_sentence01, F2_e01 (prefix "e") or F2_01. A sentence of
    which both files are missing is skipped (VOCASET lacks some); one missing file raises
    `UserError`. If the split lists `clips`, these are used; see `subject_of` for their subjects.
    """
    audio, meshes = audio_files(root), mesh_files(root)
    clips = []
    for name in sorted(set(map(plain_name, split.clips)) or audio.keys() | meshes.keys()):
        subject = subject_of(name, split.subjects) if split.clips else _subject_in(name, split)
        if subject is None:
            continue
        if name not in meshes:
            reason = ", its audio exists" if name in audio else ""
            raise UserError(f"{npy_path(root, name)}: missing{reason}")
        if name not in audio:
            raise UserError(f"{wav_path(root, name)}: missing, its vertices exist")
        clips.append((name, subject))
    return clips


def first_clip(split: Split) -> str:
    """The name of the first clip that `split` expects, as in VOCASET's and BIWI's folders."""
    if split.clips:
        return split.clips[0]
    return f"{split.subjects[0]}_{split.prefix or 'sentence'}{split.sentences[0]:02d}"


def _subject_in(name: str, split: Split) -> str | None:
    subject = name.rpartition("_")[0]
    prefix, number = _sentence(name)
    if subject not in split.subjects or number not in split.sentences:
        return None
    return subject if split.prefix in ("", prefix) else None


def _sentence(name: str) -> tuple[str, int]:
    """("e", 1) for F2_e01, ("sentence", 12) for ..._sentence12; (..., -1) without a number."""
    parts = re.fullmatch(r"(.*?)(\d*)", name.rpartition("_")[2])
    return parts[1], int(parts[2] or -1)


def subject_of(name: str, subjects: tuple[str, ...]) -> str | None:
    """The longest of `subjects` with which a clip's name begins; a single subject owns all clips.

    The subject has to end at a word boundary: F1 owns F1_e01 but not F12_e01.
    """
    if len(subjects) == 1:
        return subjects[0]
    matching = [s for s in subjects if re.match(rf"{re.escape(s)}(?![^\W_])", name)]
    return max(matching, key=len, default=None)
