"""Quality of units on other topologies: `python -m benchmarks.bench_transfer FACE.ply ...`.

Each face is a .ply or .obj with closed lips in metres; `FACE.ply:0.1856` gives the metres of its
unit. All units but those of eyes and tongue are applied at 1.0, one after another. Counted are
folds (neighbouring triangles within 60 degrees of each other, then more than 120 apart) and torn
triangles (grown more than fivefold). `lips_mm` says how much further apart or closer the lips are
than at rest where jawOpen and mouthClose together should close them. `mirrored` is the relative rms
difference between a unit and the mirror image of that of the other side. The last line is JSON.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from common.errors import Parser, run_cli
from export.face_landmarks import landmarks
from export.registration import face_normals, largest_part
from export.transfer import transferred_units
from files.meshes import load_mesh
from synthetic.head import SIDES, load_head

NEAR_COS, FOLDED_COS = 0.5, -0.5
TORN = 5.0  # growth of an area
LIPS_M = 0.018, 0.008, 0.006  # half width, half height and depth of the middle of the mouth
PAIR_M, MIRROR_M = 0.0025, 0.004  # between both lips at rest; between a vertex and its mirror image


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = Parser(prog="python -m benchmarks.bench_transfer", description=__doc__)
    parser.add_argument("faces", nargs="+", metavar="FILE[:METRES]")
    head, rows = load_head(), {}
    for given in parser.parse_args(argv).faces:
        file, _, unit = given.partition(":")
        vertices, faces = load_mesh(file)
        template = vertices.astype(np.float64) * float(unit or 1.0)
        start = time.process_time()
        names, units = transferred_units(head, template, faces)
        seconds = time.process_time() - start
        kept = [i for i, name in enumerate(names) if not name.startswith("eye")]
        row = quality(tuple(names[i] for i in kept), units[kept], template, faces)
        rows[Path(file).stem] = {"units": len(names), "processor_s": round(seconds, 1), **row}
        print(Path(file).stem, rows[Path(file).stem], flush=True)
    print(json.dumps(rows))


def quality(
    names: tuple[str, ...], units: NDArray, template: NDArray, faces: NDArray
) -> dict[str, float]:
    """The measures of units (C, V, 3) on a face (V, 3) with faces (F, 3)."""
    skin = largest_part(faces, len(template))
    first, second = neighbours(skin)
    rest, rest_area = face_normals(template, skin), areas(template, skin)
    near = (rest[first] * rest[second]).sum(axis=1) > NEAR_COS
    folded = torn = 0
    for unit in units:
        normals = face_normals(template + unit, skin)
        turned = (normals[first] * normals[second]).sum(axis=1) < FOLDED_COS
        folded += int((turned & near).sum())
        torn += int((areas(template + unit, skin) > TORN * rest_area).sum())
    jaw, close = (units[names.index(name)] for name in ("jawOpen", "mouthClose"))
    upper, lower = lip_pairs(template, skin, jaw)
    change = np.linalg.norm((jaw + close)[upper] - (jaw + close)[lower], axis=1)
    return {
        "folds": folded,
        "torn": torn,
        "lips_mm": round(1e3 * float(change.mean()), 2),
        "mirrored": round(mirror_difference(names, units, template, skin), 3),
    }


def neighbours(faces: NDArray) -> tuple[NDArray, NDArray]:
    """The pairs of triangles that share an edge."""
    edges = np.sort(np.vstack([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    triangle = np.tile(np.arange(len(faces)), 3)
    order = np.lexsort(edges.T)
    same = (np.diff(edges[order], axis=0) == 0).all(axis=1)
    return triangle[order][:-1][same], triangle[order][1:][same]


def areas(vertices: NDArray, faces: NDArray) -> NDArray:
    """Twice the areas (F,)."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1)


def lip_pairs(template: NDArray, skin: NDArray, jaw: NDArray) -> tuple[NDArray, NDArray]:
    """Vertices of the upper lip and their neighbours on the lower, which `jaw` (V, 3) parts."""
    away = template - landmarks(template, skin)[3]
    width, height, depth = LIPS_M
    middle = (np.abs(away[:, 0]) < width) & (np.abs(away[:, 1]) < height) & (away[:, 2] > -depth)
    inside = np.flatnonzero(middle)
    drop = jaw[inside, 1] / jaw[inside, 1].min()
    upper, lower = inside[drop < 0.3], inside[drop > 0.7]
    distance, index = cKDTree(template[lower]).query(template[upper])
    return upper[distance < PAIR_M], lower[index[distance < PAIR_M]]


def mirror_difference(
    names: tuple[str, ...], units: NDArray, template: NDArray, skin: NDArray
) -> float:
    """Mean over pairs of units of their relative rms difference after mirroring one of them."""
    middle = landmarks(template, skin)[0, 0]
    distance, image = cKDTree(template).query(template * [-1, 1, 1] + [2 * middle, 0, 0])
    near = distance < MIRROR_M
    differences = []
    left, right = SIDES
    for name, unit in zip(names, units, strict=True):
        if name.endswith(left):
            other = units[names.index(name.removesuffix(left) + right)]
            missed = unit[near] - other[image[near]] * [-1, 1, 1]
            differences.append(np.sqrt((missed**2).sum() / (unit[near] ** 2).sum()))
    return float(np.mean(differences))


if __name__ == "__main__":
    sys.exit(run_cli(main))
