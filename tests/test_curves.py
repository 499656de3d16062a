"""Curves of clips whose curves are known, and clips that have none."""

from fractions import Fraction

import numpy as np
import pytest

from common.errors import UserError
from export.clip import SYNTHETIC, Clip
from export.curves import curves_of, unit_basis
from synthetic.coarticulation import CHANNELS
from synthetic.head import SIDES, load_head

T = 7
HEAD = load_head()
NAMES, BASIS = unit_basis()
RNG = np.random.default_rng(0)


def clip_of(values, noise_mm=0.0, **changes):
    """The clip of ada with curves (T, 53)."""
    offsets = np.tensordot(values, BASIS, 1)
    offsets += noise_mm * RNG.normal(size=offsets.shape)
    template = HEAD.templates["ada"]
    parts = {
        "vertices": (template + offsets / 1000).astype(np.float32),
        "template": template,
        "faces": HEAD.faces,
        "fps": Fraction(30),
        "metres_per_unit": 1.0,
        "name": "speech",
        "topology": SYNTHETIC,
    }
    return Clip(**{**parts, **changes})


def speech(n_frames=T):
    """Curves (T, 53) of the channels of speech, left and right equal."""
    values = np.zeros((n_frames, len(NAMES)))
    for channel in CHANNELS:
        curve = RNG.uniform(0, 1, n_frames)
        for name in (channel, *(channel + side for side in SIDES)):
            if name in NAMES:
                values[:, NAMES.index(name)] = curve
    return values


def test_curves_of_speech_come_back_from_the_mesh():
    values = speech()
    curves = curves_of(clip_of(values))
    np.testing.assert_allclose(curves.values, values, atol=1e-4)
    assert curves.rms_mm < 1e-4 and curves.worst_mm < 1e-3


def test_a_raised_tongue_may_exceed_its_unit():
    values = speech()
    values[2, NAMES.index("tongueUp")] = 1.2
    np.testing.assert_allclose(curves_of(clip_of(values)).values, values, atol=1e-4)


def test_curves_of_every_unit_come_back_from_the_mesh():
    values = RNG.uniform(0, 1, (T, len(NAMES)))
    np.testing.assert_allclose(curves_of(clip_of(values)).values, values, atol=1e-3)


def test_one_sided_units_and_blinks_are_added_where_the_motion_needs_them():
    values = speech()
    for name, frame in (("mouthSmileLeft", 1), ("eyeBlinkLeft", 4), ("eyeBlinkRight", 4)):
        values[frame, NAMES.index(name)] = 0.9
    curves = curves_of(clip_of(values, noise_mm=0.01))
    np.testing.assert_allclose(curves.values, values, atol=5e-3)
    absent = [NAMES.index(name) for name in ("cheekPuff", "mouthDimpleLeft", "jawLeft")]
    assert (curves.values[:, absent] == 0).all()


def test_noise_of_the_mesh_moves_no_unit_that_does_not_speak():
    values = speech()
    curves = curves_of(clip_of(values, noise_mm=0.05))
    silent = (values == 0).all(axis=0)
    assert silent.sum() == 30 and (curves.values[:, silent] == 0).all()
    np.testing.assert_allclose(curves.rms_mm, 0.05 * 3**0.5, rtol=0.02)


def test_another_neutral_face_is_a_bad_fit_and_its_error_is_named():
    clip = clip_of(speech(), template=HEAD.templates["ben"])
    with pytest.raises(UserError, match=r"curves miss its vertices by \d+\.\d\d mm rms and .* 0.5"):
        curves_of(clip)


def test_a_clip_that_is_not_finite_is_refused():
    clip = clip_of(speech())
    clip.vertices[3, 5, 0] = np.nan
    with pytest.raises(UserError, match="clip speech: frame 3 has NaN or infinite vertices"):
        curves_of(clip)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"topology": "FLAME", "template": np.zeros_like(HEAD.templates["ada"])},
            "curves of FLAME: no nose, lips and chin on its neutral face",
        ),
        (
            {"vertices": np.zeros((1, 4, 3)), "template": np.zeros((4, 3)), "faces": []},
            "4 vertices, expected 6045 as in the synthetic head",
        ),
    ],
)
def test_meshes_that_are_no_faces_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        curves_of(clip_of(speech(1), **changes))
