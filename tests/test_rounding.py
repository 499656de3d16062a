"""The finer mesh for drawing: rounder, closed, through the same vertices."""

import numpy as np
import pytest
import trimesh

from config import RECIPES
from rendering.face import appearance
from rendering.renderer import Renderer
from rendering.rounding import Rounding
from synthetic.head import load_head


@pytest.fixture(scope="module")
def ball():
    """(faces, vertices) of a coarse unit sphere."""
    mesh = trimesh.creation.icosphere(subdivisions=2)
    return np.asarray(mesh.faces, np.int32), np.asarray(mesh.vertices)


def rounded(ball, where):
    faces, vertices = ball
    rounding = Rounding(faces, vertices, where)
    return rounding.faces, rounding.append_vertices(vertices)


def test_new_vertices_of_a_sphere_lie_on_the_sphere(ball):
    faces, points = rounded(ball, np.ones(len(ball[1]), bool))
    chords = ball[1][ball[0][:, :2]].mean(axis=1)
    flat = 1 - np.linalg.norm(chords, axis=1).min()  # depth of a chord below the sphere
    assert abs(np.linalg.norm(points, axis=1) - 1).max() < 0.2 * flat  # normals are not exact
    assert len(faces) == 4 * len(ball[0])


def test_own_vertices_stay_first_and_in_place(ball):
    points = rounded(ball, np.ones(len(ball[1]), bool))[1]
    np.testing.assert_array_equal(points[: len(ball[1])], ball[1])


def test_the_mesh_stays_closed_where_only_a_part_is_rounded(ball):
    faces, points = rounded(ball, ball[1][:, 0] + ball[1][:, 1] > 0.2)
    mesh = trimesh.Trimesh(points, faces, process=False)
    assert len(ball[0]) < len(faces) < 4 * len(ball[0])
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume > trimesh.Trimesh(ball[1], ball[0]).volume


def test_a_flat_surface_keeps_its_triangles():
    x, y = np.meshgrid(np.arange(5.0), np.arange(3.0))
    points = np.stack([x, y, 0.3 * x - 0.2 * y], axis=-1).reshape(-1, 3)
    corner = (np.arange(2)[:, None] * 5 + np.arange(4)).ravel()
    halves = ([0, 1, 6], [0, 6, 5])
    faces = np.concatenate([corner[:, None] + half for half in halves]).astype(np.int32)
    np.testing.assert_array_equal(rounded((faces, points), np.ones(15, bool))[0], faces)


def test_values_of_new_vertices_are_means_of_their_edge(ball):
    rounding = Rounding(*ball, np.ones(len(ball[1]), bool))
    values = rounding.append_values(ball[1])
    np.testing.assert_allclose(values[len(ball[1]) :], ball[1][rounding.edges].mean(axis=1))


def test_a_picture_frames_the_given_vertices(ball):
    faces, vertices = ball
    whole = Renderer(faces, vertices, size=64).camera
    upper = Renderer(faces, vertices, size=64, framed=vertices[:, 1] > 0).camera
    assert upper.centre[1] > whole.centre[1] + 0.4
    assert upper.width == whole.width


def test_the_head_is_rounded_outside_the_lips_and_framed_without_the_neck():
    head, spec = load_head(), RECIPES["synthetic"].dataset
    look = appearance(spec, "ada")
    inside = np.flatnonzero(look["rounded"][head.parts["skin"]])
    assert not look["rounded"][head.lips].any() and len(inside) > 0.8 * 4_956
    template = head.templates["ada"]
    assert look["framed"][[head.landmarks["chin"], template[:, 1].argmax()]].all()
    assert not look["framed"][template[:, 1].argmin()]
