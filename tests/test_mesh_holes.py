"""Doubled faces and the filling of holes, on a hand-made mask and on the real topologies."""

import numpy as np
import pytest

from files.meshes import load_faces, load_mesh, load_templates
from rendering.mesh_holes import HoleFill, boundary_loops, drop_doubles
from rendering.renderer import Renderer
from synthetic.head import load_head

N = 21  # vertices along a side of the mask


def mask():
    """(vertices (N·N, 3), faces) of a bent sheet with two eyes and a mouth cut out."""
    x, y = np.meshgrid(np.linspace(-1, 1, N), np.linspace(-1, 1, N))
    vertices = np.stack([x, y, -0.3 * x**2], axis=-1).reshape(-1, 3)
    cell = (np.arange(N - 1)[:, None] * N + np.arange(N - 1)).ravel()
    row, column = np.divmod(cell, N)
    eye = (row == 14) & (np.isin(column, (4, 5, 6)) | np.isin(column, (13, 14, 15)))
    mouth = (row == 5) & (column > 6) & (column < 13)
    cell = cell[~(eye | mouth)]
    a, b, c, d = cell, cell + 1, cell + N + 1, cell + N
    return vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def test_a_doubled_face_is_drawn_once_and_the_right_way_round():
    vertices, faces = mask()
    wrong = faces[7, ::-1]
    unique = drop_doubles(np.concatenate([[wrong], faces, faces[3:4]]), vertices)
    assert {tuple(np.roll(f, -f.argmin())) for f in unique} == {
        tuple(np.roll(f, -f.argmin())) for f in faces
    }
    assert len(unique) == len(faces)
    assert drop_doubles(faces, vertices) is faces


def test_boundary_loops_follow_every_open_edge():
    _, faces = mask()
    loops = sorted(boundary_loops(faces), key=len)
    # a hole of h x w cells has 2 (h + w) edges: two eyes of 1 x 3, a mouth of 1 x 6, the border
    assert [len(loop) for loop in loops] == [8, 8, 14, 4 * (N - 1)]
    edges = {(a, b) for f in faces.tolist() for a, b in zip(f, f[1:] + f[:1], strict=True)}
    for loop in loops:
        pairs = set(zip(loop.tolist(), np.roll(loop, -1).tolist(), strict=True))
        assert pairs <= edges and not {(b, a) for a, b in pairs} & edges


def test_a_mask_gets_a_mouth_and_two_eyes_that_leave_no_hole():
    vertices, faces = mask()
    fill = HoleFill(faces, vertices)
    assert len(fill.mouths) == 1 and len(fill.eyes) == 2
    assert (vertices[fill.mouths[0], 1] < 0).all()
    filled = fill.append_vertices(vertices)
    closed = fill.append_faces(faces, len(vertices))
    np.testing.assert_array_equal(filled[: len(vertices)], vertices)
    np.testing.assert_array_equal(closed[: len(faces)], faces)
    assert closed.max() == len(filled) - 1
    assert fill.append_colours(np.ones((len(vertices), 3))).shape == filled.shape
    added = filled[len(vertices) :]
    assert added[:, 2].max() < 0.05  # behind the mask, which lies between -0.3 and 0
    black = Renderer(faces, vertices, size=128, background="black").frame(vertices)
    white = Renderer(faces, vertices, size=128, background="white").frame(vertices)
    inside = (slice(20, 108), slice(20, 108))
    assert np.abs(black[inside].astype(int) - white[inside]).max() < 40  # no background shows


def test_every_triangle_of_the_fill_faces_out():
    vertices, faces = mask()
    fill = HoleFill(faces, vertices)
    filled = fill.append_vertices(vertices)
    closed = fill.append_faces(faces, len(vertices))
    a, b, c = filled[closed[len(faces) :]].transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    n_mouth = sum(2 * 3 * len(rim) + len(rim) for rim in fill.mouths)
    assert (normals[:n_mouth, 2] > -1e-9).all()  # the cavity looks at the viewer
    for k, eye in enumerate(fill.eyes):
        part = slice(n_mouth + k * 768, n_mouth + (k + 1) * 768)
        outward = (a[part] - eye.ball.mean(axis=0)) * normals[part]
        assert (outward.sum(axis=1) > -1e-9).all()


def test_the_cavity_moves_with_the_lips_and_the_eyes_do_not_blink():
    vertices, faces = mask()
    fill = HoleFill(faces, vertices)
    moved = vertices.copy()
    moved[fill.mouths[0]] += [0.0, -0.1, 0.0]
    lid = fill.eyes[0]
    others = np.setdiff1d(np.arange(len(vertices)), [*fill.mouths[0], *lid.corners])
    moved[others] += [0.0, 0.0, 0.05]
    change = (fill.append_vertices(moved) - fill.append_vertices(vertices))[len(vertices) :]
    n_mouth = 4 * len(fill.mouths[0]) + 1
    np.testing.assert_allclose(change[:n_mouth], np.tile([0.0, -0.1, 0.0], (n_mouth, 1)), atol=1e-9)
    np.testing.assert_allclose(change[n_mouth : n_mouth + len(lid.ball)], 0.0, atol=1e-9)


def test_a_head_with_a_mouth_of_its_own_is_not_filled():
    head = load_head()
    fill = HoleFill(head.faces, next(iter(head.templates.values())))
    assert not fill.mouths and not fill.eyes


@pytest.mark.parametrize(
    ("template", "eyes"), [("vocaset/FLAME_sample.ply", 0), ("biwi/BIWI.ply", 2),
                           ("biwi6/templates/F1.obj", 2)]
)  # fmt: skip
def test_real_topologies_get_the_mouth_and_eyes_that_they_lack(shared_data, template, eyes):
    vertices, faces = load_mesh(shared_data / template)
    fill = HoleFill(drop_doubles(faces, vertices), vertices)
    assert len(fill.mouths) == 1 and len(fill.eyes) == eyes
    lips = vertices[fill.mouths[0]]
    assert np.ptp(lips[:, 0]) > 2 * np.ptp(lips[:, 1])  # shut: wide and low


def test_biwi_6_has_no_flickering_triangle(shared_data):
    faces = load_faces(shared_data / "biwi6/templates/F1.obj")
    for vertices in load_templates(shared_data / "biwi6/templates.pkl").values():
        unique = drop_doubles(faces, vertices)
        assert len(faces) - len(unique) == 2
        assert len(np.unique(np.sort(unique, axis=1), axis=0)) == len(unique)
