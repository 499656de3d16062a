"""BIWI's raw download, or a folder prepared by others, to the files that training reads.

    python BIWI/process_biwi_data.py [--raw DIR] [--out DIR] [--sentences WHICH] [--workers N]

Raw, as B3D(AC)^2 comes: faces/<subject>/<sentence>.tar with a .vl for each frame (or .tgz, or
unpacked), rigid_scans/<subject>.obj (neutral scans) and the sound, audio/<clip>_cut.wav or
videos/<clip>.flv. Out: wav/<subject>_<sentence>.wav (mono, 16 kHz),
vertices_npy/<subject>_<sentence>.npy ((T, V*3) float32 at 25 fps, normalised as CodeTalker does,
see frames.py), templates.pkl, BIWI.ply.

A folder with wav/, vertices_npy/ and templates is taken as it is: its files are checked and
linked into place. The number of vertices says which data set it is: 23,370 BIWI, 3,895 BIWI_6.

One process a clip; every file is written under a temporary name and renamed, so a run that was
stopped is taken up again by the same command.
"""

import argparse
import functools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a plain script

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from BIWI.frames import in_order, normalise, read_frames
from BIWI.prepared import (
    default_root,
    is_done,
    is_prepared,
    npy_path,
    place,
    prepared_templates,
    wav_path,
    write_ply,
    write_templates,
)
from common.errors import Parser, UserError, run_cli, writable_folder
from config import BIWI, PROJECT_ROOT, SAMPLE_RATE
from files.meshes import load_mesh
from speech.audio import read_audio
from vocaset.process_voca_data import renamed, trim

RAW_FOLDERS = ("BIWI/data/raw", "BIWI/data", "BIWI")  # searched when --raw is not given
FACES, SCANS = "faces", "rigid_scans"
ARCHIVES = (".tar", ".tgz", ".tar.gz")
SOUNDS = ("audio/{}_cut.wav", "videos/{}.flv", "wav/{}.wav", "audio/{}.wav")  # the first there is
# e01: with emotion, what FaceFormer and its followers train on; 01: neutral.
SENTENCES = {"emotional": r"e\d\d", "neutral": r"\d\d", "all": r"e?\d\d"}
LARGEST_OFFSET = 0.1  # of a unit (18 mm): frames lie this near to the neutral scan, on average
WHERE = (
    "wanted B3D(AC)^2, the 3D audiovisual corpus of ETH Zurich, or a folder prepared for "
    "CodeTalker; its page is closed, see BIWI/README.md (the Kinect head pose set that is also "
    "called Biwi is another one)"
)


@dataclass(frozen=True)
class Clip:
    """One sentence of the raw download: where its frames, its sound and its neutral scan lie."""

    subject: str
    name: str  # <subject>_<sentence>
    sources: tuple[Path, ...]  # folder or archives, of which one holds the .vl
    sound: Path | None
    scan: Path


def find_raw(given: str | None) -> Path:
    """The raw or prepared folder; `UserError` saying what is missing and what to look for."""
    folders = [Path(given)] if given else [PROJECT_ROOT / folder for folder in RAW_FOLDERS]
    best = min(folders, key=lambda folder: len(_missing(folder)))
    if not _missing(best):
        return best
    for folder in folders:
        if is_prepared(folder):
            return folder
        if any(folder.glob(f"{FACES}*.tgz")):
            raise UserError(f"{folder}: packed; go there and: for f in *.tgz; do tar xzf $f; done")
    raise UserError(f"{best}: {'/, '.join(_missing(best))}/ missing; {WHERE}")


def _missing(folder: Path) -> list[str]:
    return [name for name in (FACES, SCANS) if not (folder / name).is_dir()]


def list_clips(raw: Path, sentences: str = "emotional") -> list[Clip]:
    """The clips of faces/ whose sentences are wanted (a key of SENTENCES), by name.

    Raises `UserError` when there is none or a subject has no neutral scan.
    """
    wanted = re.compile(SENTENCES[sentences])
    clips = []
    for folder in sorted(path for path in (raw / FACES).iterdir() if path.is_dir()):
        subject = folder.name
        scan = raw / SCANS / f"{subject}.obj"
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir(), key=_rank):
            sentence = path.name if path.is_dir() else _stem(path.name)
            if sentence is not None and wanted.fullmatch(sentence):
                found.setdefault(sentence, []).append(path)
        if found and not scan.is_file():
            raise UserError(f"{scan}: missing, the neutral scan of {subject}; {WHERE}")
        for sentence in sorted(found):
            name = f"{subject}_{sentence}"
            sounds = [raw / pattern.format(name) for pattern in SOUNDS]
            sound = next((path for path in sounds if path.is_file()), None)
            clips.append(Clip(subject, name, tuple(found[sentence]), sound, scan))
    if not clips:
        example = "01" if sentences == "neutral" else "e01"
        raise UserError(
            f"{raw / FACES}: no {sentences} sentences in it; wanted <subject>/{example}.tar, .tgz "
            "or a folder, and so on; unpack the download's faces*.tgz, or name other --sentences"
        )
    return clips


def _rank(path: Path) -> int:
    return 0 if path.is_dir() else 1 + path.name.endswith("gz")  # the .tgz may hold textures only


def _stem(name: str) -> str | None:
    return next((name.removesuffix(end) for end in ARCHIVES if name.endswith(end)), None)


def convert(clip: Clip, out: Path) -> str:
    """Write one clip to `out`; returns a line when it was cut by a frame or more, or left out."""
    if clip.sound is None:
        return f"{clip.name}: left out, no sound for it in audio/ or videos/"
    source, vertices = _normalised_frames(clip)
    if not vertices:
        return f"{clip.name}: left out, no .vl in {', '.join(map(str, clip.sources))}"
    scan, faces = _load_scan(clip.scan)
    offset = float(np.linalg.norm(vertices[0] - normalise(scan, faces), axis=1).mean())
    if offset > LARGEST_OFFSET:
        raise UserError(
            f"{source}: its first frame lies {offset:.2f} units from {clip.scan} on average, as if "
            "its vertices came in another order or it was turned already; wanted the raw download"
        )
    vertices, audio, surplus_s = trim(
        vertices, read_audio(clip.sound), SAMPLE_RATE, fps=BIWI.source_fps
    )
    _write(out, clip.name, vertices, audio)
    if abs(surplus_s) < 1 / BIWI.source_fps:
        return ""
    longer = "audio" if surplus_s > 0 else "frames"
    return f"{clip.name}: {longer} cut by {abs(surplus_s):.3f} s to the shorter"


@functools.lru_cache(maxsize=2)
def _load_scan(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    vertices, faces = load_mesh(path)
    if len(faces) == 0:
        raise UserError(f"{path}: has no triangles; the neutral scan must be a mesh")
    return vertices, faces


def _normalised_frames(clip: Clip) -> tuple[Path, list[NDArray[np.float32]]]:
    """The source that has them and the frames, each (V, 3), in order."""
    scan, faces = _load_scan(clip.scan)
    for source in clip.sources:
        frames = [(number, normalise(v, faces)) for number, v in read_frames(source, len(scan))]
        if frames:
            return source, in_order(frames, source)
    return clip.sources[0], []


def _write(out: Path, name: str, vertices: list[NDArray], audio: NDArray) -> None:
    """One frame at a time: an array of them all would be the clip twice in memory."""
    import soundfile

    header = {"descr": "<f4", "fortran_order": False, "shape": (len(vertices), vertices[0].size)}
    try:
        with renamed(npy_path(out, name)) as partial, partial.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for frame in vertices:
                file.write(frame.astype("<f4").tobytes())
        with renamed(wav_path(out, name)) as partial:
            soundfile.write(partial, audio, SAMPLE_RATE, subtype="PCM_16")
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(f"{out}: {name} cannot be written ({error}); is the disk full?") from error


def process(
    raw: Path,
    out: Path,
    sentences: str = "emotional",
    workers: int = 1,
    report: Callable[[str], None] = tqdm.write,
) -> int:
    """Write every wanted clip of `raw` that `out` lacks; returns how many were written.

    `report` gets one line for each clip that was cut by more than a frame, left out or broken.
    Broken clips do not stop the others; at the end they are a `UserError`.
    """
    clips = list_clips(raw, sentences)
    out = writable_folder(out)
    _write_templates(clips, out)
    todo = [clip for clip in clips if not is_done(out, clip.name)]
    print(f"{len(clips)} clips; {len(clips) - len(todo)} are done already")
    broken = []
    for outcome in _run_all(todo, out, workers):
        if isinstance(outcome, UserError):
            broken.append(str(outcome))
            report(f"not written: {outcome}")
        elif outcome:
            report(outcome)
    written = sum(is_done(out, clip.name) for clip in todo)
    if broken:
        others = f" and {len(broken) - 1} more, see above" if len(broken) > 1 else ""
        raise UserError(f"{written} clips written, {len(broken)} not: {broken[0]}{others}")
    return written


def _run_all(clips: list[Clip], out: Path, workers: int) -> Iterator[str | UserError]:
    """What `convert` returned or raised for each clip, as they end."""
    with tqdm(total=len(clips), unit="clip", disable=None) as bar:
        run = _run_here if workers == 1 or len(clips) < 2 else _run_in_processes
        for outcome in run(clips, out, workers):
            bar.update()
            yield outcome


def _run_here(clips: list[Clip], out: Path, _workers: int) -> Iterator[str | UserError]:
    for clip in clips:
        try:
            yield convert(clip, out)
        except UserError as error:
            yield error


def _run_in_processes(clips: list[Clip], out: Path, workers: int) -> Iterator[str | UserError]:
    # spawn: the same on every system, and no thread or library state is inherited
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    try:
        for future in as_completed([pool.submit(convert, clip, out) for clip in clips]):
            try:
                yield future.result()
            except UserError as error:
                yield error
    except BrokenProcessPool as error:
        raise UserError(
            "a worker was killed, perhaps for want of memory; run again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Ctrl-C is the parent's to handle; where the parent is killed, its workers end, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_templates(clips: list[Clip], out: Path) -> None:
    """templates.pkl of every subject, and the triangles as BIWI.ply where there is none."""
    templates: dict[str, NDArray[np.float32]] = {}
    for scan in sorted({clip.scan for clip in clips}):
        vertices, faces = _load_scan(scan)
        templates[scan.stem] = normalise(vertices, faces)
        if len({len(template) for template in templates.values()}) > 1:
            raise UserError(f"{scan}: {len(vertices)} vertices, unlike the other neutral scans")
    write_templates(out, templates)
    topology = out / Path(BIWI.topology).name
    if not topology.is_file():
        with renamed(topology) as partial:
            write_ply(partial, templates[scan.stem], faces)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--raw",
        help="folder of the download, or one prepared by others (default: BIWI/data/raw, "
        "BIWI/data or BIWI)",
    )
    parser.add_argument(
        "--out",
        help="folder to write to (default: BIWI/data, or BIWI/data6 for meshes of 3,895 vertices)",
    )
    parser.add_argument(
        "--sentences",
        choices=SENTENCES,
        default="emotional",
        help="which sentences of the download (default: emotional, e01-e40, which the recipe uses)",
    )
    parser.add_argument(
        "--workers", type=int, help="clips at once, 200 MB of memory each (default: one a CPU)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, look at what is there, convert or take over, say where the result is."""
    args = _parser().parse_args(argv)
    workers = (os.cpu_count() or 1) if args.workers is None else args.workers
    if workers < 1:
        raise UserError(f"--workers {workers}: wanted 1 or more")
    raw = find_raw(args.raw)
    if not _missing(raw):
        n_vertices = len(_load_scan(list_clips(raw, args.sentences)[0].scan)[0])
        out = Path(args.out) if args.out else default_root(n_vertices)
        what = f"{process(raw, out, args.sentences, workers)} clips written to"
    else:
        templates = prepared_templates(raw)
        out = Path(args.out) if args.out else default_root(len(next(iter(templates.values()))))
        what = f"{place(raw, out, templates)} prepared clips taken over into"
    print(f"{what} {out}: wav/, vertices_npy/, templates.pkl")


if __name__ == "__main__":
    sys.exit(run_cli(main))
