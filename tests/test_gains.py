"""Gains of jaw and lips: exact in the head's own units, and closed lips stay closed."""

import numpy as np
import pytest

from production.gains import JAW, LIPS, gains_of
from synthetic.coarticulation import CHANNEL_INDEX, CHANNELS, CLOSED, curves
from synthetic.head import channel_basis, load_head
from synthetic.phones import Segment


@pytest.fixture(scope="module")
def head():
    return load_head()


@pytest.fixture(scope="module")
def speech(head):
    """Meshes (T, V, 3) of a syllable for each of p b m f v, between wide vowels."""
    phones = [phone for c in "pbmfv" for phone in ("aa", c, "ao")]
    segments = [Segment(phone, 0.12 * k, 0.12 * (k + 1)) for k, phone in enumerate(phones)]
    values = curves(segments, 54, 30)
    return head.templates["ada"] + np.tensordot(values, channel_basis(head, CHANNELS), 1)


def made(head, jaw, lips, meshes):
    units = np.stack(list(head.units.values()))
    gains = gains_of(head.templates["ada"], tuple(head.units), units, jaw, lips)
    return np.stack(list(gains.meshes(meshes)))


def gaps(head, meshes):
    """Gap of the inner lips (T,), in units of jawOpen's."""
    upper, lower = head.landmarks["upper_lip_inner"], head.landmarks["lower_lip_inner"]

    def gap(mesh):
        return mesh[..., upper, 1] - mesh[..., lower, 1]

    return (gap(meshes) - gap(head.templates["ada"])) / gap(head.units["jawOpen"])


def posed(head, **values):
    basis = channel_basis(head, CHANNELS)
    return head.templates["ada"] + sum(
        value * basis[CHANNEL_INDEX[name]] for name, value in values.items()
    )


def test_gains_of_one_change_nothing(head, speech):
    np.testing.assert_allclose(made(head, 1.0, 1.0, speech), speech, atol=1e-8)


@pytest.mark.parametrize("jaw", [0.5, 1.5, 2.0])
def test_closed_lips_stay_closed_and_open_ones_open_by_the_gain(head, speech, jaw):
    before, after = gaps(head, speech), gaps(head, made(head, jaw, 1.0, speech))
    closed = before < CLOSED
    assert closed.sum() >= 6 and (after[closed] < CLOSED).all()
    assert (np.abs(after - before)[closed] < 0.01).all()
    widest = before.argmax()  # other channels than the jaw's open the lips, too
    assert 0.3 < (after[widest] / before[widest] - 1) / (jaw - 1) < 1.1


def test_a_gain_is_exact_in_the_units_of_the_head(head):
    spoken = posed(head, jawOpen=0.4, mouthClose=0.1, mouthSmile=0.3, tongueUp=0.5)
    wider = posed(head, jawOpen=0.6, mouthClose=0.15, mouthSmile=0.3, tongueUp=0.5)
    np.testing.assert_allclose(made(head, 1.5, 1.0, [spoken])[0], wider, atol=1e-5)
    smiling = posed(head, jawOpen=0.4, mouthClose=0.1, mouthSmile=0.6, tongueUp=0.5)
    np.testing.assert_allclose(made(head, 1.0, 2.0, [spoken])[0], smiling, atol=1e-5)


def test_no_unit_is_moved_beyond_its_full_motion(head):
    full = made(head, 2.0, 1.0, [posed(head, jawOpen=0.8)])[0]
    np.testing.assert_allclose(full, posed(head, jawOpen=1.0), atol=1e-5)


def test_lips_that_touch_have_no_gain_of_the_lips(head):
    pressed = posed(head, jawOpen=0.1, mouthClose=0.1, mouthPucker=0.4)
    np.testing.assert_allclose(made(head, 1.0, 2.0, [pressed])[0], pressed, atol=1e-8)
    assert JAW not in LIPS


@pytest.mark.parametrize("jaw", [0.5, 2.0])
def test_the_lower_lip_stays_at_the_teeth(head, speech, jaw):
    teeth, lip = head.landmarks["upper_teeth"], head.landmarks["lower_lip_inner"]
    middles = np.round(30 * 0.12 * np.array([10.45, 13.45])).astype(int)  # of f and of v
    before, after = (
        mesh[middles, teeth, 1] - mesh[middles, lip, 1]
        for mesh in (speech, made(head, jaw, 1.0, speech))
    )
    assert (before < 0).all()  # the lip covers the edge of the teeth
    np.testing.assert_allclose(after, before, atol=8e-4)  # metres
