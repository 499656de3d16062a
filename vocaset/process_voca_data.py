"""VOCASET's raw download to the files that training reads.

    python vocaset/process_voca_data.py [--raw DIR] [--out DIR]

Raw: data_verts.npy ((N, V, 3) meshes of all clips), subj_seq_to_idx.pkl (subject -> sentence ->
frame -> row of data_verts), raw_audio_fixed.pkl (subject -> sentence -> {"audio", "sample_rate"}),
templates.pkl. Out: wav/<subject>_<sentence>.wav, vertices_npy/<subject>_<sentence>.npy
((frames, V*3) float32 at the raw 60 fps, as in FaceFormer), templates.pkl.

Memory stays low: meshes are read clip by clip, and the arrays of the audio pickle go to a scratch
file. Every file is written whole or not at all, so the same command continues a run that was
stopped. raw_files.json records size and time of the raw files; when they change, all clips are made
again.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a plain script

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import Parser, UserError, run_cli, writable_folder
from common.whole_file import whole_file, write_whole
from config import PROJECT_ROOT, VOCASET
from dataset.clip_files import (
    cut_report,
    cut_to_shorter,
    is_prepared,
    make_folders,
    write_clip,
)
from dataset.prepared import has_clips
from files.arrays import load_npy
from files.meshes import load_templates
from files.names import by_name
from files.pickles import load_pickle
from speech.resampling import RATES
from vocaset.streamed_pickle import SpilledArray, StreamedPickleReader

SOURCE_FPS = VOCASET.source_fps  # 60, the capture rate
VERTS, INDEX, AUDIO, TEMPLATES = RAW_FILES = (
    "data_verts.npy",
    "subj_seq_to_idx.pkl",
    "raw_audio_fixed.pkl",
    "templates.pkl",
)
RECORD = "raw_files.json"  # in the prepared folder
SOURCE = 'sign in at https://voca.is.tue.mpg.de and download "Training Data (8 GB)"'
RAW_FOLDERS = ("vocaset/data/raw", "vocaset/data", "vocaset")  # searched without --raw
MAX_INDEX = 2**31 - 1  # of a frame or row
MAX_GAP = 6  # consecutive missing frames (0.1 s) that are interpolated
PCM_MAX = 2**15 - 1


def clip_vertices(verts: Path, frame_rows: dict[int, int], name: str) -> tuple[NDArray, int, int]:
    """(vertices (frames, V*3) float32, number of the first frame, number of interpolated frames).

    frame_rows: frame -> row of data_verts.npy. Missing frames are interpolated linearly, up to
    0.1 s in a row; a longer gap raises `UserError`.
    """
    if not frame_rows:
        raise UserError(f"{INDEX}: {name} has no frames; download it again")
    numbers = np.array(sorted(frame_rows))
    rows = np.array([frame_rows[number] for number in numbers.tolist()])
    stored = _open_verts(verts)  # opened for each clip, so that its pages leave memory
    if rows.max() >= len(stored):
        raise UserError(
            f"{INDEX}: {name} refers to row {rows.max()} of {verts}, expected less than "
            f"{len(stored)}; download both again"
        )
    if len(rows) > len(stored):
        raise UserError(
            f"{INDEX}: {name} has {len(rows)} frames, {verts} only {len(stored)}; "
            "download both again"
        )
    gap = int(np.diff(numbers, prepend=numbers[0]).max()) - 1
    if gap > MAX_GAP:
        raise UserError(
            f"{INDEX}: {name} lacks {gap} frames in a row, expected at most {MAX_GAP}; "
            "download it again"
        )
    vertices = np.array(stored[rows], dtype=np.float32).reshape(len(rows), -1)
    del stored
    if not np.isfinite(vertices).all():
        raise UserError(f"{verts}: {name} has NaN or infinite coordinates; download it again")
    all_numbers = np.arange(numbers[0], numbers[-1] + 1)
    n_filled = len(all_numbers) - len(numbers)
    if n_filled:
        vertices = _interpolate(vertices, numbers, all_numbers)
    return vertices, int(numbers[0]), n_filled


def _interpolate(vertices: NDArray, numbers: NDArray, target: NDArray) -> NDArray[np.float32]:
    """`vertices` of the frames `numbers`, linearly interpolated at the frames `target`."""
    right = np.searchsorted(numbers, target).clip(min=1)
    left = right - 1
    weight = (target - numbers[left]) / (numbers[right] - numbers[left])
    weight = weight.astype(np.float32)[:, None]
    return vertices[left] * (1 - weight) + vertices[right] * weight


def clip_audio(clip: dict[str, Any], name: str) -> tuple[NDArray[np.int16], int]:
    """(samples (S,) int16 mono, rate in Hz) of one entry of raw_audio_fixed.pkl."""
    if not isinstance(clip.get("audio"), SpilledArray):
        raise UserError(f'{AUDIO}: {name}: expected {{"audio": array, "sample_rate": number}}')
    rate = clip.get("sample_rate", 0)
    low, high = RATES
    if not isinstance(rate, int | float | np.generic) or not low <= rate <= high:
        raise UserError(
            f"{AUDIO}: {name}: sample rate {_shown(rate)}, expected {low:,} to {high:,} Hz; "
            "download it again"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow is reported here
        audio = _mono(clip["audio"].read())
        if audio.ndim != 1 or audio.size == 0 or not np.isfinite(audio).all():
            raise UserError(f"{AUDIO}: {name}: expected finite samples, shape {audio.shape}")
    return _as_pcm(audio), int(rate)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float | np.generic) else type(value).__name__


def _mono(audio: NDArray) -> NDArray:
    """The mean over the shorter axis, the channels, of samples with two axes."""
    if audio.dtype == np.float16:
        audio = audio.astype(np.float32)
    return audio.mean(axis=int(np.argmin(audio.shape))) if audio.ndim == 2 else audio


def _as_pcm(audio: NDArray) -> NDArray[np.int16]:
    """Samples (S,) as 16 bit; the full scale of floats is 1, or already that of 16 bit."""
    low, high = -PCM_MAX - 1, PCM_MAX
    if audio.dtype.kind == "f":
        scale = PCM_MAX if np.abs(audio).max() <= 1 else 1
        return np.round(audio * scale).clip(low, high).astype(np.int16)
    return audio.astype(np.float64).clip(low, high).astype(np.int16)  # all integers fit in it


def _open_verts(verts: Path) -> NDArray:
    stored = load_npy(verts, "meshes", mapped=True)
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise UserError(f"{verts}: shape {stored.shape}, expected (frames, V, 3)")
    return stored


def find_raw(given: str | None) -> Path:
    """The folder with the four raw files; `UserError` naming missing files and their source."""
    folders = [Path(given)] if given else [PROJECT_ROOT / folder for folder in RAW_FOLDERS]
    missing = {folder: [f for f in RAW_FILES if not (folder / f).is_file()] for folder in folders}
    best = min(folders, key=lambda folder: len(missing[folder]))
    if missing[best]:
        raise UserError(
            f"{best}: {', '.join(missing[best])} missing; {SOURCE}, or give its folder with --raw"
        )
    return best


def find_prepared() -> Path | None:
    """A folder of clips already prepared by this script or by another project."""
    folders = (PROJECT_ROOT / root for root in (VOCASET.root, *VOCASET.other_roots))
    return next(filter(has_clips, folders), None)


def read_index(path: Path) -> dict[str, dict[str, dict[int, int]]]:
    """Subject -> sentence -> frame -> row of data_verts.npy, as plain ints.

    Raises `UserError` for another layout, a name that is no file name, or a number out of range.
    """
    index = _clips_by_name(load_pickle(path, "index"), path, "frame -> row")
    numbers: dict[str, dict[str, dict[int, int]]] = {}
    for subject, sentences in index.items():
        for sentence, rows in sentences.items():
            if not all(_is_index(number) for pair in rows.items() for number in pair):
                raise UserError(
                    f"{path}: {subject}_{sentence}: expected frame -> row, integers from 0; "
                    "download it again"
                )
            plain = {int(frame): int(row) for frame, row in rows.items()}
            numbers.setdefault(subject, {})[sentence] = plain
    return numbers


def _is_index(number: Any) -> bool:
    return isinstance(number, int | np.integer) and 0 <= number <= MAX_INDEX


def read_audio(path: Path, scratch: BinaryIO) -> dict[str, dict[str, Any]]:
    """Subject -> sentence -> entry of raw_audio_fixed.pkl, its arrays in the file `scratch`.

    Raises `UserError` for another layout, or for a name that is no file name.
    """
    content = load_pickle(path, "audio", lambda file: StreamedPickleReader(file, scratch))
    return _clips_by_name(content, path, '{"audio": array, "sample_rate": number}')


def _clips_by_name(content: Any, path: Path, entry: str) -> dict[str, dict[str, Any]]:
    """Subject -> sentence -> entry of a pickle, with checked names and only dicts as entries."""
    subjects = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(sentences, dict) for sentences in subjects) or not all(
        isinstance(clip, dict) for sentences in subjects for clip in sentences.values()
    ):
        raise UserError(f"{path}: expected subject -> sentence -> {entry}; download it again")
    subjects = by_name(content.items(), str(path))
    clips = {subject: by_name(part.items(), str(path)) for subject, part in subjects.items()}
    names = (f"{subject}_{sentence}" for subject, part in clips.items() for sentence in part)
    by_name(((name, None) for name in names), str(path))
    return clips


def process(raw: Path, out: Path, report: Callable[[str], None] = tqdm.write) -> int:
    """Write every clip of `raw` that is missing in `out`; returns how many were written.

    Where the raw files have changed since the clips were made, all are written. report: gets one
    line for each clip that was cut by a frame or more, interpolated or left out.
    """
    index = read_index(raw / INDEX)
    n_vertices = _check_templates(raw, index)
    clips = [(subject, s) for subject in sorted(index) for s in sorted(index[subject])]
    make_folders(writable_folder(out))
    files, all_again = _compare_record(raw, out)
    todo = [clip for clip in clips if all_again or not is_prepared(out, "_".join(clip))]
    print(f"{len(clips)} clips, {n_vertices} vertices; {len(clips) - len(todo)} already prepared")
    _write_record(out, files, all_again)
    if raw.resolve() != out.resolve():
        with whole_file(out / TEMPLATES) as partial:
            shutil.copyfile(raw / TEMPLATES, partial)
    n_written = _write_clips(raw, out, index, todo, report) if todo else 0
    _write_record(out, files, all_again=False)
    return n_written


def _compare_record(raw: Path, out: Path) -> tuple[dict[str, list[int]], bool]:
    """Size and time of each raw file, and whether clips of other raw files may be in `out`.

    Clips without a record, such as those of another project, are used as they are.
    """
    stats = {name: (raw / name).stat() for name in (VERTS, INDEX, AUDIO)}
    files = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return files, False
    except (ValueError, RecursionError):  # damaged: nothing is known about the clips
        return files, True
    record = record if isinstance(record, dict) else {}
    changed = record.get("files") != files
    if changed:
        print(f"{raw}: the raw files have changed since the clips were made; all are made again")
    return files, changed or record.get("all_again") is not False


def _write_record(out: Path, files: dict[str, list[int]], all_again: bool) -> None:
    """Record the raw files; all_again: clips of others may be left if the run stops now."""
    path, content = out / RECORD, json.dumps({"files": files, "all_again": all_again}) + "\n"
    if not path.exists() or path.read_bytes() != content.encode():
        write_whole(path, content)


def _check_templates(raw: Path, index: dict[str, Any]) -> int:
    """The number of vertices; raises `UserError` for a subject without a template of that size."""
    templates = load_templates(raw / TEMPLATES)
    n_vertices = _open_verts(raw / VERTS).shape[1]
    for subject in index:
        if len(templates.get(subject, ())) != n_vertices:
            raise UserError(
                f"{raw / TEMPLATES}: no mesh of {n_vertices} vertices for {subject}; "
                "is it the file of the same download?"
            )
    return n_vertices


def _write_clips(
    raw: Path,
    out: Path,
    index: dict[str, dict[str, dict[int, int]]],
    todo: list[tuple[str, str]],
    report: Callable[[str], None],
) -> int:
    written = 0
    with _scratch_file(out) as scratch:
        print(f"reading {raw / AUDIO} ...")
        audio = read_audio(raw / AUDIO, scratch)
        for subject, sentence in tqdm(todo, unit="clip", disable=None):
            name = f"{subject}_{sentence}"
            if sentence not in audio.get(subject, {}):
                report(f"{name}: left out, no audio in {AUDIO}")
                continue
            clip = audio[subject][sentence]
            _write_clip(raw / VERTS, out, name, index[subject][sentence], clip, report)
            written += 1
    for subject, sentence in sorted((s, q) for s in audio for q in audio[s]):
        if sentence not in index.get(subject, {}):
            report(f"{subject}_{sentence}: left out, no frames in {INDEX}")
    return written


@contextmanager
def _scratch_file(folder: Path) -> Iterator[BinaryIO]:
    """A nameless file on the disk of `folder`, which a write that the disk refuses names."""
    try:
        with tempfile.TemporaryFile(dir=folder) as scratch:
            yield scratch
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise


def _write_clip(
    verts: Path,
    out: Path,
    name: str,
    frame_rows: dict[int, int],
    clip: Any,
    report: Callable[[str], None],
) -> None:
    vertices, first_frame, n_filled = clip_vertices(verts, frame_rows, name)
    audio, rate = clip_audio(clip, name)
    vertices, audio, surplus_s = cut_to_shorter(vertices, audio, rate, SOURCE_FPS, first_frame)
    if len(vertices) == 0:
        raise UserError(f"{AUDIO}: {name}: shorter than one frame; download it again")
    if n_filled:
        report(f"{name}: {n_filled} frames missing in {INDEX} were interpolated")
    if line := cut_report(name, surplus_s, SOURCE_FPS):
        report(line)
    write_clip(out, name, vertices, audio, rate)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, check, convert, print where the result is."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", help="folder of the four raw files (default: vocaset/data/raw)")
    parser.add_argument("--out", help="folder to write to (default: vocaset/data)")
    args = parser.parse_args(argv)
    prepared = None if args.raw or args.out else find_prepared()
    try:
        raw = find_raw(args.raw)
    except UserError:
        if prepared is None:
            raise
        print(f"{prepared} is already prepared; continue with python main.py --dataset vocaset")
        return
    out = Path(args.out) if args.out else PROJECT_ROOT / VOCASET.root
    written = process(raw, out)
    print(f"{written} clips written to {out}: wav/, vertices_npy/, {TEMPLATES}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
