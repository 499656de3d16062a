"""BIWI and BIWI_6 as prepared by others.

FaceFormer's, CodeTalker's and SelfTalk's BIWI: wav/, vertices_npy/, templates.pkl, BIWI.ply.
ScanTalk's Biwi_6: wav/, vertices_npy/, templates/<subject>.obj, mouth_indices.npy and
upper_indices.npy.
"""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import UserError, writable_folder
from common.whole_file import whole_file, write_whole
from config import BIWI, BIWI_6, PROJECT_ROOT
from dataset.clip_files import audio_files, make_folders, mesh_files, npy_path, wav_path
from dataset.prepared import SUBFOLDERS, has_clips
from files.arrays import load_npy
from files.meshes import load_templates

TEMPLATES = ("templates.pkl", "templates")  # one file, or a folder of meshes


def has_prepared_layout(folder: Path) -> bool:
    """Whether `folder` has the layout in which the field prepares BIWI."""
    return any((folder / name).exists() for name in TEMPLATES) and has_clips(folder)


def prepared_templates(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Subject -> neutral mesh (V, 3) of a prepared folder."""
    return load_templates(next(folder / name for name in TEMPLATES if (folder / name).exists()))


def write_templates(folder: Path, templates: dict[str, NDArray[np.float32]]) -> None:
    """Write templates.pkl in FaceFormer's layout: subject -> (V, 3)."""
    write_whole(folder / TEMPLATES[0], pickle.dumps(templates, protocol=2))


def write_ply(path: Path, vertices: NDArray, faces: NDArray) -> None:
    """Write a mesh of `vertices` (V, 3) and triangles `faces` (F, 3) as a binary .ply."""
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    head += [f"property float {axis}" for axis in "xyz"]
    head += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    rows = np.zeros(len(faces), [("n", "u1"), ("corners", "<i4", 3)])
    rows["n"], rows["corners"] = 3, faces
    with path.open("wb") as file:
        file.write("".join(f"{line}\n" for line in head).encode())
        file.write(vertices.astype("<f4").tobytes() + rows.tobytes())


def default_root(n_vertices: int) -> Path:
    """The folder for meshes of `n_vertices`; `UserError` if they belong to neither data set."""
    for spec in (BIWI, BIWI_6):
        if spec.n_vertices == n_vertices:
            return PROJECT_ROOT / spec.root
    raise UserError(
        f"meshes of {n_vertices} vertices, expected {BIWI.n_vertices} (BIWI) or "
        f"{BIWI_6.n_vertices} (BIWI_6); give a folder with --out, or train on them as your own data"
    )


def place(
    source: Path,
    out: Path,
    templates: dict[str, NDArray[np.float32]],
    report: Callable[[str], None] = tqdm.write,
) -> int:
    """Link the clips of a prepared folder into `out`; returns the number of clips.

    Existing files are kept. The topology and region files of the data set are linked, too.
    report: gets one line for each clip without its second file. Raises `UserError` if the vertices
    do not match the templates.
    """
    make_folders(writable_folder(out))
    n_vertices = len(next(iter(templates.values())))
    meshes = set(mesh_files(source))
    recordings = {name for name, path in audio_files(source).items() if path.suffix == ".wav"}
    for name in sorted(meshes ^ recordings):
        report(f"{name}: left out, no {'wav' if name in meshes else 'vertices'} for it")
    clips = sorted(meshes & recordings)
    if not clips:
        raise UserError(f"{source}: no clip has both wav/<name>.wav and vertices_npy/<name>.npy")
    for name in clips:
        _check_clip(npy_path(source, name), n_vertices, name, templates)
    for name in clips:
        _link(npy_path(source, name), npy_path(out, name))
        _link(wav_path(source, name), wav_path(out, name))
    if not (out / TEMPLATES[0]).is_file():
        write_templates(out, templates)
    for file in _extra_files(n_vertices):
        paths = [source / sub / file for sub in SUBFOLDERS if (source / sub / file).is_file()]
        if paths:
            _link(paths[0], out / file)
    return len(clips)


def _check_clip(
    path: Path, n_vertices: int, name: str, templates: dict[str, NDArray[np.float32]]
) -> None:
    shape = load_npy(path, "vertices", mapped=True).shape
    if int(np.prod(shape[1:])) != 3 * n_vertices or len(shape) not in (2, 3):
        raise UserError(
            f"vertices {path}: shape {shape}, expected (frames, {3 * n_vertices}) as in the "
            f"templates of {n_vertices} vertices"
        )
    subject = name.split("_")[0]
    if subject not in templates:
        raise UserError(f"vertices {path}: no template for subject {subject}; add it to templates")


def _extra_files(n_vertices: int) -> set[str]:
    """Names of the topology and region files of the data set with `n_vertices`."""
    return {
        Path(path).name.split(":")[0]
        for spec in (BIWI, BIWI_6)
        if spec.n_vertices == n_vertices
        for path in (spec.topology, spec.lips_region, spec.upper_region)
    }


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if the file system cannot link; an existing target is kept."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:  # another disk, or no links
        with whole_file(target) as partial:
            shutil.copyfile(source, partial)
