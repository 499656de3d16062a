"""Registration: the skin of the synthetic head fitted to a neutral face of another topology.

A similarity brings landmarks together, then the vertices of the skin move to the closest points of
the face, held together by the Laplacian of their displacements, which is relaxed step by step
(Amberg, Romdhani and Vetter, "Optimal step nonrigid ICP algorithms for surface registration",
2007). Points belong together only where their normals agree.

S vertices of the skin, V of the face. Lengths in metres.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from export.eye_landmarks import eye_landmarks
from export.face_landmarks import landmarks
from synthetic.head import Head

MOVED_M = 2e-5  # a vertex of the skin that no unit moves by more is left out
STIFFNESS = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3)  # of the Laplacian, relaxed in this order
STEPS = 3  # fits at each stiffness
W_LANDMARK, LANDMARKS_UNTIL = 20.0, 3.0  # weight of a landmark, down to this stiffness
NEAR_M = 0.012  # of closest points that are accepted
FACING = 0.5  # cosine between normals of points that may belong together
NEIGHBOURS = 24  # points that are looked at for one with a fitting normal
MAX_POINTS = 150_000  # on a surface


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points that both faces show: own, other: (n, 3) metres, of the head and of the other face.

    has_eyes: whether those of the eyes are among them.
    """

    own: NDArray[np.float64]
    other: NDArray[np.float64]
    has_eyes: bool


@dataclass(frozen=True, eq=False)
class Registration:
    """The skin of the head on another face.

    skin: (S,) indices of the head's vertices; faces: (F, 3) indices into them. start: (S, 3) their
    neutral places after the similarity; fitted: (S, 3) on the face. scale, turn (3, 3): of the
    similarity, for displacements.
    """

    skin: NDArray[np.int64]
    faces: NDArray[np.int64]
    start: NDArray[np.float64]
    fitted: NDArray[np.float64]
    scale: float
    turn: NDArray[np.float64]


def mean_face(head: Head) -> NDArray[np.float64]:
    """(V, 3) the mean of the head's neutral faces."""
    return np.mean(list(head.templates.values()), axis=0, dtype=np.float64)


def landmark_pairs(head: Head, face: NDArray, face_faces: NDArray) -> Landmarks:
    """The landmarks of the head and of a face (V, 3), whose faces (F, 3) are without eyeballs.

    Raises `ValueError` where nose, lips and chin are not found.
    """
    skin = head.faces[np.isin(head.faces, head.parts["skin"]).all(axis=1)]
    sides = []
    for vertices, faces in ((mean_face(head), skin), (face, face_faces)):
        points = landmarks(vertices, faces)
        sides.append(np.concatenate([points, eye_landmarks(vertices, faces, points[0])]))
    own, other = sides
    both = np.isfinite(own + other).all(axis=1)
    return Landmarks(own[both], other[both], bool(both[-1]))


def register(
    head: Head, units: NDArray, points: Landmarks, face: NDArray, face_faces: NDArray
) -> Registration:
    """Fit the skin that the units (C, V, 3) move to a face (V, 3) with faces (F, 3)."""
    skin_faces, skin = moved_skin(head, units)
    scale, turn, shift = similarity(points.own, points.other)
    start = scale * mean_face(head)[skin] @ turn.T + shift
    held = scale * points.own @ turn.T + shift
    fitted = fit_skin(start, skin_faces, face, face_faces, held, points.other)
    return Registration(skin, skin_faces, start, fitted, scale, turn)


def moved_skin(head: Head, units: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(faces (F, 3) renumbered, indices (S,)) of the skin that the units (C, V, 3) move."""
    is_moved = np.linalg.norm(units, axis=2).max(axis=0) > MOVED_M
    is_skin = np.zeros(len(is_moved), bool)
    is_skin[head.parts["skin"]] = True
    chosen = is_skin[head.faces].all(axis=1) & is_moved[head.faces].any(axis=1)
    skin, renumbered = np.unique(head.faces[chosen], return_inverse=True)
    return renumbered.reshape(-1, 3), skin


def largest_part(faces: NDArray, n_vertices: int) -> NDArray:
    """The faces of the connected part with most vertices: without eyeballs."""
    if not len(faces):
        return faces
    edges = np.vstack([faces[:, :2], faces[:, 1:]])
    graph = coo_matrix((np.ones(len(edges)), edges.T), (n_vertices, n_vertices))
    part = connected_components(graph, directed=False)[1]
    return faces[part[faces[:, 0]] == np.bincount(part).argmax()]


def similarity(source: NDArray, target: NDArray) -> tuple[float, NDArray, NDArray]:
    """(scale, rotation (3, 3), shift (3,)) of least squares, source to target points (n, 3).

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    1991.
    """
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, spread, v = np.linalg.svd(b.T @ a)
    mirror = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    rotation = u @ np.diag(mirror) @ v
    scale = float((spread * mirror).sum() / (a**2).sum())
    return scale, rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0)


def fit_skin(
    start: NDArray, skin_faces: NDArray, face: NDArray, face_faces: NDArray,
    own: NDArray, other: NDArray,
) -> NDArray[np.float64]:  # fmt: skip
    """The skin (S, 3) moved onto the face; own, other: (n, 3) landmarks of both."""
    smooth = laplacian(skin_faces, len(start))
    smooth = smooth.T @ smooth
    points, normals, _ = surface_points(face, face_faces)
    tree, held = cKDTree(points), cKDTree(start).query(own)[1]
    skin = start
    for stiffness in np.repeat(STIFFNESS, STEPS):
        own_normals = vertex_normals(skin, skin_faces)
        index, distance = facing_neighbours(tree, normals, skin, own_normals)
        weight = (distance < NEAR_M).astype(np.float64)
        pull = weight[:, None] * (points[index] - start)
        if stiffness >= LANDMARKS_UNTIL:
            np.add.at(weight, held, W_LANDMARK)
            np.add.at(pull, held, W_LANDMARK * (other - start[held]))
        system = stiffness * smooth + diags(weight + 1e-6)
        skin = start + splu(system.tocsc()).solve(pull)
    return skin


def facing_neighbours(
    tree: cKDTree, normals: NDArray, points: NDArray, own_normals: NDArray
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(index, distance) of each point's closest neighbour whose normal agrees; else inf."""
    distance, index = tree.query(points, NEIGHBOURS)
    agree = np.einsum("nkc,nc->nk", normals[index], own_normals) > FACING
    distance = np.where(agree, distance, np.inf)
    best, row = distance.argmin(axis=1), np.arange(len(points))
    return index[row, best], distance[row, best]


def surface_points(
    vertices: NDArray, faces: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64], csr_matrix]:
    """(points (n, 3), normals (n, 3), matrix (n, V) with points = matrix @ vertices)."""
    n = 4
    while n > 1 and len(faces) * (n + 1) * (n + 2) // 2 > MAX_POINTS:
        n -= 1
    grid = np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]) / n
    row = np.repeat(np.arange(len(faces) * len(grid)), 3)
    column = np.repeat(faces, len(grid), axis=0).ravel()
    share = np.tile(grid.ravel(), len(faces))
    matrix = csr_matrix((share, (row, column)), (len(faces) * len(grid), len(vertices)))
    return matrix @ vertices, np.repeat(face_normals(vertices, faces), len(grid), axis=0), matrix


def face_normals(vertices: NDArray, faces: NDArray) -> NDArray[np.float64]:
    """Unit normals (F, 3)."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)


def vertex_normals(vertices: NDArray, faces: NDArray) -> NDArray[np.float64]:
    """Unit normals (V, 3), the mean of those of the faces; 0 for a vertex without faces."""
    normal = np.zeros_like(vertices)
    of_faces = face_normals(vertices, faces)
    for i in range(3):
        np.add.at(normal, faces[:, i], of_faces)
    return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)


def laplacian(faces: NDArray, n_vertices: int) -> csr_matrix:
    """The graph Laplacian (V, V) of a mesh."""
    edges = np.vstack([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    edges = np.vstack([edges, edges[:, ::-1]])
    graph = csr_matrix((np.ones(len(edges)), edges.T), (n_vertices, n_vertices))
    return diags(np.asarray(graph.sum(axis=1)).ravel()) - graph
