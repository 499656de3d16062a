"""The synthetic head's units on a face of another topology, by deformation transfer.

Sumner and Popovic, "Deformation transfer for triangle meshes", 2004. The skin of the head is first
fitted to the other neutral face (`export.registration`), which gives every triangle of the face the
closest triangle of the skin whose normal agrees. A unit deforms that triangle by a 3x3 gradient
(their equation 4); the vertices of the face are those whose own gradients are nearest to it, in
least squares weighted by area. The matrix of that system depends on the neutral face alone, so one
factorisation serves all units.

Three things differ from the paper. Unknown are displacements instead of vertices, and the fourth
vertex of each triangle of the face is left out by comparing gradients in the plane of the triangle
only (as in Botsch et al., "Deformation transfer for detail-preserving shape editing", 2006). A weak
pull to the displacement of the closest point is added: gradients alone are sums along the skin, so
errors pile up between upper and lower lip, which then do not meet. It acts over `PULL_M` and more.
And where no triangle of the skin fits, as between the lips and inside the mouth, the face is asked
to keep its shape with a small weight.

Units of the eyes are transferred where the face shows eyes whose lids then close
(`export.eye_units`), those of the tongue never.

F triangles of the face, S vertices of the skin, V of the face, C units. Lengths in metres.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix, diags, vstack
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from export.eye_units import close_lids, turn_eyeballs
from export.registration import (
    Registration,
    face_normals,
    facing_neighbours,
    landmark_pairs,
    largest_part,
    register,
    surface_points,
    vertex_normals,
)
from synthetic.head import Head

FADE_M = (0.006, 0.016)  # distance from the skin over which the motion fades out
PULL_M = 0.02  # length over which positions count more than gradients
REST_M = 0.001  # the same for vertices far from the skin, which are to stay
W_UNKNOWN = 0.05  # of a triangle without a fitting one on the skin
UNUSED = 1e-9  # keeps the system regular for vertices without faces


@dataclass(frozen=True, eq=False)
class Triangles:
    """The triangles of a face as a linear system.

    operator: (2F, V), from displacements to their derivatives along both axes of each triangle,
    times `weight` (F,). axes: (F, 3, 2), orthonormal.
    """

    operator: csr_matrix
    axes: NDArray[np.float64]
    weight: NDArray[np.float64]


def transferred_units(
    head: Head, template: NDArray, faces: NDArray
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """(names (C), displacements (C, V, 3) at 1.0) of the units on another neutral face.

    template: (V, 3) metres, y up, the face towards +z, lips closed; faces: (F, 3). Raises
    `ValueError` where nose, lips and chin are not found.
    """
    face, skin_faces = template.astype(np.float64), largest_part(faces, len(template))
    points = landmark_pairs(head, face, skin_faces)
    names = tuple(name for name in head.units if not name.startswith("tongue"))
    if not points.has_eyes:
        names = _without_eyes(names)
    units = np.stack([head.units[name] for name in names]).astype(np.float64)
    fit = register(head, units, points, face, skin_faces)
    moved = fit.scale * units[:, fit.skin] @ fit.turn.T  # (C, S, 3)
    result = deformed(fit, moved, face, skin_faces)
    if points.has_eyes and close_lids(result, names, points, face, skin_faces):
        turn_eyeballs(result, names, units, points, head, face, faces)
        return names, result
    kept = _without_eyes(names)
    return kept, result[[names.index(name) for name in kept]]


def _without_eyes(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if not name.startswith("eye"))


def deformed(
    fit: Registration, moved: NDArray, face: NDArray, faces: NDArray
) -> NDArray[np.float64]:
    """Displacements (C, V, 3) of the face whose gradients are nearest to those of the skin.

    moved: (C, S, 3) displacements of the skin.
    """
    closest, known, resting = closest_points(fit, face, faces)
    triangle, share, weight = matching_triangles(fit, face, faces)
    system = triangle_system(face, faces, weight)
    area = vertex_areas(face, faces)
    pull = known * area / PULL_M**2
    matrix = system.operator.T @ system.operator
    matrix += diags(pull + resting * area / REST_M**2 + UNUSED)
    columns = np.empty((len(face), len(moved), 3))
    gradients = skin_gradients(fit, moved)
    for column, (gradient, skin) in enumerate(zip(gradients, moved, strict=True)):
        wanted = share[:, None, None] * gradient[triangle] @ system.axes  # (F, 3, 2)
        wanted = (system.weight[:, None, None] * wanted).transpose(2, 0, 1).reshape(-1, 3)
        columns[:, column] = system.operator.T @ wanted + pull[:, None] * (closest @ skin)
    solver = splu(csc_matrix(matrix), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    return solver.solve(columns.reshape(len(face), -1)).reshape(columns.shape).transpose(1, 0, 2)


def skin_gradients(fit: Registration, moved: NDArray) -> NDArray[np.float64]:
    """(C, F, 3, 3) the deformation gradients of the skin's triangles, less the identity."""
    inverse = np.linalg.inv(_frames(fit.start, fit.faces))
    return np.stack([_frames(fit.start + unit, fit.faces) @ inverse for unit in moved]) - np.eye(3)


def _frames(vertices: NDArray, faces: NDArray) -> NDArray[np.float64]:
    """(F, 3, 3) columns: two edges of each triangle, and its normal as long as the root of twice
    its area (equation 1 of the paper)."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.sqrt(np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-24))
    return np.stack([b - a, c - a, normal], axis=2)


def matching_triangles(
    fit: Registration, face: NDArray, faces: NDArray
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """(triangle of the skin, share of its gradient, weight), each (F,), for the face's triangles.

    A triangle far from the skin keeps its shape. One near it, but with another normal than all
    points around, has no match: inside the lips the closest triangle may be one of the other lip.
    """
    points, normals, _ = surface_points(fit.fitted, fit.faces)
    tree, centres = cKDTree(points), face[faces].mean(axis=1)
    index, distance = facing_neighbours(tree, normals, centres, face_normals(face, faces))
    is_known = np.isfinite(distance) | (tree.query(centres)[0] > FADE_M[1])
    triangle = index // (len(points) // len(fit.faces))
    return triangle, _share(distance), np.where(is_known, 1.0, W_UNKNOWN)


def triangle_system(face: NDArray, faces: NDArray, weight: NDArray) -> Triangles:
    """The derivatives of a face (V, 3) with faces (F, 3), weighted by area times `weight` (F,).

    A triangle without area is left out.
    """
    a, b, c = (face[faces[:, i]] for i in range(3))
    width = np.linalg.norm(b - a, axis=1)
    first = (b - a) / np.maximum(width, 1e-12)[:, None]
    along = np.einsum("fi,fi->f", first, c - a)
    across = c - a - along[:, None] * first
    height = np.linalg.norm(across, axis=1)
    has_area = (width > 1e-9) & (height > 1e-9)
    width, height = np.where(has_area, width, 1.0), np.where(has_area, height, 1.0)
    axes = np.stack([first, across / height[:, None]], axis=2)
    root = has_area * np.sqrt(0.5 * width * height * weight)
    slope = along / width
    values = (
        np.stack([-1.0 / width, 1.0 / width, np.zeros_like(width)], axis=1),
        np.stack([slope - 1.0, -slope, np.ones_like(slope)], axis=1) / height[:, None],
    )
    rows, shape = np.repeat(np.arange(len(faces)), 3), (len(faces), len(face))
    parts = [
        csr_matrix(((root[:, None] * value).ravel(), (rows, faces.ravel())), shape)
        for value in values
    ]
    return Triangles(vstack(parts, "csr"), axes, root)


def closest_points(
    fit: Registration, face: NDArray, faces: NDArray
) -> tuple[csr_matrix, NDArray[np.float64], NDArray[np.bool_]]:
    """(matrix (V, S) from displacements of the skin to those of the face, where it is known, where
    the face rests)."""
    points, normals, matrix = surface_points(fit.fitted, fit.faces)
    tree = cKDTree(points)
    index, distance = facing_neighbours(tree, normals, face, vertex_normals(face, faces))
    resting = tree.query(face)[0] > FADE_M[1]
    known = np.isfinite(distance) & ~resting
    return diags(_share(distance)) @ matrix[index], known.astype(np.float64), resting


def _share(distance: NDArray) -> NDArray[np.float64]:
    """How much of the skin's motion arrives at a distance from it, 0 to 1."""
    near, far = FADE_M
    return np.clip((far - distance) / (far - near), 0.0, 1.0)


def vertex_areas(vertices: NDArray, faces: NDArray) -> NDArray[np.float64]:
    """(V,) a third of the area of the faces around each vertex."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6.0
    return np.bincount(faces.ravel(), np.repeat(area, 3), len(vertices))
