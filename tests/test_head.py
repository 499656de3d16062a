"""The shipped head: topology, closed lips, teeth behind the lips, symmetric units."""

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from common.errors import UserError
from synthetic.head import HEAD_FILE, channel_basis, load_head

GAP_AT_REST = 3e-4  # metres
# Targets of speech, in the channels of synthetic/coarticulation.py: rounded, spread, open, closed.
VISEMES = {
    "rest": {},
    "m": dict(
        jawOpen=0.10, mouthClose=0.105, mouthPress=0.38, mouthRollLower=0.36, mouthRollUpper=0.32
    ),
    "p": dict(
        jawOpen=0.10, mouthClose=0.105, mouthPress=0.50, mouthRollLower=0.54, mouthRollUpper=0.45
    ),
    "f": dict(
        jawOpen=0.11, mouthClose=0.08, mouthRollLower=0.74, mouthUpperUp=0.38, mouthStretch=0.10
    ),
    "s": dict(jawOpen=0.03, mouthLowerDown=0.48, mouthUpperUp=0.26, mouthStretch=0.30),
    "sh": dict(jawOpen=0.08, mouthFunnel=0.40, mouthPucker=0.45, mouthLowerDown=0.28),
    "w": dict(jawOpen=0.16, mouthClose=0.16, mouthPucker=0.96, mouthFunnel=0.34),
    "uw": dict(jawOpen=0.22, mouthClose=0.22, mouthPucker=0.88, mouthFunnel=0.50),
    "iy": dict(jawOpen=0.15, mouthStretch=0.40, mouthSmile=0.28, mouthLowerDown=0.22),
    "aa": dict(jawOpen=0.68, mouthLowerDown=0.12, mouthUpperUp=0.06),
    "ao": dict(jawOpen=0.46, mouthClose=0.18, mouthFunnel=0.50, mouthPucker=0.45),
}


@pytest.fixture(scope="module")
def head():
    return load_head()


def pose(head, subject, curves):
    basis = channel_basis(head, list(curves)) if curves else np.zeros((0, *head.colors.shape))
    return head.templates[subject] + np.tensordot(list(curves.values()), basis, axes=1)


def lip_gap(head, vertices):
    marks = head.landmarks
    return vertices[marks["upper_lip_inner"], 1] - vertices[marks["lower_lip_inner"], 1]


def test_the_head_file_is_smaller_than_2_mb():
    assert HEAD_FILE.stat().st_size < 2e6


def test_indices_are_in_range_and_parts_cover_every_vertex_once(head):
    n = len(head.colors)
    assert head.faces.min() == 0 and head.faces.max() == n - 1
    for region in (head.lips, head.upper):
        assert len(np.unique(region)) == len(region) and 0 <= region.min() <= region.max() < n
    assert all(0 <= index < n for index in head.landmarks.values())
    np.testing.assert_array_equal(np.sort(np.concatenate(list(head.parts.values()))), np.arange(n))


def test_topology_is_the_one_that_models_were_trained_on(head):
    assert len(head.colors) == 6_045 and head.faces.shape == (11_574, 3)
    starts = [(name, part[0], len(part)) for name, part in head.parts.items()]
    starts.sort(key=lambda part: part[1])
    assert starts[:4] == [
        ("skin", 0, 4956), ("upper_teeth", 4956, 259), ("lower_teeth", 5215, 259),
        ("tongue", 5474, 111),
    ]  # fmt: skip


def test_the_skin_is_closed_in_every_subject(head):
    faces = head.faces[np.isin(head.faces, head.parts["skin"]).all(axis=1)]
    for template in head.templates.values():
        # The neck's rim is there twice, so that its edge stays sharp: equal places are one vertex.
        places, place = np.unique(template, axis=0, return_inverse=True)
        skin = trimesh.Trimesh(places, place.ravel()[faces], process=False)
        assert skin.is_watertight and skin.is_winding_consistent and skin.volume > 2e-3


def test_region_files_equal_the_regions_of_the_head(head):
    for name in ("lips", "upper"):
        listed = np.loadtxt(HEAD_FILE.with_name(f"{name}.txt"), dtype=np.int64)
        np.testing.assert_array_equal(listed, getattr(head, name))


def test_twelve_subjects_differ_in_shape_by_more_than_a_millimetre(head):
    templates = list(head.templates.values())
    assert len(templates) == len(head.subject_colors) == 12
    for i, one in enumerate(templates):
        for other in templates[:i]:
            assert np.linalg.norm(one - other, axis=1).mean() > 1e-3


def test_units_are_the_52_of_arkit_and_tongue_up(head):
    assert len(head.units) == 53 and "tongueUp" in head.units


def test_faces_of_closed_parts_point_outwards(head):
    vertices = head.templates["ada"].astype(np.float64)
    for part in ("skin", "tongue"):
        of_part = head.faces[np.isin(head.faces, head.parts[part]).all(axis=1)]
        a, b, c = (vertices[of_part[:, i]] - vertices[head.parts[part]].mean(0) for i in range(3))
        assert np.einsum("ij,ij->", np.cross(a, b), c) > 0  # six times the volume


@pytest.mark.parametrize(
    "curves", [{}, VISEMES["m"], VISEMES["p"], dict(jawOpen=0.5, mouthClose=0.5)]
)
def test_lips_touch_at_rest_on_m_and_where_mouth_close_equals_jaw_open(head, curves):
    for subject in head.templates:
        assert -1e-3 < lip_gap(head, pose(head, subject, curves)) <= GAP_AT_REST


@pytest.mark.parametrize("unit", ["mouthSmile", "mouthStretch", "mouthPucker", "mouthPress"])
def test_units_of_a_closed_mouth_keep_it_closed(head, unit):
    gap = lip_gap(head, pose(head, "ada", {unit: 1.0}))
    assert abs(gap) <= GAP_AT_REST + 5e-4


def test_funnel_opens_only_the_middle_of_the_mouth(head):
    vertices, rest = (pose(head, "ada", c) for c in ({"mouthFunnel": 1.0}, {}))
    assert lip_gap(head, vertices) == pytest.approx(0.012, abs=5e-4)
    lips = head.lips[np.abs(rest[head.lips, 0]) > 0.7 * rest[head.landmarks["mouth_left"], 0]]
    drop = (vertices - rest)[lips, 1]
    assert np.abs(drop).max() < 0.005  # of an opening of 12 mm


def test_gap_grows_with_jaw_open_to_about_21_mm(head):
    gaps = [lip_gap(head, pose(head, "ben", {"jawOpen": j})) for j in np.linspace(0, 1, 11)]
    assert (np.diff(gaps) > 1e-3).all()
    assert 0.018 < gaps[-1] < 0.024


def test_lower_lip_touches_the_upper_teeth_on_f(head):
    for subject in head.templates:
        vertices = pose(head, subject, VISEMES["f"])
        lip = vertices[head.landmarks["lower_lip_inner"]]
        edge = vertices[head.landmarks["upper_teeth"]]
        assert abs(lip[1] - edge[1]) < 2.5e-3 and abs(lip[2] - edge[2]) < 5e-3


@pytest.mark.parametrize("viseme", VISEMES)
def test_no_tooth_is_in_front_of_the_lips(head, viseme):
    teeth = np.concatenate([head.parts["upper_teeth"], head.parts["lower_teeth"]])
    for subject in head.templates:
        vertices = pose(head, subject, VISEMES[viseme])
        assert pierced(head, vertices, teeth).max(initial=0) < 1e-3


def test_no_tooth_is_in_front_of_closed_lips(head):
    teeth = np.concatenate([head.parts["upper_teeth"], head.parts["lower_teeth"]])
    for template in head.templates.values():
        assert pierced(head, template, teeth).max() <= 0


def test_lower_teeth_stay_behind_the_lower_lip_on_aa(head):
    # Their edges showed as specks along the lip.
    for subject in head.templates:
        vertices = pose(head, subject, VISEMES["aa"])
        front = head.parts["lower_teeth"][np.abs(vertices[head.parts["lower_teeth"], 0]) < 0.008]
        lip = vertices[head.landmarks["lower_lip_inner"], 1]
        assert vertices[front, 1].max() < lip + 1.5e-3


def test_brows_do_not_slope_inwards(head):
    for template in head.templates.values():
        brow = template[head.parts["left_brow"]].reshape(4, 9, 3).mean(axis=0)  # rows, columns
        rise = brow[4, 1] - brow[0, 1]  # from the inner end to above the pupil
        assert rise < 0.32 * (brow[4, 0] - brow[0, 0])


def pierced(head, vertices, points):
    """Distance (n,), metres, of each point in front of the skin at the same x and y.

    Only forward-facing triangles count; a negative distance means that the skin covers the point.
    """
    skin = head.faces[np.isin(head.faces, head.parts["skin"]).all(axis=1)]
    corners = vertices[skin]
    middle = vertices[points].mean(axis=0)
    skin = skin[(np.abs(corners.mean(axis=1) - middle) < [0.04, 0.03, 0.06]).all(axis=1)]
    a, b, c = (vertices[skin[:, i]] for i in range(3))
    area = cross(b - a, c - a)
    skin, a, b, c, area = (x[area > 1e-12] for x in (skin, a, b, c, area))  # facing forward
    p = vertices[points][:, None]  # (n, 1, 3)
    w_b, w_c = cross(p - a, c - a) / area, cross(b - a, p - a) / area
    depth = a[:, 2] + w_b * (b - a)[:, 2] + w_c * (c - a)[:, 2]
    over = (w_b >= 0) & (w_c >= 0) & (w_b + w_c <= 1)
    front = np.where(over, depth, -np.inf).max(axis=1)
    return np.where(np.isfinite(front), p[:, 0, 2] - front, 0.0)


def cross(u, v):
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def test_pierced_detects_teeth_moved_forward(head):
    vertices = pose(head, "ada", {})
    vertices[head.parts["upper_teeth"], 2] += 0.02
    assert pierced(head, vertices, head.parts["upper_teeth"]).max() > 5e-3


def test_jaw_open_moves_only_the_lower_teeth_and_rigidly(head):
    unit = head.units["jawOpen"]
    assert not unit[head.parts["upper_teeth"]].any()
    lower = head.templates["mei"][head.parts["lower_teeth"]].astype(np.float64)
    moved = lower + unit[head.parts["lower_teeth"]]
    size, opened = (np.linalg.norm(x - x.mean(axis=0), axis=1) for x in (lower, moved))
    np.testing.assert_allclose(opened, size, rtol=0.10)


@pytest.mark.parametrize("unit", ["mouthSmile", "browOuterUp", "eyeBlink", "mouthLowerDown"])
def test_left_and_right_units_mirror_each_other(head, unit):
    template = head.templates["ada"]
    left, right = head.units[unit + "Left"], head.units[unit + "Right"]
    skin = head.parts["skin"]
    mirrored = template[skin] * [-1, 1, 1]
    partner = cKDTree(template[skin]).query(mirrored)[1]
    np.testing.assert_allclose(left[skin], right[skin][partner] * [-1, 1, 1], atol=2e-3)
    same = np.linalg.norm(left, axis=1).max()
    assert same == pytest.approx(np.linalg.norm(right, axis=1).max(), rel=0.05)


def test_channel_without_a_side_moves_both(head):
    both = channel_basis(head, ["eyeBlink"])[0]
    np.testing.assert_allclose(both, head.units["eyeBlinkLeft"] + head.units["eyeBlinkRight"])


def test_unknown_channel_raises_value_error(head):
    with pytest.raises(ValueError, match="mouthWobble"):
        channel_basis(head, ["mouthWobble"])


def test_missing_and_damaged_files_are_reported(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_head(tmp_path / "head.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match="not a head file"):
        load_head(tmp_path / "bad.npz")


def test_inner_lips_file_holds_the_landmarks(head) -> None:
    rows = HEAD_FILE.with_name("inner_lips.txt").read_text().split()
    expected = [head.landmarks["upper_lip_inner"], head.landmarks["lower_lip_inner"]]
    assert [int(row) for row in rows] == expected
