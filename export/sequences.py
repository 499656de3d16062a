"""A mesh file for each frame, .obj or .ply, in a folder; and all frames in one small .npz.

Metres, y up; the first frame has the number 1. T frames, V vertices, F faces.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.whole_file import whole_file, whole_folder
from export.clip import Clip
from export.frames import blocks, template_of

MeshWriter = Callable[[NDArray], bytes]  # vertices (V, 3) -> the content of a file
DIGITS = 4  # of a frame's number, more for clips of more frames
ZIP_LEVEL = 1  # zlib's fastest; level 6 saves 4 % of an .npz
TOO_LARGE = np.finfo(np.float16).max


def write_obj(clip: Clip, folder: Path) -> list[Path]:
    """Write `<folder>/<name>_obj/<name>_0001.obj` and so on; see `_write_sequence`."""
    return _write_sequence(
        clip, folder, "obj", obj_writer(len(clip.template), clip.faces, clip.colors)
    )


def write_ply(clip: Clip, folder: Path) -> list[Path]:
    """Write `<folder>/<name>_ply/<name>_0001.ply` and so on; see `_write_sequence`."""
    return _write_sequence(clip, folder, "ply", _ply_writer(clip.faces, clip.colors))


def obj_writer(n_vertices: int, faces: NDArray, colors: NDArray | None) -> MeshWriter:
    """A function that gives the text of an .obj; its numbers have six significant digits.

    faces: (F, 3). colors: (V, 3) sRGB 0 to 1; they stand behind the coordinates, where Blender,
    MeshLab and others look for them.
    """
    behind = [""] * n_vertices
    if colors is not None:
        behind = [f" {r:.4g} {g:.4g} {b:.4g}" for r, g, b in colors.tolist()]
    form = "".join(f"v %.6g %.6g %.6g{color}\n" for color in behind)
    corners = ("f %d %d %d\n" * len(faces)) % tuple((faces.ravel() + 1).tolist())
    return lambda vertices: (form % tuple(vertices.ravel().tolist()) + corners).encode()


def write_npz(clip: Clip, folder: Path) -> list[Path]:
    """Write `<folder>/<name>.npz`, a fifth of the .npy: offsets from the neutral face as float16.

    Arrays: offsets (T, V, 3) float16 and template (V, 3) float32, both in metres, so that vertices
    are their sum; faces (F, 3) int32; fps (2,) int64, a fraction; colors (V, 3) float32 sRGB 0 to 1
    where known.
    Offsets of 8 mm are rounded by at most 0.004 mm. Raises `UserError` for NaN, or offsets beyond
    float16; `OSError` of the disk.
    """
    path = folder / f"{clip.name}.npz"
    arrays = {
        "template": template_of(clip),
        "faces": np.asarray(clip.faces, np.int32),
        "fps": np.array([clip.fps.numerator, clip.fps.denominator], np.int64),
    }
    if clip.colors is not None:
        arrays["colors"] = np.asarray(clip.colors, np.float32)
    with (
        whole_file(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=ZIP_LEVEL) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        _write_offsets(archive, clip)
    return [path]


def _write_offsets(archive: zipfile.ZipFile, clip: Clip) -> None:
    template = template_of(clip)
    header = {"descr": "<f2", "fortran_order": False, "shape": tuple(clip.vertices.shape)}
    with archive.open("offsets.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks(clip):
            offsets = block - template
            if np.abs(offsets).max() > TOO_LARGE:
                raise UserError(
                    f"clip {clip.name}: offsets of {np.abs(offsets).max():.4g} m, expected a face; "
                    "is it in another unit than its data set?"
                )
            file.write(offsets.astype("<f2").tobytes())


def _ply_writer(faces: NDArray, colors: NDArray | None) -> MeshWriter:
    """A function that gives the bytes of a binary .ply, with colours (V, 3) sRGB where known."""
    fields = [("position", "<f4", 3)]
    described = [f"property float {axis}" for axis in "xyz"]
    if colors is not None:
        fields.append(("color", "u1", 3))
        described += [f"property uchar {name}" for name in ("red", "green", "blue")]
    corners = np.empty(len(faces), [("n", "u1"), ("corners", "<i4", 3)])
    corners["n"], corners["corners"] = 3, faces

    def write(vertices: NDArray) -> bytes:
        rows = np.empty(len(vertices), fields)
        rows["position"] = vertices
        if colors is not None:
            rows["color"] = np.round(255 * np.clip(colors, 0.0, 1.0))
        header = [
            "ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}",
            *described, f"element face {len(faces)}", "property list uchar int vertex_indices",
            "end_header\n",
        ]  # fmt: skip
        return "\n".join(header).encode() + rows.tobytes() + corners.tobytes()

    return write


def _write_sequence(clip: Clip, folder: Path, suffix: str, write: MeshWriter) -> list[Path]:
    """Write `<folder>/<name>_<suffix>/`, a mesh for each frame; the folder appears when complete.

    Returns the folder. It replaces an earlier sequence. Raises `UserError` for NaN, or where that
    folder has files of other names; `OSError` of the disk.
    """
    target = folder / f"{clip.name}_{suffix}"
    _check_replaceable(target, clip.name, suffix)
    digits = max(DIGITS, len(str(len(clip.vertices))))
    names = [f"{clip.name}_{n + 1:0{digits}d}.{suffix}" for n in range(len(clip.vertices))]
    remaining = iter(names)
    with whole_folder(target) as partial:
        for block in blocks(clip):
            for vertices in block:
                (partial / next(remaining)).write_bytes(write(vertices))
    return [target]


def _check_replaceable(target: Path, name: str, suffix: str) -> None:
    """Raise `UserError` if `target` is there and is anything but an earlier sequence."""
    if not target.exists():
        return
    files = list(target.iterdir()) if target.is_dir() else [target]
    for file in files:
        number = file.name.removeprefix(f"{name}_").removesuffix(f".{suffix}")
        if not number.isdecimal():
            raise UserError(
                f"folder {target}: {file.name} is not of an earlier sequence; move it, or choose "
                "another folder"
            )
