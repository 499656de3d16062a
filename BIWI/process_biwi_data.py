"""BIWI's raw download, or a folder prepared by others, to the files that training reads.

    python BIWI/process_biwi_data.py [--raw DIR] [--out DIR] [--sentences WHICH] [--workers N]

Raw, as in the download of B3D(AC)^2: faces/<subject>/<sentence>.tar with one .vl per frame (or
.tgz, or unpacked), rigid_scans/<subject>.obj (neutral scans), and the audio, audio/<clip>_cut.wav
or videos/<clip>.flv. Out: wav/<subject>_<sentence>.wav (mono, 16 kHz),
vertices_npy/<subject>_<sentence>.npy ((T, V*3) float32 at 25 fps, normalised as in CodeTalker, see
frames.py), templates.pkl, BIWI.ply.

The files of a folder with wav/, vertices_npy/ and templates are checked and linked. The number of
vertices identifies the data set: 23,370 BIWI, 3,895 BIWI_6.

Clips are converted by several processes. Every file is written whole or not at all, so the same
command continues a run that was stopped.
"""

import argparse
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a plain script

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from BIWI.frames import in_order, normalise, read_frames
from BIWI.prepared import default_root, place, prepared_templates, write_ply, write_templates
from BIWI.raw import SENTENCES, Clip, find_raw, is_raw, list_clips
from common.errors import Parser, UserError, run_cli, writable_folder
from common.stop_signals import ENDING, end_now
from common.whole_file import delete_own, whole_file
from config import BIWI, SAMPLE_RATE
from dataset.clip_files import cut_report, cut_to_shorter, is_prepared, make_folders, write_clip
from files.meshes import load_mesh
from speech.audio import read_audio

LARGEST_OFFSET = 0.1  # of a unit (18 mm): mean distance of a first frame from the neutral scan


def convert(clip: Clip, out: Path) -> str:
    """Write one clip to `out`; returns a line if it was cut by a frame or more, or left out."""
    if clip.audio is None:
        return f"{clip.name}: left out, no audio for it in audio/ or videos/"
    source, vertices = _normalised_frames(clip)
    if not vertices:
        return f"{clip.name}: left out, no .vl in {', '.join(map(str, clip.sources))}"
    scan, faces = _load_scan(clip.scan)
    neutral = _normalised(scan, faces, clip.scan)
    offset = float(np.linalg.norm(vertices[0] - neutral, axis=1).mean())
    if offset > LARGEST_OFFSET:
        raise UserError(
            f"{source}: the first frame is {offset:.2f} units from {clip.scan} on average, "
            f"expected at most {LARGEST_OFFSET}: another vertex order, or already rotated; "
            "use the raw download"
        )
    vertices, audio, surplus_s = cut_to_shorter(
        vertices, read_audio(clip.audio), SAMPLE_RATE, BIWI.source_fps
    )
    write_clip(out, clip.name, vertices, audio, SAMPLE_RATE)
    return cut_report(clip.name, surplus_s, BIWI.source_fps)


@functools.lru_cache(maxsize=2)
def _load_scan(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    vertices, faces = load_mesh(path)
    if len(faces) == 0:
        raise UserError(f"{path}: no triangles; the neutral scan must be a mesh")
    return vertices, faces


def _normalised(vertices: NDArray, faces: NDArray, where: object) -> NDArray[np.float32]:
    """`normalise`, with a `UserError` that begins with `where` for a mesh without area."""
    try:
        return normalise(vertices, faces)
    except ValueError as error:
        raise UserError(f"{where}: no mesh of a face ({error}); download it again") from error


def _normalised_frames(clip: Clip) -> tuple[Path, list[NDArray[np.float32]]]:
    """The source that holds the .vl files, and its frames, (V, 3) each, in order."""
    scan, faces = _load_scan(clip.scan)
    for source in clip.sources:
        frames = [
            (number, _normalised(v, faces, f"{source}: frame {number}"))
            for number, v in read_frames(source, len(scan))
        ]
        if frames:
            return source, in_order(frames, source)
    return clip.sources[0], []


def process(
    raw: Path,
    out: Path,
    sentences: str = "emotional",
    workers: int = 1,
    report: Callable[[str], None] = tqdm.write,
) -> int:
    """Write every clip of `sentences` that is missing in `out`; returns how many were written.

    report: gets one line for each clip that was cut by a frame or more, left out or broken. A
    broken clip does not stop the others; at the end `UserError` is raised.
    """
    clips = list_clips(raw, sentences)
    make_folders(writable_folder(out))
    bad_scans = _write_templates(clips, out)
    usable = [clip for clip in clips if clip.scan not in bad_scans]
    todo = [clip for clip in usable if not is_prepared(out, clip.name)]
    print(f"{len(clips)} clips; {len(usable) - len(todo)} already prepared")
    broken = [str(error) for error in bad_scans.values()]
    for error in broken:
        report(f"no clip of this subject is written: {error}")
    for outcome in _run_all(todo, out, workers):
        if isinstance(outcome, UserError):
            broken.append(str(outcome))
            report(f"not written: {outcome}")
        elif outcome:
            report(outcome)
    written = sum(is_prepared(out, clip.name) for clip in todo)
    n_broken = len(broken) - len(bad_scans) + len(clips) - len(usable)
    if broken:
        others = f" and {len(broken) - 1} more, see above" if len(broken) > 1 else ""
        raise UserError(f"{written} clips written, {n_broken} not: {broken[0]}{others}")
    return written


def _run_all(clips: list[Clip], out: Path, workers: int) -> Iterator[str | UserError]:
    """What `convert` returned or raised for each clip, in the order of completion."""
    with tqdm(total=len(clips), unit="clip", disable=None) as bar:
        in_processes = workers > 1 and len(clips) > 1
        outcomes = _run_in_processes(clips, out, workers) if in_processes else _run_here(clips, out)
        for outcome in outcomes:
            bar.update()
            yield outcome


def _run_here(clips: list[Clip], out: Path) -> Iterator[str | UserError]:
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
            "a worker was killed, perhaps out of memory; run again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent process; end on other signals, and when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ENDING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end_now)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        delete_own()
        os._exit(1)


def _write_templates(clips: list[Clip], out: Path) -> dict[Path, UserError]:
    """Write templates.pkl with every subject, and BIWI.ply with the triangles if it is missing.

    Returns the scans that cannot be used, each with its error; raises one where no scan can.
    """
    templates: dict[str, NDArray[np.float32]] = {}
    bad: dict[Path, UserError] = {}
    for scan in sorted({clip.scan for clip in clips}):
        try:
            vertices, triangles = _load_scan(scan)
            expected = len(next(iter(templates.values()), vertices))
            if len(vertices) != expected:
                raise UserError(
                    f"{scan}: {len(vertices)} vertices, expected {expected} as in the other scans"
                )
            templates[scan.stem] = _normalised(vertices, triangles, scan)
            faces = triangles
        except UserError as error:
            bad[scan] = error
    if not templates:
        raise next(iter(bad.values()))
    write_templates(out, templates)
    topology = out / Path(BIWI.topology).name
    if not topology.is_file():
        with whole_file(topology) as partial:
            write_ply(partial, next(iter(templates.values())), faces)
    return bad


def _count_vertices(clips: list[Clip]) -> int:
    """The number of vertices of the first scan that is a mesh; raises `UserError` if none is."""
    scans = sorted({clip.scan for clip in clips})
    for scan in scans[:-1]:
        with suppress(UserError):  # reported when the templates are written
            return len(_load_scan(scan)[0])
    return len(_load_scan(scans[-1])[0])


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
        "--workers", type=int, help="processes, 200 MB of memory each (default: one per CPU)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, detect the kind of folder, convert or link, print where the result is."""
    args = _parser().parse_args(argv)
    workers = (os.cpu_count() or 1) if args.workers is None else args.workers
    if workers < 1:
        raise UserError(f"--workers {workers}: expected 1 or more")
    raw = find_raw(args.raw)
    if is_raw(raw):
        n_vertices = _count_vertices(list_clips(raw, args.sentences))
        out = Path(args.out) if args.out else default_root(n_vertices)
        done = f"{process(raw, out, args.sentences, workers)} clips written to"
    else:
        templates = prepared_templates(raw)
        out = Path(args.out) if args.out else default_root(len(next(iter(templates.values()))))
        done = f"{place(raw, out, templates)} prepared clips linked into"
    print(f"{done} {out}: wav/, vertices_npy/, templates.pkl")


if __name__ == "__main__":
    sys.exit(run_cli(main))
