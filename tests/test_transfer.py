"""Units on another topology: the skin of another subject, its vertices in another order."""

from fractions import Fraction

import numpy as np
import pytest

from export import transfer
from export.clip import Clip
from export.curves import curves_of
from export.face_landmarks import landmarks
from synthetic.head import load_head

HEAD = load_head()
SCALE = 1.05


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
    for template in HEAD.templates.values():
        skin = HEAD.faces[np.isin(HEAD.faces, HEAD.parts["skin"]).all(axis=1)]
        found = landmarks(template, skin)[[3, 7, 8]]
        stored = template[[HEAD.landmarks[name] for name in names]]
        apart = np.linalg.norm((found - stored)[:, :2], axis=1)  # the seam of the lips is hidden
        assert (apart < 4e-3).all(), apart


def test_speech_of_another_topology_gives_the_same_curves(other_face, monkeypatch):
    monkeypatch.setattr(transfer, "STIFFNESS", (100.0, 3.0))
    monkeypatch.setattr(transfer, "STEPS", 2)  # coarse, but fast
    template, faces, order = other_face
    truth = {"jawOpen": [0.4, 0.1, 0.0], "mouthPucker": [0.0, 0.6, 0.0], "browInnerUp": [0, 0, 0.5]}
    offsets = sum(np.multiply.outer(v, HEAD.units[name][order]) for name, v in truth.items())
    vertices = (template + SCALE * offsets).astype(np.float32)
    clip = Clip(vertices, template, faces, Fraction(30), 1.0, "speech", topology="own")
    curves = curves_of(clip)
    assert curves.rms_mm < 0.15 * curves.motion_mm
    for name, values in truth.items():
        np.testing.assert_allclose(curves.values[:, curves.names.index(name)], values, atol=0.08)
    assert not [name for name in curves.names if name.startswith(("eye", "tongue"))]


def test_a_similarity_is_recovered():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(7, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    scale, rotation, shift = transfer.similarity(points, 1.7 * points @ turn.T + [1.0, 2.0, 3.0])
    np.testing.assert_allclose(scale, 1.7)
    np.testing.assert_allclose(rotation, turn, atol=1e-12)
    np.testing.assert_allclose(shift, [1.0, 2.0, 3.0], atol=1e-12)
