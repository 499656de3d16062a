"""Units on another topology: the skin of another subject, its vertices in another order."""

from fractions import Fraction

import numpy as np
import pytest

from export import registration, transfer
from export.clip import Clip
from export.curves import curves_of
from export.eye_landmarks import eye_landmarks
from export.face_landmarks import landmarks
from files.meshes import load_mesh
from synthetic.head import load_head

HEAD = load_head()
SCALE = 1.05
SUBJECTS = ("ada", "ben", "mei")  # the others take as long


@pytest.fixture(scope="module")
def other_face():
    """(template (V, 3), faces, order): ben's skin, 5 % larger and shuffled."""
    order = np.random.default_rng(0).permutation(HEAD.parts["skin"])
    number = np.full(len(HEAD.colors), -1)
    number[order] = np.arange(len(order))
    faces = number[HEAD.faces]
    template = SCALE * HEAD.templates["ben"][order]
    return template.astype(np.float32), faces[(faces >= 0).all(axis=1)], order


def test_the_line_of_the_mouth_and_its_corners_are_where_the_head_has_them():
    names = ("upper_lip_inner", "mouth_left", "mouth_right")
    for template in map(HEAD.templates.get, SUBJECTS):
        skin = HEAD.faces[np.isin(HEAD.faces, HEAD.parts["skin"]).all(axis=1)]
        found = landmarks(template, skin)[[3, 7, 8]]
        stored = template[[HEAD.landmarks[name] for name in names]]
        apart = np.linalg.norm((found - stored)[:, :2], axis=1)  # the seam of the lips is hidden
        assert (apart < 4e-3).all(), apart


def test_lids_and_corners_lie_around_the_eyes_of_the_head():
    for template in map(HEAD.templates.get, SUBJECTS):
        skin = HEAD.faces[np.isin(HEAD.faces, HEAD.parts["skin"]).all(axis=1)]
        eyes = eye_landmarks(template, skin, template[template[:, 2].argmax()]).reshape(2, 4, 3)
        for part, eye in zip(("left_eye", "right_eye"), eyes, strict=True):
            centre = template[HEAD.parts[part]].mean(axis=0)
            inner, outer, upper, lower = eye - centre
            assert abs(inner[0] + centre[0]) < abs(centre[0]) < abs(outer[0] + centre[0])
            assert lower[1] < 0 < upper[1]
            assert (np.linalg.norm((eye - centre)[:, :2], axis=1) < 0.02).all()


def test_a_face_without_openings_has_no_eyes():
    sphere = np.indices((9, 9)).reshape(2, -1).T * 0.02 - 0.08
    vertices = np.column_stack([sphere, 0.2 - (sphere**2).sum(axis=1)])
    corner = np.arange(80).reshape(-1, 1)[np.arange(80) % 9 != 8][:64]
    faces = np.concatenate([corner + [0, 9, 1], corner + [1, 9, 10]])
    assert np.isnan(eye_landmarks(vertices, faces, np.array([0.0, -0.04, 0.2]))).all()


def test_a_face_that_is_the_skin_takes_its_units_unchanged():
    units = np.stack([HEAD.units["jawOpen"], HEAD.units["mouthPucker"]]).astype(np.float64)
    faces, skin = registration.moved_skin(HEAD, units)
    neutral = registration.mean_face(HEAD)[skin]
    fit = registration.Registration(skin, faces, 2 * neutral, 2 * neutral, 2.0, np.eye(3))
    result = transfer.deformed(fit, 2 * units[:, skin], 2 * neutral, faces)
    np.testing.assert_allclose(result, 2 * units[:, skin], atol=3e-4)  # of 40 mm; lips touch


def test_flame_takes_the_units_without_folded_or_torn_triangles(shared_data, monkeypatch):
    monkeypatch.setattr(registration, "STIFFNESS", (100.0, 3.0))
    monkeypatch.setattr(registration, "STEPS", 1)  # coarse, but fast
    vertices, faces = load_mesh(shared_data / "vocaset/FLAME_sample.ply")
    names, units = transfer.transferred_units(HEAD, vertices, faces)
    assert set(HEAD.units) - set(names) == {"tongueOut", "tongueUp"}
    at_rest = registration.face_normals(vertices, faces)
    for name in ("jawOpen", "mouthClose", "mouthSmileLeft", "eyeBlinkLeft"):
        moved = vertices + units[names.index(name)]
        turned = (registration.face_normals(moved, faces) * at_rest).sum(axis=1) < -0.5
        assert turned.sum() <= 0.005 * len(faces), name
    jaw, close = (units[names.index(name)] for name in ("jawOpen", "mouthClose"))
    lips = np.flatnonzero(np.linalg.norm(close, axis=1) > 0.7 * np.linalg.norm(close, axis=1).max())
    assert (
        np.linalg.norm((jaw + close)[lips], axis=1).mean()
        < np.linalg.norm(jaw[lips], axis=1).mean()
    )


def test_speech_of_another_topology_gives_the_same_curves(other_face, monkeypatch):
    monkeypatch.setattr(registration, "STIFFNESS", (100.0, 3.0))
    monkeypatch.setattr(registration, "STEPS", 2)  # coarse, but fast
    template, faces, order = other_face
    truth = {"jawOpen": [0.4, 0.1, 0.0], "mouthPucker": [0.0, 0.6, 0.0], "browInnerUp": [0, 0, 0.5]}
    offsets = sum(np.multiply.outer(v, HEAD.units[name][order]) for name, v in truth.items())
    vertices = (template + SCALE * offsets).astype(np.float32)
    clip = Clip(vertices, template, faces, Fraction(30), 1.0, "speech", topology="own")
    curves = curves_of(clip)
    assert curves.rms_mm < 0.15 * curves.motion_mm
    for name, values in truth.items():
        np.testing.assert_allclose(curves.values[:, curves.names.index(name)], values, atol=0.08)
    assert not [name for name in curves.names if name.startswith("tongue")]


def test_a_similarity_is_recovered():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(7, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    scale, rotation, shift = registration.similarity(
        points, 1.7 * points @ turn.T + [1.0, 2.0, 3.0]
    )
    np.testing.assert_allclose(scale, 1.7)
    np.testing.assert_allclose(rotation, turn, atol=1e-12)
    np.testing.assert_allclose(shift, [1.0, 2.0, 3.0], atol=1e-12)
