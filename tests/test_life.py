"""Blinks, glances and head motion: the rules against their numbers, and what they do to meshes."""

import numpy as np
import pytest

from config import RECIPES, SAMPLE_RATE
from production.added import Added
from production.lids import blink_unit, directions, find_eyes
from production.life import CLOSING_S, OPENING_S, SHUT_S, Motion, Steps, live
from production.prosody import Prosody, pitch_hz, prosody_of
from production.rig import geometric_units, rig_of, rotation
from synthetic.head import load_head

FPS = 30


def tone(seconds, hertz, level):
    """A tone with overtones, as a voice has them."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return level * sum(np.sin(2 * np.pi * k * hertz * time) / k for k in range(1, 6))


def silence(seconds):
    return np.zeros(round(seconds * SAMPLE_RATE))


@pytest.fixture(scope="module")
def sound():
    """Speech from 0.5 to 2.5 s and from 3.5 to 5 s; the voice is louder and higher about 1.5 s."""
    parts = [silence(0.5), tone(0.9, 120, 0.1), tone(0.2, 160, 0.3), tone(0.9, 120, 0.1)]
    parts += [silence(1.0), tone(1.5, 120, 0.1), silence(0.7)]
    return np.concatenate(parts).astype(np.float32)


@pytest.fixture(scope="module")
def talk():
    """Ten minutes: phrases of 3 s and pauses of 1 s, an accent in each second of a phrase."""
    starts = np.arange(0.5, 598.0, 4.0)
    phrases = np.stack([starts, starts + 3.0], axis=1)
    accents = (starts[:, None] + [0.6, 1.5, 2.4]).ravel()
    strengths = np.resize([0.2, 0.6, 1.0], len(accents))
    return Prosody(phrases, np.stack([accents, strengths], axis=1), 600 * SAMPLE_RATE)


@pytest.fixture(scope="module")
def face():
    spec = RECIPES["synthetic"].dataset
    template = load_head().templates["ada"]
    return rig_of(spec, template), template


def frames(life, seconds=600.0, fps=FPS):
    return life.at(np.arange(0.0, seconds, 1 / fps))


def pose(closure=0.0, eyes=(0.0, 0.0), head=(0.0, 0.0, 0.0)):
    return Motion(np.array([closure]), np.array([eyes], float), np.array([head], float))


def test_phrases_and_accents_are_found_at_any_level(sound):
    for level in (1.0, 1e-3):
        found = prosody_of((level * sound).astype(np.float32))
        np.testing.assert_allclose(found.phrases, [[0.5, 2.5], [3.5, 5.0]], atol=0.05)
        strongest = found.accents[found.accents[:, 1].argmax()]
        assert strongest[0] == pytest.approx(1.5, abs=0.05)
    assert prosody_of(sound).duration_s == pytest.approx(len(sound) / SAMPLE_RATE)


def test_pitch_is_that_of_the_voice(sound):
    pitch = pitch_hz(sound)
    assert np.median(pitch[70:120]) == pytest.approx(120, abs=1.0)
    assert np.median(pitch[145:155]) == pytest.approx(160, abs=1.5)
    assert not pitch[270:340].any()


@pytest.mark.parametrize("n", [800, 16_000])
def test_silence_and_noise_have_no_phrases(n, rng):
    for audio in (np.zeros(n), rng.normal(size=n)):
        found = prosody_of(audio.astype(np.float32))
        assert len(found.phrases) == len(found.accents) == 0


def test_a_move_is_a_half_cosine():
    steps = Steps(np.array([1.0, 3.0]), np.array([1.0, 0.5]), np.array([[2.0], [-2.0]]))
    values = steps.at(np.array([0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 3.25, 9.0]))[:, 0]
    quarter = 1.0 - np.sqrt(0.5)  # 2 (1 - cos 45°) / 2
    np.testing.assert_allclose(values, [0, 0, quarter, 1, 2, 2, 0, -2], atol=1e-12)


def test_blinks_have_the_stated_rate_length_and_places(talk):
    life = live(talk, 1)
    start, closing, opening = life.blinks.T
    assert 17 <= len(start) / 10 <= 26
    assert np.diff(start).min() >= 1.0 - 1e-9
    lengths = closing + SHUT_S + opening
    assert lengths.min() >= 0.2 and lengths.max() <= 0.3
    assert (opening > closing).all()
    np.testing.assert_allclose([CLOSING_S, OPENING_S], [closing.mean(), opening.mean()], rtol=0.05)
    after = start[:, None] - talk.phrases[:, 1]
    at_ends = ((after >= 0) & (after <= 0.2)).any(axis=1).mean()
    assert at_ends > 0.3  # 0.05 by chance


@pytest.mark.parametrize("fps", [25, 30])
def test_each_blink_shuts_and_opens_the_lids_in_the_frames(talk, fps):
    life = live(talk, 2)
    closure = frames(life, fps=fps).closure
    shut = (closure > 0.97).astype(int)
    assert (np.diff(shut) == 1).sum() == len(life.blinks)
    assert closure.max() <= 1.0 and (closure == 0).mean() > 0.85


def test_the_motion_depends_on_sound_and_seed_alone(talk):
    first, again, other = (frames(live(talk, seed), 60) for seed in (1, 1, 2))
    longer = Prosody(talk.phrases, talk.accents, talk.samples + 1)
    elsewhere = frames(live(longer, 1), 60)
    for name in ("closure", "eyes", "head"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        for changed in (other, elsewhere):
            assert np.abs(getattr(first, name) - getattr(changed, name)).max() > 0.5


def test_a_part_of_a_recording_moves_as_the_whole(talk):
    life = live(talk, 1)
    whole, part = frames(life, 60), life.at(20.0 + np.arange(300) / FPS)
    np.testing.assert_allclose(part.head, whole.head[600:900], atol=1e-9)
    np.testing.assert_allclose(part.closure, whole.closure[600:900], atol=1e-9)


def test_the_eyes_hold_their_target_while_the_head_turns(talk):
    motion = frames(live(talk, 1), 60)
    in_the_room = motion.eyes + motion.head[:, :2]
    steps = np.linalg.norm(np.diff(in_the_room, axis=0), axis=1)
    assert (steps < 1e-9).mean() > 0.9  # fixations
    assert np.abs(in_the_room).max() < 8.0  # saccades are small
    saccades = (np.diff(steps > 1e-9) & (steps[1:] > 1e-9)).sum()
    assert 30 < saccades < 80  # in a minute


def test_the_head_moves_smoothly_and_less_in_silence(talk):
    motion = frames(live(talk, 1))
    assert np.abs(np.diff(motion.head, axis=0)).max() < 0.8  # degrees a frame
    assert np.abs(motion.head).max() < 8.0
    spectrum = np.abs(np.fft.rfft(motion.head - motion.head.mean(axis=0), axis=0)) ** 2
    fast = np.fft.rfftfreq(len(motion), 1 / FPS) > 2.0
    assert spectrum[fast].sum() < 0.01 * spectrum.sum()
    quiet = frames(live(Prosody(np.zeros((0, 2)), np.zeros((0, 2)), talk.samples), 1))
    assert (quiet.head.std(axis=0) < 0.5 * motion.head.std(axis=0)).all()
    assert (quiet.head.std(axis=0) > 0.1).all() and (quiet.closure > 0.9).any()


def test_nods_are_lowest_at_their_accents(talk):
    life = live(talk, 1)
    pitch = life.nods.at(np.arange(0.0, 600.0, 0.01))[:, 1]
    lows = 1 + np.flatnonzero((pitch[1:-1] > pitch[:-2]) & (pitch[1:-1] >= pitch[2:]))
    lows = lows[pitch[lows] > 0.3]
    apart = np.abs(lows[:, None] / 100 - talk.accents[:, 0]).min(axis=1)
    assert len(lows) > 0.3 * len(talk.accents) and apart.max() < 0.011


def test_the_skull_turns_as_one_and_the_end_of_the_neck_stays(face):
    rig, template = face
    turned = next(rig.meshes([template], pose(head=(10.0, 5.0, -3.0))))
    skull = template[:, 1] > 0.0
    exact = (template - rig.joint) @ rotation(*np.radians([10.0, 5.0, -3.0])).T + rig.joint
    np.testing.assert_allclose(turned[skull], exact[skull], atol=1e-6)
    lowest = template[:, 1] < template[:, 1].min() + 0.004
    assert np.abs(turned - template)[lowest].max() < 1e-3
    nose = template[:, 2].argmax()
    assert turned[nose, 0] > template[nose, 0] + 0.01  # to its own left
    assert turned[nose, 1] < template[nose, 1] - 0.005  # and down
    assert rotation(0, 0, 0.5) @ [0, 1, 0] == pytest.approx([-np.sin(0.5), np.cos(0.5), 0])


def test_lids_that_are_shut_are_not_shut_again(face):
    rig, template = face
    units = load_head().units
    shut = template + units["eyeBlinkLeft"] + units["eyeBlinkRight"]
    blinked = list(rig.meshes([template, shut, (template + shut) / 2], Motion(
        np.ones(3), np.zeros((3, 2)), np.zeros((3, 3)))))  # fmt: skip
    for mesh in blinked:
        np.testing.assert_allclose(mesh, shut, atol=1e-6)


def test_eyes_turn_by_their_degrees(face):
    rig, template = face
    head = load_head()

    def direction(mesh, part):  # the normal of a triangle of the eye's extreme points
        points = head.parts[part]
        x, y, _ = template[points].T
        a, b, c = mesh[points[[x.argmin(), x.argmax(), y.argmax()]]].astype(float)
        return np.cross(b - a, c - a)

    for eyes in ((5.0, 0.0), (-5.0, 0.0), (0.0, 4.0), (0.0, -4.0)):
        mesh = next(rig.meshes([template], pose(eyes=eyes)))
        for part in ("left_eye", "right_eye"):
            before, after = direction(template, part), direction(mesh, part)
            yaw, pitch = (
                np.degrees(np.arctan2(d[0], d[2]) - np.arctan2(b[0], b[2])) * sign
                for d, b, sign in (
                    (after, before, 1), (after[[1, 0, 2]], before[[1, 0, 2]], -1)
                )
            )  # fmt: skip
            np.testing.assert_allclose([yaw, pitch], eyes, atol=0.4)


def test_exports_get_curves_and_turns_by_the_names_of_their_formats(face, tmp_path):
    rig, template = face
    with (tmp_path / "unmoved").open("wb+") as file:
        added = Added(rig, pose(0.5, (-3.0, 2.0), (4.0, -2.0, 1.0)), True, file)
        moved = next(added.to_files(iter([template])))
        fields = added.export_fields(1)
        np.testing.assert_array_equal(fields["unmoved"], template[None])
    assert np.abs(moved - template).max() > 0.005
    curves = {name: value[0] for name, value in fields["added"].items() if value[0]}
    assert curves["eyeBlinkLeft"] == curves["eyeBlinkRight"] == 0.5
    assert set(curves) == {"eyeBlinkLeft", "eyeBlinkRight", "eyeLookInLeft", "eyeLookOutRight",
                           "eyeLookDownLeft", "eyeLookDownRight"}  # fmt: skip
    assert curves["eyeLookDownLeft"] == pytest.approx(0.5 * 2.0 / rig.degrees["eyeLookDownLeft"])
    turns = {name: np.degrees(value[0]) for name, value in fields["rotations"].items()}
    assert turns["HeadYaw"] == pytest.approx(4.0) and turns["HeadPitch"] == pytest.approx(-2.0)
    assert turns["HeadRoll"] == pytest.approx(-1.0)
    assert turns["LeftEyeYaw"] == turns["RightEyeYaw"] == pytest.approx(-3.0)


def ball(centre, radius, opening=0.0):
    """(V, 3), (F, 3) a ball; with `opening` a shell that is open in front, so high to each side."""
    azimuth, elevation = np.meshgrid(np.arange(-90.0, 91, 6), np.arange(-180.0, 180, 6))
    x, turn = np.sin(np.radians(azimuth)), np.radians(elevation)
    ring = np.cos(np.radians(azimuth))
    points = np.stack([x, ring * np.sin(turn), ring * np.cos(turn)], axis=-1) * radius + centre
    index = np.arange(azimuth.size).reshape(azimuth.shape)
    a, b, c, d = (np.roll(index, -k, axis=0)[:, e : e + 30] for k in (0, 1) for e in (0, 1))
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([b, d, c], -1)]).reshape(-1, 3)
    hole = (np.abs(elevation) < opening) & (np.abs(azimuth) < 50)
    return points.reshape(-1, 3), faces[~hole.ravel()[faces].any(axis=1)]


@pytest.fixture(scope="module")
def goggles():
    """A mesh of two eyeballs, and before each a skin that is open by 20° up and down."""
    vertices, faces = [], []
    for x in (0.03, -0.03):
        for radius, opening in ((0.012, 0.0), (0.014, 20.0)):
            points, triangles = ball((x, 0.02, 0.0), radius, opening)
            faces.append(triangles + sum(map(len, vertices)))
            vertices.append(points)
    n = len(vertices[0])
    bridge = np.array([[n, 3 * n, 4 * n]])  # both skins are one part
    return np.concatenate([*vertices, [[0.0, -0.1, 0.0]]]), np.concatenate([*faces, bridge])


def test_lids_of_a_mesh_with_eyeballs_meet_over_them(goggles):
    vertices, faces = goggles
    (left, radius, points), (right, _, _) = find_eyes(vertices, faces)
    np.testing.assert_allclose(left, [0.03, 0.02, 0.0], atol=1e-6)
    np.testing.assert_allclose(right, [-0.03, 0.02, 0.0], atol=1e-6)
    assert radius == pytest.approx(0.012, abs=1e-6)
    shut = vertices + blink_unit(vertices, faces, (left, radius, points))
    np.testing.assert_array_equal(shut[points], vertices[points])  # the ball stays
    skin = np.unique(faces[np.linalg.norm(vertices[faces] - left, axis=2).min(axis=1) > 0.0135])
    skin = skin[np.linalg.norm(vertices[skin] - left, axis=1) < 0.0145]
    azimuth, before = directions(vertices[skin] - left)
    _, after = directions(shut[skin] - left)
    middle = np.abs(azimuth) < 20
    upper = middle & (before > 0) & (before < 26)
    lower = middle & (before < 0) & (before > -26)
    assert after[upper].min() - after[lower].max() < 2.0
    assert np.abs(after - before)[np.abs(before) > 75].max() < 1e-6
    assert np.abs(after - before)[np.abs(azimuth) > 75].max() < 1.5
    distance = np.linalg.norm(shut[skin] - left, axis=1)
    np.testing.assert_allclose(distance, 0.014, atol=1e-6)  # the lids slide on their ball


def test_eyes_of_a_mesh_with_eyeballs_turn_about_their_centres(goggles, face):
    rig, _ = face
    vertices, faces = goggles
    units = geometric_units(vertices, faces, rig.degrees)
    assert set(units) == set(rig.units)
    for side, sign in (("Left", 1), ("Right", -1)):
        points, shift = units[f"eyeLookOut{side}"]
        front = vertices[points, 2].argmax()
        expected = sign * 0.012 * np.sin(np.radians(rig.degrees[f"eyeLookOut{side}"]))
        assert shift[front, 0] == pytest.approx(expected, rel=0.01)


def test_a_mesh_without_eyeballs_has_no_lids(goggles):
    vertices, faces = goggles
    assert find_eyes(vertices[:, [0, 1, 2]] * [1, 1, 3], faces) == []  # eggs
    assert find_eyes(3 * vertices, faces) == []
    closed = np.concatenate([ball((0.03, 0, 0), 0.012)[0], ball((0.03, 0, 0), 0.014)[0]])
    shell = ball((0.03, 0, 0), 0.014)[1]
    eye = np.array([0.03, 0.0, 0.0]), 0.012, np.arange(len(closed) // 2)
    assert blink_unit(closed, shell + len(closed) // 2, eye) is None
