"""Openness of points: by hand for simple shapes, and without flicker."""

import numpy as np
import pytest
import trimesh

from rendering import occlusion

SIDE = 256  # samples of the depth picture
FOCAL = 256.0  # samples: at distance 10, a sample is 10 / 256 wide
POINT, PLATE = 1 / 10, 1 / 9  # w of the enclosed point and of a plate in front of it


def openness_behind(half_width, x=SIDE / 2, resting=0.0):
    """Openness of a point behind the middle of a square hole in the plate."""
    depth = np.full((SIDE, SIDE), PLATE, np.float32)
    hole = np.abs(np.arange(SIDE) + 0.5 - SIDE / 2) < half_width
    depth[np.ix_(hole, hole)] = POINT
    openness = np.empty(1)
    screen = np.array([[x, SIDE / 2, POINT]])
    occlusion.open_mouth(screen, depth, FOCAL, np.array([resting]), openness)
    return openness[0]


def test_openness_is_one_in_the_open_and_zero_inside():
    mesh = trimesh.creation.icosphere(subdivisions=4)
    faces, vertices = np.asarray(mesh.faces, np.int32), np.asarray(mesh.vertices)
    both = np.vstack([vertices, 0.5 * vertices])
    openness = occlusion.measure_openness(both, np.vstack([faces, faces + len(vertices)]))
    assert openness[: len(vertices)].min() > 0.95
    assert openness[len(vertices) :].max() < 0.05


def test_a_valley_is_as_open_as_its_walls_are_low():
    # The bottom of a V whose walls rise at 45 degrees sees half of the cosine-weighted sky across
    # the valley and more of it along: between 0.5 and 1, where a flat floor sees all.
    x, z = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21))
    corners = np.arange(20)[:, None] * 21 + np.arange(20)
    low = np.stack([corners, corners + 21, corners + 1], axis=-1).reshape(-1, 3)
    high = np.stack([corners + 1, corners + 21, corners + 22], axis=-1).reshape(-1, 3)
    faces = np.vstack([low, high]).astype(np.int32)
    middle = 10 * 21 + 10
    flat, valley = (
        occlusion.measure_openness(np.stack([x, rise * np.abs(x), z], -1).reshape(-1, 3), faces)
        for rise in (0.0, 1.0)
    )
    assert flat[middle] > 0.95
    assert 0.5 < valley[middle] < 0.8


def test_a_wider_hole_lets_in_more_light():
    values = [openness_behind(half_width) for half_width in (0, 4, 8, 12, SIDE)]
    assert values == sorted(values) and values[-1] == pytest.approx(1.0, abs=1e-4)
    assert values[0] < 0.15


def test_the_light_through_a_round_hole_is_that_of_its_rim():
    # Nothing but the outermost ring (0.044 of the picture) is hit: the rise is 1 in 0.44.
    away = occlusion.MOUTH_RADII[-1] * SIDE * 10 / FOCAL
    rise = 1.0 / away
    expected = 1 - rise / np.hypot(1, rise)
    depth = np.full((SIDE, SIDE), PLATE, np.float32)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    depth[np.hypot(x, y) < 9.0] = POINT
    openness = np.empty(1)
    screen = np.array([[SIDE / 2, SIDE / 2, POINT]])
    occlusion.open_mouth(screen, depth, FOCAL, np.zeros(1), openness)
    assert openness[0] == pytest.approx(expected, rel=1e-3)


def test_open_points_keep_their_resting_openness():
    assert openness_behind(0, resting=0.9) == 0.9
    just_below = occlusion.ENCLOSED - 1e-6
    assert openness_behind(0, resting=just_below) == pytest.approx(just_below, abs=1e-4)


def test_light_in_the_mouth_does_not_flicker():
    values = [openness_behind(8, x=SIDE / 2 + shift) for shift in np.linspace(0, 3, 61)]
    assert np.abs(np.diff(values)).max() < 0.03  # a twentieth of a sample at a time
