"""Pictures: colours, coverage, depth, camera, light, bad meshes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from common.errors import UserError
from rendering import raster
from rendering.renderer import Camera, Renderer, check_size, choose_renderer, parse_colour
from rendering.rims import no_rims
from rendering.srgb import linear_to_srgb, srgb_to_linear

ROOT = Path(__file__).resolve().parents[1]
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


@pytest.fixture(scope="module")
def ball():
    """(faces, vertices) of a unit sphere, finer than a pixel's effect at the sizes used here."""
    mesh = trimesh.creation.icosphere(subdivisions=4)
    return np.asarray(mesh.faces), np.asarray(mesh.vertices)


def draw(ball, size=128, **options):
    faces, vertices = ball
    return Renderer(faces, vertices, size=size, **options).frame(vertices)


@pytest.mark.parametrize("text", ["white", "#ffffff", "ffffff", "255,255,255", (255, 255, 255)])
def test_colour_can_be_written_in_several_ways(text):
    assert parse_colour(text) == WHITE


@pytest.mark.parametrize("text", ["whitish", "#fff", "1,2", "1,2,300", "1,2,x", "", "ffffgg"])
def test_wrong_colour_is_named(text):
    with pytest.raises(UserError, match=f"background {text!r}: expected #rrggbb"):
        parse_colour(text)


def test_srgb_follows_the_standard_and_back():
    # IEC 61966-2-1 by hand: ((0.5 + 0.055) / 1.055) ** 2.4 = 0.21404
    assert srgb_to_linear(0.5) == pytest.approx(0.21404, abs=1e-5)
    values = np.linspace(0, 1, 101)
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-6)


def test_background_keeps_its_exact_colour(ball):
    assert tuple(draw(ball, background="#123456")[0, 0]) == (0x12, 0x34, 0x56)


def rasterise(points, faces, side):
    depth, ids = np.empty((side, side), np.float32), np.empty((side, side), np.int32)
    raster.rasterise(np.array(points, float), np.array(faces, np.int32), depth, ids)
    return depth, ids


def test_triangles_that_share_edges_leave_no_crack():
    generator = np.random.default_rng(3)
    centre = generator.uniform(5, 8, size=2)
    angles = np.sort(generator.uniform(0, 2 * np.pi, size=11))
    rim = centre + 40 * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # past the picture
    points = [(*centre, 1.0), *((x, y, 1.0) for x, y in rim)]
    fan = [(0, i + 1, (i + 1) % 11 + 1) for i in range(11)]
    assert (rasterise(points, fan, 13)[1] >= 0).all()
    assert (rasterise(points, [f[::-1] for f in fan], 13)[1] >= 0).all()


def test_only_samples_inside_a_triangle_are_covered():
    # Right angle at (2, 2), legs of 6: the centres with x + y <= 10 are inside.
    _, ids = rasterise([(2, 2, 1), (8, 2, 1), (2, 8, 1)], [(0, 1, 2)], 10)
    y, x = np.mgrid[:10, :10] + 0.5
    np.testing.assert_array_equal(ids >= 0, (x > 2) & (y > 2) & (x + y <= 10))


def test_depth_is_linear_across_a_triangle_and_the_nearest_wins():
    near = [(0, 0, 1.0), (20, 0, 3.0), (0, 20, 5.0)]  # w = 1 + x / 10 + y / 5
    far = [(x, y, 0.5) for x, y, _ in near]
    for first, second, expected in ((near, far, 0), (far, near, 1)):
        depth, ids = rasterise([*first, *second], [(0, 1, 2), (3, 4, 5)], 9)
        y, x = np.mgrid[:9, :9] + 0.5
        np.testing.assert_allclose(depth, 1 + x / 10 + y / 5, rtol=1e-5)
        assert (ids == expected).all()


def test_the_z_buffer_is_that_of_a_test_of_every_sample(rng):
    # Two sizes of triangles over three bands, fronts and back sides, some behind others.
    height, width, n = 70, 90, 120
    middles = rng.uniform([0, 0, 2], [width, height, 9], (n, 1, 3))
    points = (
        middles
        + rng.normal(size=(n, 3, 3))
        * [8, 8, 0.3]
        * (1 + 3 * (np.arange(n) % 7 == 0))[:, None, None]
    )
    corners = np.arange(3 * n, dtype=np.int32).reshape(n, 3)
    y, x = np.mgrid[:height, :width] + 0.5
    nearest, second, expected = np.zeros((3, height, width))
    clear = np.ones((height, width), bool)
    for f, (a, b, c) in enumerate(points):
        weights = []
        for p, q in ((b, c), (c, a), (a, b)):
            weights.append((p[0] - x) * (q[1] - y) - (q[0] - x) * (p[1] - y))
        weights = np.stack(weights) / sum(weights)
        w = weights[0] * a[2] + weights[1] * b[2] + weights[2] * c[2]
        inside = (weights >= 0).all(0) & (points[f, :, 2] > 0).all()
        clear &= np.abs(weights).min(0) > 1e-4
        second = np.where(inside, np.maximum(second, np.minimum(nearest, w)), second)
        expected = np.where(inside & (w > nearest), f + 1, expected)
        nearest = np.where(inside, np.maximum(nearest, w), nearest)
    clear &= nearest - second > 1e-4
    depth, ids = np.empty((height, width), np.float32), np.empty((height, width), np.int32)
    raster.rasterise(points.reshape(-1, 3), corners, depth, ids)
    assert clear.mean() > 0.8 and (expected > 0).mean() > 0.5
    np.testing.assert_array_equal(ids[clear], expected[clear] - 1)
    np.testing.assert_allclose(depth[clear], nearest[clear], rtol=1e-5)
    part = np.full_like(depth, np.nan)
    openness = rng.uniform(size=3 * n).astype(np.float32)  # faces in another order
    raster.rasterise_depth(points.reshape(-1, 3), corners, openness, no_rims(n), 37, 61, part)
    np.testing.assert_array_equal(part[37:61], depth[37:61])


def test_normals_of_a_sphere_point_along_its_radii(ball):
    faces, vertices = ball
    normals = np.empty_like(vertices)
    raster.surface_normals(vertices, faces, np.empty((len(faces), 3), np.float32), normals)
    assert (normals * vertices).sum(axis=1).min() > 0.999


def test_a_sphere_fills_the_disc_of_its_perspective_projection(ball):
    size, camera = 200, Camera(ball[1], 200)
    image = draw(ball, size=size, background=BLACK)
    radius = camera.focal_px * np.tan(np.arcsin(1 / camera.distance))
    assert (image > 0).any(axis=2).sum() == pytest.approx(np.pi * radius**2, rel=0.03)
    assert 0.4 < radius / size < 0.5  # fills the picture, stays inside


def test_the_unit_of_the_mesh_does_not_matter(ball):
    faces, vertices = ball
    difference = draw(ball).astype(int) - draw((faces, 1000 * vertices + 500))
    assert abs(difference).max() <= 3


def test_frames_are_steady_and_threads_change_nothing(ball):
    faces, vertices = ball
    renderer = Renderer(faces, vertices, size=96)
    sequence = vertices * np.linspace(0.8, 1.0, 7)[:, None, None]
    alone = list(renderer.frames(sequence))
    together = list(renderer.frames(sequence, workers=3))
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(alone[6], renderer.frame(vertices))


def test_a_yaw_of_90_degrees_shows_the_side():
    mesh = trimesh.creation.box(extents=(0.2, 1.0, 1.0))
    narrow, wide = (draw((mesh.faces, mesh.vertices), background=BLACK, yaw=yaw) for yaw in (0, 90))
    assert (wide > 0).any(axis=2).sum() > 3 * (narrow > 0).any(axis=2).sum()


def test_positive_yaw_turns_the_face_to_the_viewers_right(ball):
    faces, vertices = ball
    nose = (vertices[:, 2] > 0.97).astype(float)[:, None]
    colors = np.hstack([nose, 0 * nose, 0 * nose])  # a red nose on a black ball
    for yaw, side in ((30, 1), (-30, -1)):
        image = draw(ball, background=BLACK, colors=colors, yaw=yaw).astype(float)
        red = (image[..., 0] - image[..., 1]).clip(0)  # without the highlights
        x = (red.sum(axis=0) * (np.arange(128) - 63.5)).sum() / red.sum()
        assert side * x > 10


@pytest.mark.parametrize("yaw", [-90, -45, 20, 90])
def test_a_turned_head_stays_in_the_picture(yaw):
    mesh = trimesh.creation.box(extents=(0.4, 1.0, 1.6))  # deeper than tall
    image = draw((mesh.faces, mesh.vertices), background=BLACK, yaw=yaw)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert image.any() and not border.any()


def test_the_inside_of_a_surface_is_dark(ball):
    faces, vertices = ball
    bowl = faces[(vertices[faces][:, :, 2] < 0.1).all(axis=1)]  # open towards the viewer
    front = faces[(vertices[faces][:, :, 2] > -0.1).all(axis=1)]
    inside = Renderer(bowl, vertices, size=64, background=BLACK).frame(vertices)
    outside = Renderer(front, vertices, size=64, background=BLACK).frame(vertices)
    middle = slice(28, 36)
    light = [srgb_to_linear(i[middle, middle] / 255).mean() for i in (inside, outside)]
    assert light[0] < 0.25 * light[1]


def test_white_walls_of_a_closed_room_give_a_finite_light(ball):
    # Albedo 1 and no opening: the geometric series of bounces would be 0 / 0.
    from rendering import shading

    assert shading._open_light(0.0, 1.0) == 0.0
    assert shading._open_light(1.0, 1.0) == 1.0


def test_light_above_the_knee_follows_an_exponential():
    from rendering import shading

    for light in (0.0, 0.3, 0.75, 0.8, 1.0, 1.7, 3.0, 40.0):
        exact = light if light <= 0.75 else 1.0 - 0.25 * np.exp((0.75 - light) / 0.25)
        assert shading._knee(np.float32(light)) == pytest.approx(exact, abs=1e-6)


def test_a_mesh_that_is_inside_out_is_turned_round(ball):
    faces, vertices = ball
    np.testing.assert_array_equal(draw(ball), draw((faces[:, ::-1], vertices)))


def test_edges_are_anti_aliased(ball):
    grey = draw(ball, background=BLACK, colors=np.ones_like(ball[1])).mean(axis=2)
    row = grey[64]
    lit = np.flatnonzero(row)
    assert 0 < row[lit[0]] < 0.9 * row[lit[0] + 2]


def test_colours_reach_the_picture_and_gloss_adds_a_highlight(ball):
    vertices = ball[1]
    red = draw(ball, colors=np.tile([0.8, 0.1, 0.1], (len(vertices), 1)))
    assert red[64, 64, 0] > 2 * red[64, 64, 1]
    dark = np.full_like(vertices, 0.1)
    wet = draw(ball, background=BLACK, colors=dark, gloss=np.ones(len(vertices)))
    dry = draw(ball, background=BLACK, colors=dark)
    assert wet.max() > 200 > dry.max()


def test_nan_vertices_are_refused(ball):
    faces, vertices = ball
    renderer = Renderer(faces, vertices, size=64)
    broken = vertices.copy()
    broken[5, 1] = np.nan
    with pytest.raises(UserError, match="mesh: 1 vertices with NaN"):
        renderer.frame(broken)
    with pytest.raises(UserError, match="template: 1 vertices with NaN"):
        Renderer(faces, broken)


def test_wrong_shapes_are_programming_errors(ball):
    faces, vertices = ball
    with pytest.raises(ValueError, match="template"):
        Renderer(faces, vertices, size=64).frame(vertices[:-1])
    with pytest.raises(ValueError, match="faces: indices 0 to 2561, the template has 2561"):
        Renderer(faces, vertices[:-1])
    with pytest.raises(ValueError, match="colors"):
        Renderer(faces, vertices, colors=np.ones((3, 3)))
    with pytest.raises(ValueError, match="colors"):
        Renderer(faces, vertices, colors=255 * np.ones_like(vertices))


def test_a_template_without_extent_is_refused(ball):
    with pytest.raises(UserError, match="at one point"):
        Renderer(ball[0], np.ones_like(ball[1]))


WILD_MESHES = """
import numpy as np, trimesh
from rendering.renderer import Renderer
mesh = trimesh.creation.icosphere(subdivisions=1)
mesh = mesh + trimesh.creation.icosphere(subdivisions=1, radius=0.5)  # white and enclosed
white = np.ones_like(mesh.vertices)
renderer = Renderer(mesh.faces, mesh.vertices, size=64, colors=white, gloss=white[:, 0])
generator = np.random.default_rng(0)
for scale in (1e-30, 1.0, 30.0, 1e30, 1e150, 1e300):
    for offset in ([0, 0, 0], [50, -30, 0], [0, 0, 5.5], [0, 0, 500], [-1e9, 1e9, 1e9]):
        for noise in (0.0, 3.0):
            wild = mesh.vertices * scale + offset
            renderer.frame(wild + noise * generator.normal(size=wild.shape))
print(renderer.frame(mesh.vertices + [0, 0, 500]).min(), renderer.frame(mesh.vertices).min() < 255)
"""


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code], cwd=ROOT,
        capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_wild_meshes_stay_within_bounds(tmp_path):
    done = run_python(WILD_MESHES, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path))
    assert done.stdout.split() == ["255", "True"], done.stderr  # behind the viewer: background


def test_drawing_works_where_no_cache_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    done = run_python(
        "from rendering import raster\nimport numpy as np\n"
        "raster.rasterise(np.zeros((3, 3)), np.zeros((1, 3), np.int32),"
        " np.zeros((2, 2), np.float32), np.zeros((2, 2), np.int32)); print('drawn')",
        NUMBA_CACHE_DIR=str(tmp_path / "file" / "cache"),
    )
    assert done.stdout.strip() == "drawn", done.stderr


def test_unknown_renderers_and_sizes_are_refused():
    with pytest.raises(UserError, match="'opengl': expected one of auto, software, gpu"):
        choose_renderer("opengl")
    with pytest.raises(UserError, match="renderer 'opengl': expected"):
        Renderer(np.eye(3, dtype=int), np.eye(3), renderer="opengl")
    for size in (0, 63, 801, 10_000):
        with pytest.raises(UserError, match="even number of pixels"):
            check_size(size)
