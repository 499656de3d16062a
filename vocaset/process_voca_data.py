"""VOCASET's raw download to the files that training reads.

    python vocaset/process_voca_data.py [--raw DIR] [--out DIR]

Raw: data_verts.npy ((N, V, 3) meshes of all clips), subj_seq_to_idx.pkl (subject -> sentence ->
frame -> row of data_verts), raw_audio_fixed.pkl (subject -> sentence -> {"audio", "sample_rate"}),
templates.pkl. Out: wav/<subject>_<sentence>.wav, vertices_npy/<subject>_<sentence>.npy
((frames, V*3) float32 at the raw 60 fps, as FaceFormer prepares it), templates.pkl.

Nothing large is held in memory: meshes are read clip by clip, and the arrays of the audio pickle
go to a scratch file as they are met. Every file is written under a temporary name and renamed, so
a run that was stopped is taken up again by the same command.
"""

import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a plain script

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import Parser, UserError, run_cli
from config import PROJECT_ROOT, VOCASET
from dataset.prepared import has_clips
from files.arrays import find_known, load_npy, load_pickle
from files.meshes import load_templates

SOURCE_FPS = 60  # VOCASET's capture rate
VERTS, INDEX, AUDIO, TEMPLATES = RAW_FILES = (
    "data_verts.npy",
    "subj_seq_to_idx.pkl",
    "raw_audio_fixed.pkl",
    "templates.pkl",
)
WHERE = 'sign in at https://voca.is.tue.mpg.de and take "Training Data (8 GB)"'
RAW_FOLDERS = ("vocaset/data/raw", "vocaset/data", "vocaset")  # searched when --raw is not given
MAX_GAP = 6  # frames missing in a row (0.1 s) that interpolation may bridge
LONGEST_KEPT = 1 << 16  # bytes: longer strings of a pickle are sound, and not remembered
PCM_MAX = 2**15 - 1


@dataclass
class SpilledArray:
    """An array of a pickle whose numbers lie in a scratch file."""

    file: BinaryIO
    offset: int = 0
    shape: tuple[int, ...] = (0,)
    dtype: np.dtype = np.dtype(np.int16)
    order: str = "C"

    def __setstate__(self, state: tuple) -> None:
        """Take numpy's (version, shape, dtype, is_fortran, data), and keep the data on disk."""
        *_, shape, dtype, is_fortran, data = state
        if dtype.hasobject:
            raise pickle.UnpicklingError("an array of Python objects")
        content = data.encode("latin1") if isinstance(data, str) else data  # str: from Python 2
        self.store(content, dtype, shape, "F" if is_fortran else "C")

    def store(self, content: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> None:
        """Append `content` (bytes) to the scratch file."""
        if len(memoryview(content).cast("B")) != int(np.prod(shape)) * dtype.itemsize:
            raise pickle.UnpicklingError(f"an array of shape {shape} with too few or many bytes")
        self.offset = self.file.seek(0, os.SEEK_END)
        self.file.write(content)
        self.shape, self.dtype, self.order = tuple(shape), dtype, order

    def read(self) -> NDArray:
        """The array itself."""
        self.file.seek(self.offset)
        count = int(np.prod(self.shape))
        content = self.file.read(count * self.dtype.itemsize)
        return np.frombuffer(content, self.dtype).reshape(self.shape, order=self.order)


class _ShortMemory(dict):
    """A pickle's memo that forgets the bytes of arrays, alone or in a tuple of arguments.

    Nothing refers to them twice: an array that appears twice is remembered as an array.
    """

    def __setitem__(self, key: int, value: Any) -> None:
        parts = value if isinstance(value, tuple) else (value,)
        super().__setitem__(key, None if any(map(_is_long, parts)) else value)


def _is_long(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | str) and len(value) > LONGEST_KEPT


class StreamingUnpickler(pickle._Unpickler):
    """The restricted unpickler with every array as a `SpilledArray` in the file `scratch`.

    It is Python's own unpickler in Python: the one in C keeps every string until the end.
    """

    def __init__(self, file: BinaryIO, scratch: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")
        self.memo = _ShortMemory()
        self._scratch = scratch

    def find_class(self, module: str, name: str) -> Any:
        """See `files.arrays.find_known`; numpy's two ways to make an array are replaced."""
        known = find_known(module, name)
        if name == "_reconstruct":
            return lambda *_: SpilledArray(self._scratch)
        if name == "_frombuffer":
            return self._spill_buffer
        return known

    def _spill_buffer(
        self, content: Any, dtype: np.dtype, shape: tuple[int, ...], order: str
    ) -> SpilledArray:
        array = SpilledArray(self._scratch)
        array.store(content, dtype, shape, order)
        return array


def clip_vertices(verts: Path, frame_rows: dict[int, int], name: str) -> tuple[NDArray, int, int]:
    """(vertices (frames, V*3) float32, number of the first frame, frames filled in).

    Frames that the index lacks are interpolated between their neighbours, up to 0.1 s of them.
    """
    if not frame_rows:
        raise UserError(f"{INDEX}: {name} has no frames")
    numbers = np.array(sorted(frame_rows))
    rows = np.array([frame_rows[number] for number in numbers.tolist()])
    stored = _open_verts(verts)  # opened for each clip, so that its pages leave memory
    if rows.min() < 0 or rows.max() >= len(stored):
        raise UserError(f"{INDEX}: {name} wants row {rows.max()}; {verts} has {len(stored)} rows")
    vertices = np.array(stored[rows], dtype=np.float32).reshape(len(rows), -1)
    del stored
    if not np.isfinite(vertices).all():
        raise UserError(f"{verts}: {name} has NaN or infinite coordinates; download it again")
    wanted = np.arange(numbers[0], numbers[-1] + 1)
    n_filled = len(wanted) - len(numbers)
    if n_filled:
        if np.diff(numbers).max() > MAX_GAP + 1:
            raise UserError(f"{INDEX}: {name} lacks {np.diff(numbers).max() - 1} frames in a row")
        vertices = _fill(vertices, numbers, wanted)
    return vertices, int(numbers[0]), n_filled


def _fill(vertices: NDArray, numbers: NDArray, wanted: NDArray) -> NDArray[np.float32]:
    right = np.searchsorted(numbers, wanted).clip(min=1)
    left = right - 1
    weight = (wanted - numbers[left]) / (numbers[right] - numbers[left])
    weight = weight.astype(np.float32)[:, None]
    return vertices[left] * (1 - weight) + vertices[right] * weight


def clip_audio(clip: Any, name: str) -> tuple[NDArray[np.int16], int]:
    """(samples (S,) int16 mono, rate in Hz) of one entry of raw_audio_fixed.pkl."""
    if not isinstance(clip, dict) or not isinstance(clip.get("audio"), SpilledArray):
        raise UserError(f'{AUDIO}: {name} is not {{"audio": array, "sample_rate": number}}')
    rate = int(clip.get("sample_rate", 0))
    if rate <= 0:
        raise UserError(f"{AUDIO}: {name} has a sample rate of {rate} Hz")
    audio = clip["audio"].read()
    if audio.ndim == 2:  # channels are few, samples many
        audio = audio.mean(axis=int(np.argmin(audio.shape)))
    if audio.ndim != 1 or audio.size == 0 or not np.isfinite(audio).all():
        raise UserError(f"{AUDIO}: {name} has no finite sound (shape {audio.shape})")
    if audio.dtype.kind == "f":
        scale = PCM_MAX if np.abs(audio).max() <= 1 else 1  # full scale is 1, or 16 bit already
        audio = np.round(audio * scale)
    return audio.clip(-PCM_MAX - 1, PCM_MAX).astype(np.int16), rate


def trim(
    vertices: NDArray, audio: NDArray, rate: int, first_frame: int = 0, fps: int = SOURCE_FPS
) -> tuple[NDArray, NDArray, float]:
    """Both cut to the shorter, and by how many seconds (> 0: audio was cut, < 0: frames).

    `first_frame`: frame at which the vertices begin; the audio before it goes without counting.
    `fps`: frames a second.
    """
    audio = audio[round(first_frame * rate / fps) :]
    surplus_s = len(audio) / rate - len(vertices) / fps
    frames = min(len(vertices), _ceil_div(len(audio) * fps, rate))  # frame t is at t / fps s
    return vertices[:frames], audio[: _ceil_div(frames * rate, fps)], surplus_s


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@contextmanager
def renamed(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _open_verts(verts: Path) -> NDArray:
    stored = load_npy(verts, "meshes", mapped=True)
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise UserError(f"{verts}: shape {stored.shape}; wanted (frames, V, 3)")
    return stored


def find_raw(given: str | None) -> Path:
    """The folder with the four raw files; `UserError` naming those missing and their source."""
    folders = [Path(given)] if given else [PROJECT_ROOT / folder for folder in RAW_FOLDERS]
    missing = {folder: [f for f in RAW_FILES if not (folder / f).is_file()] for folder in folders}
    best = min(folders, key=lambda folder: len(missing[folder]))
    if missing[best]:
        raise UserError(
            f"{best}: {', '.join(missing[best])} missing; {WHERE}, or name its folder with --raw"
        )
    return best


def find_prepared() -> Path | None:
    """The folder of clips that this script, or another project's, has prepared before."""
    folders = (PROJECT_ROOT / root for root in (VOCASET.root, *VOCASET.other_roots))
    return next(filter(has_clips, folders), None)


def read_index(path: Path) -> dict[str, dict[str, dict[int, int]]]:
    """Subject -> sentence -> frame -> row of data_verts.npy, as plain ints."""
    content = load_pickle(path, "index")
    try:
        return {
            str(subject): {
                str(sentence): {int(frame): int(row) for frame, row in rows.items()}
                for sentence, rows in sentences.items()
            }
            for subject, sentences in content.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: wanted subject -> sentence -> frame -> row: {error}") from error


def process(raw: Path, out: Path, report: Callable[[str], None] = tqdm.write) -> int:
    """Write every clip of `raw` that `out` lacks; returns how many were written.

    `report` gets one line for each clip that was cut by more than a frame, mended or left out.
    """
    index = read_index(raw / INDEX)
    templates = load_templates(raw / TEMPLATES)
    n_vertices = _open_verts(raw / VERTS).shape[1]
    for subject in index:
        if len(templates.get(subject, ())) != n_vertices:
            raise UserError(f"{raw / TEMPLATES}: no mesh of {n_vertices} vertices for {subject}")
    clips = [(subject, s) for subject in sorted(index) for s in sorted(index[subject])]
    todo = [clip for clip in clips if not _is_done(out, "_".join(clip))]
    print(f"{len(clips)} clips, {n_vertices} vertices; {len(clips) - len(todo)} are done already")
    out.mkdir(parents=True, exist_ok=True)
    if raw.resolve() != out.resolve():
        with renamed(out / TEMPLATES) as partial:
            shutil.copyfile(raw / TEMPLATES, partial)
    if not todo:
        return 0
    with tempfile.TemporaryFile(dir=out) as scratch:
        print(f"reading {raw / AUDIO} ...")
        sound = load_pickle(raw / AUDIO, "audio", lambda file: StreamingUnpickler(file, scratch))
        if not isinstance(sound, dict):
            raise UserError(f"{raw / AUDIO}: wanted subject -> sentence -> audio")
        written = 0
        for subject, sentence in tqdm(todo, unit="clip", disable=None):
            name = f"{subject}_{sentence}"
            if sentence not in sound.get(subject, {}):
                report(f"{name}: left out, {AUDIO} has no sound for it")
                continue
            _write_clip(raw, out, name, index[subject][sentence], sound[subject][sentence], report)
            written += 1
    for subject, sentence in sorted((s, q) for s in sound for q in sound[s]):
        if sentence not in index.get(subject, {}):
            report(f"{subject}_{sentence}: left out, {INDEX} has no frames for it")
    return written


def _is_done(out: Path, name: str) -> bool:
    return (out / "wav" / f"{name}.wav").is_file() and _npy_path(out, name).is_file()


def _npy_path(out: Path, name: str) -> Path:
    return out / "vertices_npy" / f"{name}.npy"


def _write_clip(
    raw: Path,
    out: Path,
    name: str,
    frame_rows: dict[int, int],
    clip: Any,
    report: Callable[[str], None],
) -> None:
    import soundfile

    vertices, first_frame, n_filled = clip_vertices(raw / VERTS, frame_rows, name)
    audio, rate = clip_audio(clip, name)
    vertices, audio, surplus_s = trim(vertices, audio, rate, first_frame)
    if len(vertices) == 0:
        raise UserError(f"{AUDIO}: {name} has less than one frame of sound")
    if n_filled:
        report(f"{name}: {n_filled} frames are missing in {INDEX} and were interpolated")
    if abs(surplus_s) >= 1 / SOURCE_FPS:
        longer = "audio" if surplus_s > 0 else "frames"
        report(f"{name}: {longer} cut by {abs(surplus_s):.3f} s to the shorter")
    with renamed(_npy_path(out, name)) as partial:
        np.save(partial, vertices)
    with renamed(out / "wav" / f"{name}.wav") as partial:
        soundfile.write(partial, audio, rate, subtype="PCM_16")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, check, convert, say where the result is."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", help="folder of the four raw files (default: vocaset/data/raw)")
    parser.add_argument("--out", help="folder to write to (default: vocaset/data)")
    args = parser.parse_args(argv)
    ready = None if args.raw or args.out else find_prepared()
    try:
        raw = find_raw(args.raw)
    except UserError:
        if ready is None:
            raise
        print(
            f"{ready} is prepared already, and is taken as it is: python main.py --dataset vocaset"
        )
        return
    out = Path(args.out) if args.out else PROJECT_ROOT / "vocaset/data"
    written = process(raw, out)
    print(f"{written} clips written to {out}: wav/, vertices_npy/, {TEMPLATES}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
