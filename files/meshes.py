"""Untrusted files of meshes, templates and regions.

Texture coordinates never change the order or number of a mesh's vertices. V vertices, F faces.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason_of
from files.arrays import check_file, load_npy, load_npz
from files.listing import list_files, plain_name
from files.matlab import load_mat
from files.names import by_name, text_of
from files.pickled_values import as_numbers
from files.pickles import load_pickle
from files.ply import parse_ply
from files.texts import read_text

MESH_SUFFIXES = (".ply", ".obj")
MAX_INDEX = 2**31  # of a vertex in an .obj


def load_mesh(path: str | Path) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """(vertices (V, 3) float32, faces (F, 3) int32) of a .ply or .obj, in the order of the file.

    Polygons become triangle fans. Texture coordinates and normals are ignored, so they never split
    a vertex. A point cloud has F = 0. Raises `UserError` for a broken file, NaN or a face with a
    vertex that does not exist.
    """
    path = check_file(path, "mesh")
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise UserError(f"mesh {path}: expected .ply or .obj, got {suffix or 'no suffix'}")
    try:
        if suffix == ".ply":
            vertices, faces = parse_ply(path.read_bytes())
        else:
            vertices, faces = _parse_obj(read_text(path, "mesh", "replace"))
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"mesh {path}: broken {suffix} file: {reason_of(error)}") from error
    if len(vertices) == 0:
        raise UserError(f"mesh {path}: no vertices; is it a mesh?")
    with np.errstate(over="ignore"):
        vertices = vertices.astype(np.float32)
    if not np.isfinite(vertices).all():
        raise UserError(f"mesh {path}: {_count_bad(vertices)} coordinates are NaN or infinite")
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        worst = faces.min() if faces.min() < 0 else faces.max()
        raise UserError(
            f"mesh {path}: a face has vertex {worst}, expected less than {len(vertices)}"
        )
    return vertices, faces.astype(np.int32)


def _count_bad(values: NDArray) -> int:
    return int(np.size(values) - np.isfinite(values).sum())


def _parse_obj(text: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(vertices (V, 3), faces (F, 3)) of the text of an .obj; raises `ValueError`."""
    vertices: list[list[float]] = []
    faces: list[tuple[int, int, int]] = []
    for line in text.replace("\\\n", " ").splitlines():
        kind, *words = line.partition("#")[0].split() or [""]
        if kind == "v":
            if len(words) < 3:
                raise ValueError(f"the line '{line.strip()[:60]}' has fewer than 3 coordinates")
            vertices.append([float(word) for word in words[:3]])
        elif kind == "f":
            numbers = [int(word.split("/")[0]) for word in words]
            if not all(0 < abs(n) <= MAX_INDEX for n in numbers):
                raise ValueError(f"the line '{line.strip()[:60]}' has no vertex numbers from 1")
            # 1 is the first vertex, -1 the most recent one.
            corners = [n - 1 if n > 0 else len(vertices) + n for n in numbers]
            faces += [(corners[0], a, b) for a, b in zip(corners[1:], corners[2:], strict=False)]
    return np.array(vertices).reshape(-1, 3), np.array(faces, dtype=np.int64).reshape(-1, 3)


def load_faces(path: str | Path) -> NDArray[np.int32]:
    """Triangles (F, 3) int32 of a .ply or .obj, or of the array `faces` of an .npz."""
    path = check_file(path, "topology")
    if path.suffix.lower() == ".npz":
        arrays = load_npz(path, "topology")
        if "faces" not in arrays:
            raise UserError(f"topology {path}: expected an array 'faces', got {_names(arrays)}")
        faces = arrays["faces"]
    else:
        faces = load_mesh(path)[1]
    if faces.ndim != 2 or faces.shape[1] != 3 or len(faces) == 0:
        raise UserError(f"topology {path}: faces have shape {faces.shape}, expected (F, 3)")
    numbers = faces.dtype.kind in "iuf" and (faces >= 0).all() and (faces < MAX_INDEX).all()
    if not numbers or (faces % 1).any():
        raise UserError(f"topology {path}: faces have other values than vertex indices")
    return faces.astype(np.int32)


def load_templates(path: str | Path) -> dict[str, NDArray[np.float32]]:
    """Subject -> neutral mesh (V, 3) float32, in the data set's unit.

    path: a .pkl of {subject: (V, 3) or (V*3,)}, as in VOCASET and BIWI; an .npz with one array for
    each subject (and perhaps `faces`), or with `subjects` (N,), `template_mean` (V, 3) and
    `template_offsets` (N, V, 3) like synthetic/head.npz; a folder of <subject>.ply/.obj; or one
    such mesh. Raises `UserError` if the meshes differ in V or a file is broken.
    """
    path = Path(path)
    if path.is_dir():
        files = list_files(path, MESH_SUFFIXES)
        if not files:
            raise UserError(f"templates {path}: no .ply or .obj in the folder")
        named = by_name(((file.stem, file) for file in files), f"templates {path}")
        templates = {name: load_mesh(file)[0] for name, file in named.items()}
    else:
        templates = _templates_of_file(check_file(path, "templates"))
    counts = {name: len(vertices) for name, vertices in templates.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"templates {path}: the meshes differ in the number of vertices: {counts}")
    return templates


def _templates_of_file(path: Path) -> dict[str, NDArray[np.float32]]:
    suffix = path.suffix.lower()
    if suffix in MESH_SUFFIXES:
        return {plain_name(path.stem): load_mesh(path)[0]}
    if suffix == ".npz":
        content: Any = _templates_of_npz(path, load_npz(path, "templates"))
    elif suffix == ".pkl":
        content = load_pickle(path, "templates")
    else:
        raise UserError(f"templates {path}: expected .pkl, .npz, .ply, .obj or a folder of meshes")
    if not isinstance(content, dict) or not content:
        raise UserError(f"templates {path}: expected a dict of subject -> mesh")
    named = by_name(content.items(), f"templates {path}")
    return {subject: _template_array(path, subject, v) for subject, v in named.items()}


def _templates_of_npz(path: Path, arrays: dict[str, NDArray]) -> dict[str, NDArray]:
    if {"subjects", "template_mean", "template_offsets"} <= set(arrays):
        names, mean, offsets = (
            arrays[name] for name in ("subjects", "template_mean", "template_offsets")
        )
        if names.ndim != 1 or mean.ndim != 2 or offsets.shape != (len(names), *mean.shape):
            raise UserError(
                f"templates {path}: subjects, template_mean and template_offsets have shapes "
                f"{names.shape}, {mean.shape}, {offsets.shape}, expected (N,), (V, 3), (N, V, 3)"
            )
        if not {mean.dtype.kind, offsets.dtype.kind} <= set("fiu"):
            raise UserError(f"templates {path}: template_mean and template_offsets are no numbers")
        meshes = zip(map(str, names), mean + offsets.astype(np.float32), strict=True)
        return by_name(meshes, f"templates {path}")
    return {name: array for name, array in arrays.items() if name != "faces"}


def _template_array(path: Path, subject: str, value: Any) -> NDArray[np.float32]:
    try:
        array = as_numbers(value)
    except ValueError:
        array = np.zeros(0)
    if array.dtype.kind not in "fiu" or array.size == 0 or array.size % 3:
        raise UserError(f"templates {path}: {subject}: expected a (V, 3) array of numbers")
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        vertices = np.ascontiguousarray(array.reshape(-1, 3), dtype=np.float32)
    if not np.isfinite(vertices).all():
        raise UserError(
            f"templates {path}: {subject}: {_count_bad(vertices)} coordinates are NaN or infinite"
        )
    return vertices


def _names(mapping: dict[Any, Any]) -> str:
    return ", ".join(sorted(map(text_of, mapping)))


def load_region(path: str | Path, n_vertices: int, key: str | None = None) -> NDArray[np.int64]:
    """Vertex indices (n,) int64 of a region, in the order of the file.

    path: .txt or .csv (indices separated by commas or white space), .npy (indices, or a mask of V
    values), .pkl (list, array, or a dict of them), .npz, or .mat (indices from 1). `key` selects a
    region in files that hold several, like "lips" in FLAME_masks.pkl; "FLAME_masks.pkl:lips" as
    `path` does the same. Raises `UserError` if an index is outside a mesh of `n_vertices`.
    """
    path, named_key = split_key(Path(path))
    path, key = check_file(path, "region"), named_key or key
    array = _read_region(path, key).ravel()
    if array.dtype.kind not in "biuf":
        raise UserError(f"region {path}: expected vertex indices, got {array.dtype}")
    if array.size == n_vertices > 2 and np.isin(array, (0, 1)).all():
        array = np.flatnonzero(array)
    if array.size == 0:
        raise UserError(f"region {path}: no vertices")
    if array.dtype.kind not in "iu":
        raise UserError(f"region {path}: expected vertex indices, got {array.dtype}")
    indices = array.astype(np.int64)
    if array.min() < 0 or array.max() >= n_vertices:  # before the cast, which wraps uint64
        worst = array.min() if array.min() < 0 else array.max()
        raise UserError(
            f"region {path}: index {worst}, expected 0 to {n_vertices - 1}; "
            "was the file made for another mesh?"
        )
    return indices


def split_key(path: Path) -> tuple[Path, str | None]:
    """(FLAME_masks.pkl, "lips") for FLAME_masks.pkl:lips; the key is None where there is none."""
    if ":" in path.name and not path.exists():
        name, _, key = path.name.rpartition(":")
        return path.with_name(name), key
    return path, None


def _read_region(path: Path, key: str | None) -> NDArray:
    suffix = path.suffix.lower()
    if suffix in (".txt", ".csv"):
        words = re.split(r"[\s,;]+", read_text(path, "region").strip())
        try:
            return np.array([int(word) for word in words if word], dtype=np.int64)
        except (ValueError, OverflowError) as error:
            raise UserError(f"region {path}: expected integers: {reason_of(error)}") from error
    if suffix == ".npy":
        return load_npy(path, "region")
    if suffix == ".pkl":
        content = load_pickle(path, "region")
        try:
            return as_numbers(_pick(content, path, key) if isinstance(content, dict) else content)
        except ValueError as error:
            raise UserError(
                f"region {path}: expected vertex indices: {reason_of(error)}"
            ) from error
    if suffix == ".npz":
        return _pick(load_npz(path, "region"), path, key)
    if suffix == ".mat":
        return _from_one(path, _pick(load_mat(path, "region"), path, key))
    raise UserError(f"region {path}: expected .txt, .csv, .npy, .npz, .pkl or .mat")


def _from_one(path: Path, matrix: NDArray) -> NDArray[np.int64]:
    """The indices of a matrix that MATLAB counts from 1, counted from 0."""
    values = matrix.astype(np.float64)
    if not ((values == np.round(values)) & (np.abs(values) < 2**53)).all():  # false for NaN
        raise UserError(f"region {path}: expected integers, the numbers of vertices from 1")
    return matrix.astype(np.int64) - 1


def _pick(content: dict[Any, Any], path: Path, key: str | None) -> Any:
    named = {text_of(name): value for name, value in content.items()}
    if key in named:
        return named[key]
    if len(named) == 1:
        return next(iter(named.values()))
    raise UserError(f"region {path}: no region '{key}'; it has {_names(named)}")
