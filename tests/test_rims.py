"""Back sides that no picture can show, against pictures of all faces."""

import numpy as np
import pytest
import trimesh

from rendering import raster
from rendering.occlusion import look_around, measure_openness
from rendering.rims import ANYWHERE, MARGIN, find_rims, no_rims, rim_boxes, with_exposed

SIDE = 96


def box(open_top: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(faces, points) of a cube of side 1; with an open top, without the two faces at y = 1."""
    mesh = trimesh.creation.box()
    faces, points = np.asarray(mesh.faces, np.int32), np.asarray(mesh.vertices) + 0.5
    return faces[(points[faces, 1] < 1).any(axis=1)] if open_top else faces, points


def depth_of(faces: np.ndarray, points: np.ndarray, rims) -> np.ndarray:
    """The z-buffer of points seen from 6 away along z."""
    w = 1 / (6 - points[:, 2])
    screen = np.stack(
        [SIDE * (0.5 + 1.6 * points[:, 0] * w), SIDE * (0.5 - points[:, 1] * w), w], 1
    )
    depth = np.empty((SIDE, SIDE), np.float32)
    openness = np.ones(len(points), np.float32)
    raster.rasterise_depth(screen, faces.astype(np.int32), openness, rims, 0, SIDE, depth)
    return depth


def turned(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The points (V, 3), rotated at random."""
    matrix = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return points @ (matrix * np.sign(np.linalg.det(matrix))).T


def test_a_closed_surface_has_no_rim() -> None:
    rims = find_rims(*box())
    assert (rims.part == 0).all() and rims.first.tolist() == [0, 0] and not len(rims.vertices)


def test_the_rim_of_an_open_box_is_its_upper_square() -> None:
    faces, points = box(open_top=True)
    rims = find_rims(faces, points)
    assert (
        (rims.part == 0).all() and rims.first.tolist() == [0, 1] and rims.starts.tolist() == [0, 4]
    )
    assert set(rims.vertices) == set(np.flatnonzero(points[:, 1] == 1))
    screen = points * [10, 20, 1] + [0, 0, 0.5]
    expected = [0 - MARGIN, 10 + MARGIN, 20 - MARGIN, 20 + MARGIN]
    np.testing.assert_array_equal(rim_boxes(screen, rims), [expected])
    screen[rims.vertices[0], 2] = 0.0  # behind the viewer
    np.testing.assert_array_equal(rim_boxes(screen, rims), [[-np.inf, np.inf, -np.inf, np.inf]])


def test_rims_belong_to_their_parts() -> None:
    faces, points = box(open_top=True)
    closed, corners = box()
    both = np.concatenate([closed, faces + len(corners), closed + 2 * len(corners)])
    rims = find_rims(both, np.concatenate([corners, points + 3, corners + 6]))
    assert rims.part.tolist() == [0] * len(closed) + [1] * len(faces) + [2] * len(closed)
    assert rims.first.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("shape", ["inside out", "sheet"])
def test_back_sides_of_what_encloses_nothing_are_seen_anywhere(shape: str) -> None:
    faces, points = box()
    faces = faces[(points[faces, 1] == 1).all(axis=1)] if shape == "sheet" else faces[:, ::-1]
    assert (find_rims(faces, points).part == ANYWHERE).all()


def test_pictures_are_those_of_all_faces(rng: np.random.Generator) -> None:
    """A ball with two holes and a turned face, a bowl in it, an egg, and a ball inside out."""
    ball = trimesh.creation.icosphere(subdivisions=2)
    faces, points = np.asarray(ball.faces), np.asarray(ball.vertices)
    middles = points[faces].mean(axis=1)
    holed = faces[(middles[:, 2] < 0.9) & (middles[:, 0] < 0.95)]
    holed[7] = holed[7, ::-1]
    bowl = faces[middles[:, 2] < 0.2]
    n = len(points)
    mesh = np.concatenate([holed, bowl + n, faces + 2 * n, faces[:, ::-1] + 3 * n])
    egg = points * [0.3, 1.4, 0.3] + [0.4, 0.0, 0.1]
    scene = np.concatenate([points, 0.6 * points, egg, 0.3 * points + [1.1, 0.8, 0.6]])
    rims = find_rims(mesh, scene)
    assert (rims.part == ANYWHERE).sum() == len(faces)
    for _ in range(40):
        view = turned(scene, rng)
        expected = depth_of(mesh, view, no_rims(len(mesh)))
        assert (expected > 0).mean() > 0.1
        np.testing.assert_array_equal(depth_of(mesh, view, rims), expected)


def test_a_dent_that_comes_out_on_the_other_side_is_found(rng: np.random.Generator) -> None:
    """Its tip is inside out, so pictures of the template show its back sides far from any rim."""
    ball = trimesh.creation.icosphere(subdivisions=3)
    faces, points = np.asarray(ball.faces, np.int32), np.array(ball.vertices)
    dent = points[:, 1] > 0.8
    points[dent, 1] = 0.8 - 12 * (points[dent, 1] - 0.8)  # from 0.8 .. 1 to 0.8 .. -1.6
    rims = find_rims(faces, points)
    openness, exposed = look_around(points, faces, rims)
    tip = points[:, 1] < -1.2
    assert (rims.part == 0).all() and exposed[tip].mean() > 0.9
    assert not exposed[~dent & (np.abs(points[:, 1]) < 0.5)].any()
    np.testing.assert_array_equal(measure_openness(points, faces), openness)
    rims = with_exposed(rims, faces, exposed)
    assert ANYWHERE in rims.part and 0 in rims.part
    for _ in range(10):
        view = turned(points, rng)
        np.testing.assert_array_equal(
            depth_of(faces, view, rims), depth_of(faces, view, no_rims(len(faces)))
        )


def test_back_sides_away_from_rims_are_not_drawn() -> None:
    """A closed ball turned inside out, said to be closed: nothing of it is drawn but its fronts."""
    ball = trimesh.creation.icosphere(subdivisions=2)
    faces, points = np.asarray(ball.faces), np.asarray(ball.vertices)
    near = depth_of(faces, points, find_rims(faces, points))
    far = depth_of(faces[:, ::-1], points, find_rims(faces, points))
    middle = SIDE // 2
    assert near[middle, middle] == pytest.approx(1 / 5, rel=0.02)  # 6 - 1 away
    assert far[middle, middle] == pytest.approx(1 / 7, rel=0.02)  # 6 + 1
