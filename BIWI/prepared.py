"""BIWI and BIWI_6 as prepared by others, and the layout that every prepared folder shares.

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
from config import BIWI, BIWI_6, PROJECT_ROOT
from files.arrays import load_npy
from files.meshes import load_templates
from vocaset.process_voca_data import renamed

TEMPLATES = ("templates.pkl", "templates")  # a file of all, or a folder of meshes
BESIDE = (".", "masks", "regions", "templates")  # where topology and regions are looked for


def npy_path(folder: Path, name: str) -> Path:
    """The vertices of a clip in a prepared folder."""
    return folder / "vertices_npy" / f"{name}.npy"


def wav_path(folder: Path, name: str) -> Path:
    """The sound of a clip in a prepared folder."""
    return folder / "wav" / f"{name}.wav"


def is_done(folder: Path, name: str) -> bool:
    """Whether a prepared folder has both files of a clip."""
    return npy_path(folder, name).is_file() and wav_path(folder, name).is_file()


def is_prepared(folder: Path) -> bool:
    """Whether `folder` is laid out as the field prepares BIWI."""
    has_templates = any((folder / name).exists() for name in TEMPLATES)
    return has_templates and any(folder.glob("vertices_npy/*.npy")) and any(folder.glob("wav/*"))


def prepared_templates(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Subject -> neutral mesh (V, 3) of a prepared folder."""
    return load_templates(next(folder / name for name in TEMPLATES if (folder / name).exists()))


def write_templates(folder: Path, templates: dict[str, NDArray[np.float32]]) -> None:
    """Write templates.pkl as FaceFormer lays it out: subject -> (V, 3)."""
    with renamed(folder / TEMPLATES[0]) as partial, partial.open("wb") as file:
        pickle.dump(templates, file, protocol=2)


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
    """Where meshes of so many vertices belong; `UserError` when they are of neither data set."""
    for spec in (BIWI, BIWI_6):
        if spec.n_vertices == n_vertices:
            return PROJECT_ROOT / spec.root
    raise UserError(
        f"meshes of {n_vertices} vertices are neither BIWI ({BIWI.n_vertices}) nor BIWI_6 "
        f"({BIWI_6.n_vertices}); name a folder with --out, or train on them as your own data"
    )


def place(
    source: Path,
    out: Path,
    templates: dict[str, NDArray[np.float32]],
    report: Callable[[str], None] = tqdm.write,
) -> int:
    """Link the clips of a prepared folder into `out`; returns how many are there then.

    Files that are there already stay. Topology and regions that its data set names are taken
    along. `report` gets one line for each clip that lacks its partner. Raises `UserError` for
    vertices that do not fit the templates.
    """
    out = writable_folder(out)
    n_vertices = len(next(iter(templates.values())))
    names = {path.stem for path in (source / "vertices_npy").glob("*.npy")}
    heard = {path.stem for path in (source / "wav").glob("*.wav")}
    for name in sorted(names ^ heard):
        report(f"{name}: left out, it has no {'wav' if name in names else 'vertices'}")
    clips = sorted(names & heard)
    if not clips:
        raise UserError(f"{source}: no clip has both wav/<name>.wav and vertices_npy/<name>.npy")
    for name in clips:
        _check_clip(npy_path(source, name), n_vertices, name, templates)
    for name in clips:
        _link(npy_path(source, name), npy_path(out, name))
        _link(wav_path(source, name), wav_path(out, name))
    if not (out / TEMPLATES[0]).is_file():
        write_templates(out, templates)
    for file in _beside(n_vertices):
        found = [source / folder / file for folder in BESIDE if (source / folder / file).is_file()]
        if found:
            _link(found[0], out / file)
    return len(clips)


def _check_clip(
    path: Path, n_vertices: int, name: str, templates: dict[str, NDArray[np.float32]]
) -> None:
    shape = load_npy(path, "vertices", mapped=True).shape
    if int(np.prod(shape[1:])) != 3 * n_vertices or len(shape) not in (2, 3):
        raise UserError(f"vertices {path}: shape {shape}; the templates have {n_vertices} vertices")
    if name.split("_")[0] not in templates:
        raise UserError(f"vertices {path}: no template of {name.split('_')[0]}")


def _beside(n_vertices: int) -> set[str]:
    """File names of the topology and regions that the data set of so many vertices uses."""
    return {
        Path(path).name.split(":")[0]
        for spec in (BIWI, BIWI_6)
        if spec.n_vertices == n_vertices
        for path in (spec.topology, spec.lips_region, spec.upper_region)
    }


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system makes none; nothing is overwritten."""
    if target.exists():
        return
    with renamed(target) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:  # another disk, or no links there
            shutil.copyfile(source, partial)
