"""The coarticulation rules: closures, vowel shapes, silence, any frame rate, bounded velocity."""

import functools

import numpy as np
import pytest

from synthetic.coarticulation import (
    BILABIALS,
    CHANNEL_INDEX,
    CHANNELS,
    CLOSED,
    NEUTRAL,
    Style,
    curves,
    loudness,
    style_of,
)
from synthetic.head import channel_basis, load_head
from synthetic.phones import PHONES, VOWELS, Segment


def utterance(phones: str, duration_s: float = 0.09, pause_s: float = 0.3) -> list[Segment]:
    """Phones of equal length between two pauses."""
    segments, clock = [Segment("sil", 0.0, pause_s)], pause_s
    for phone in phones.split():
        segments.append(Segment(phone, clock, clock + duration_s))
        clock += duration_s
    return [*segments, Segment("sil", clock, clock + pause_s)]


def babble(seed: int, n: int = 50) -> list[Segment]:
    """Random phones of 30 to 160 ms, a few pauses among them."""
    rng = np.random.default_rng(seed)
    segments, clock = [], 0.0
    for index in rng.integers(1, len(PHONES), n):
        phone = PHONES[index] if rng.random() > 0.05 else "sil"
        duration = rng.uniform(0.03, 0.16)
        segments.append(Segment(phone, clock, clock + duration))
        clock += duration
    return segments


def at(segments: list[Segment], phone: str, channel: str) -> float:
    """The value of a channel in the middle of the first such phone."""
    segment = next(s for s in segments if s.phone == phone)
    frame = round(500 * (segment.start_s + segment.end_s))
    return float(curves(segments, 5000, 1000)[frame, CHANNEL_INDEX[channel]])


@functools.cache
def lip_gaps() -> np.ndarray:
    """(C,) gap between the head's inner lips at 1.0 of each channel, in units of jawOpen's."""
    head = load_head()
    upper, lower = (head.landmarks[f"{side}_lip_inner"] for side in ("upper", "lower"))
    basis = channel_basis(head, CHANNELS)  # (C, V, 3)
    gaps = basis[:, upper, 1] - basis[:, lower, 1]
    return gaps / gaps[CHANNEL_INDEX["jawOpen"]]


def aperture(values: np.ndarray) -> np.ndarray:
    """Gap between the inner lips of curves (T, C), in units of jawOpen's: (T,)."""
    return values @ lip_gaps()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("style", [NEUTRAL, style_of("ada"), Style(jaw_gain=1.3)])
def test_lips_close_on_every_bilabial_at_30_fps(seed, style):
    segments = babble(seed)
    level = np.random.default_rng(seed).uniform(0.2, 1.3, 1000)
    opening = aperture(curves(segments, 300, 30, loudness=level, style=style))
    for phone, start, end in segments:
        if phone in BILABIALS:
            frames = slice(max(0, int(start * 30) - 1), int(end * 30) + 2)
            assert opening[frames].min() < CLOSED, (phone, start)


@pytest.mark.parametrize("duration", [0.025, 0.035, 0.045])
@pytest.mark.parametrize("phone", BILABIALS)
def test_short_bilabials_close_in_a_frame_at_30_fps_whatever_the_phase(phone, duration):
    for phase in np.arange(10) / 300:  # of the frames within the phone
        start = 0.5 + phase
        segments = [
            Segment("aa", 0.3, start),
            Segment(phone, start, start + duration),
            Segment("aa", start + duration, 0.9),
        ]
        frames = slice(int(start * 30), int((start + duration) * 30) + 2)
        assert aperture(curves(segments, 40, 30))[frames].min() < CLOSED


def lip_landmarks(phones: str, phone: str, duration_s: float = 0.12) -> dict[str, np.ndarray]:
    """Landmarks (3,) of "ada", millimetres, in the middle of the first such phone."""
    segments = utterance(phones, duration_s)
    segment = next(s for s in segments if s.phone == phone)
    values = curves(segments, 1500, 1000)[round(500 * (segment.start_s + segment.end_s))]
    head = load_head()
    points = {**head.landmarks, "tongue_tip": head.parts["tongue"][-1]}
    indices = list(points.values())
    moved = np.tensordot(values, channel_basis(head, CHANNELS)[:, indices], axes=1)
    return dict(zip(points, 1000 * (head.templates["ada"][indices] + moved), strict=True))


def mouth_width(marks: dict[str, np.ndarray]) -> float:
    return float(np.linalg.norm(marks["mouth_left"] - marks["mouth_right"]))


def inner_gap(marks: dict[str, np.ndarray]) -> float:
    return float(marks["upper_lip_inner"][1] - marks["lower_lip_inner"][1])


@pytest.mark.parametrize("phone", ["w", "uw", "ow"])
def test_rounded_phones_narrow_and_protrude_an_open_mouth(phone):
    rest, rounded = lip_landmarks("sil", "sil"), lip_landmarks(f"t {phone} t", phone)
    assert mouth_width(rest) - mouth_width(rounded) > 8
    lips = ("upper_lip_outer", "lower_lip_outer")
    protrusion = np.mean([rounded[lip][2] - rest[lip][2] for lip in lips])
    assert 4 < protrusion < 9
    assert 3 < inner_gap(rounded) < 9


def test_spread_vowel_stays_wide_between_rounded_consonants():
    rest = lip_landmarks("sil", "sil")
    assert mouth_width(lip_landmarks("s iy t", "iy")) - mouth_width(rest) > 5
    assert mouth_width(lip_landmarks("sh iy ch", "iy")) - mouth_width(rest) > 3
    assert mouth_width(rest) - mouth_width(lip_landmarks("w iy w", "iy")) < 1


@pytest.mark.parametrize("phone", ["th", "dh"])
def test_tongue_tip_is_in_front_of_the_upper_teeth_and_under_their_edge(phone):
    marks = lip_landmarks(f"ah {phone} ih", phone)
    _, y, z = marks["tongue_tip"] - marks["upper_teeth"]
    assert z > 0 and -5 < y < -1
    assert marks["tongue_tip"][1] > marks["lower_lip_inner"][1]
    assert inner_gap(marks) > 5


@pytest.mark.parametrize("phone", ["t", "d", "n", "l"])
def test_tongue_tip_is_raised_behind_the_teeth(phone):
    marks = lip_landmarks(f"ah {phone} ah", phone)
    _, y, z = marks["tongue_tip"] - marks["upper_teeth"]
    assert -8 < z < -3 and y > -5
    assert marks["tongue_tip"][1] > marks["lower_lip_inner"][1] + 1


def test_lips_stay_apart_in_consonants_away_from_labials():
    labials = {"sil", "p", "b", "m", "f", "v"}
    consonants = [phone for phone in PHONES if phone not in VOWELS | labials]
    for before, after in [("uw", "w"), ("iy", "iy"), ("s", "t")]:
        segments = utterance(" ".join(f"{before} {c} {after}" for c in consonants), 0.05)
        values = aperture(curves(segments, 3500, 1000))
        for phone, start, end in segments[3:-3]:
            assert values[round(1000 * start) : round(1000 * end)].min() > 1.5 * CLOSED, phone


def test_mouth_close_never_exceeds_the_jaw_where_no_lips_press():
    values = curves(utterance("s uw t ow s w iy ow z", 0.06), 1100, 1000)
    over = values[:, CHANNEL_INDEX["mouthClose"]] - values[:, CHANNEL_INDEX["jawOpen"]]
    assert over.max() < 1e-6


def test_vowels_have_their_mouth_shapes():
    segments = utterance("d aa d uw d iy d w ah f iy", 0.15)
    assert at(segments, "aa", "jawOpen") > 0.4 > 0.25 > at(segments, "iy", "jawOpen")
    assert at(segments, "uw", "mouthPucker") > 0.5
    assert at(segments, "w", "mouthPucker") > 0.5
    assert at(segments, "iy", "mouthPucker") < 0.3  # although between uw and w
    assert at(utterance("d iy d"), "iy", "mouthPucker") < 0.05
    assert at(segments, "iy", "mouthStretch") > 0.25
    assert at(segments, "f", "mouthRollLower") > 0.4


def test_rounding_is_anticipated_and_short_vowels_undershoot():
    ahead, plain = utterance("ah s uw", 0.1), utterance("ah s iy", 0.1)
    gain = at(ahead, "s", "mouthPucker") - at(plain, "s", "mouthPucker")
    assert gain > 0.15
    long, short = utterance("d aa d", 0.15), utterance("d aa d", 0.05)
    assert at(short, "aa", "jawOpen") < 0.75 * at(long, "aa", "jawOpen")


def test_mouth_is_at_rest_in_pauses_and_beyond_the_last_phone():
    segments = [*babble(3, 10)[:10], Segment("aa", 3.0, 3.2)]  # a gap, then nothing
    y = curves(segments, 600, 100)
    mouth = y[:, : CHANNEL_INDEX["browInnerUp"]]
    start = int(100 * segments[-2].end_s) + 16
    assert np.abs(mouth[start:288]).max() < 1e-5
    assert np.abs(mouth[340:]).max() < 1e-5
    assert aperture(y[start:288]).max() < CLOSED
    assert np.abs(curves([], 11, 30)).max() == 0.0


def test_lips_close_in_a_pause_of_150_ms():
    segments = utterance("aa sil aa", 0.16)
    assert aperture(curves(segments, 1000, 1000))[300 + 160 : 300 + 320].min() < CLOSED


@pytest.mark.parametrize("duration", [0.08, 0.5])
def test_thirty_fps_is_every_second_frame_of_sixty(duration):
    segments = utterance("m aa p ow f iy sil b w er k", duration)  # long enough for two blocks
    level = np.random.default_rng(1).uniform(0.2, 1.3, 1200)
    sixty = curves(segments, 700, 60, loudness=level)
    thirty = curves(segments, 350, 30, loudness=level)
    np.testing.assert_allclose(thirty, sixty[::2], atol=1e-5)


def test_curves_do_not_depend_on_the_number_of_frames():
    segments = babble(7, 200)
    long, short = curves(segments, 1000, 60), curves(segments, 401, 60)
    np.testing.assert_allclose(short, long[:401], atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_channel_velocities_are_those_of_a_face(seed):
    y = curves(babble(seed), 5000, 1000)
    velocity = np.abs(np.diff(y, axis=0)).max(0) * 1000  # units a second
    assert velocity[CHANNEL_INDEX["jawOpen"]] < 10  # 0.2 m/s at 20 mm a unit
    assert velocity.max() < 22  # a full swing in two frames at 30 fps, in random babble


def test_loudness_scales_the_jaw_and_lifts_the_brows():
    segments = utterance("d aa d aa d aa d", 0.12)
    level = np.full(200, 0.4)
    level[70:100] = 1.3  # the second of the vowels
    y = curves(segments, 150, 100, loudness=level)
    jaw, brow = y[:, CHANNEL_INDEX["jawOpen"]], y[:, CHANNEL_INDEX["browInnerUp"]]
    assert jaw[66:78].max() > 1.1 * jaw[42:54].max()
    assert brow[85] > 0.05 > 0.02 > brow[30]
    assert curves(segments, 150, 100)[:, CHANNEL_INDEX["browInnerUp"]].max() == 0.0


def test_loudness_of_a_tone_between_silences():
    tone = np.sin(np.arange(16_000) * 0.3)
    tone[:4000] = 0.0
    level = loudness(tone)
    assert level.shape == (100,) and level.dtype == np.float32
    assert level[:20].max() < 0.21
    np.testing.assert_allclose(level[30:95], 1.0, atol=0.02)


def test_styles_are_repeatable_bounded_and_distinct():
    assert style_of("ada") == style_of("ada") != style_of("ben")
    for name in "abcdefgh":
        style = style_of(name)
        assert 0.88 <= style.jaw_gain <= 1.15 and -0.01 <= style.lead_s <= 0.01


def test_unknown_phones_and_wrong_order_raise():
    with pytest.raises(ValueError, match="'xx'"):
        curves([Segment("xx", 0.0, 0.1)], 3, 30)
    with pytest.raises(ValueError, match="iy starts at 0.100 s, expected 0.300 s or later"):
        curves([Segment("aa", 0.2, 0.3), Segment("iy", 0.1, 0.2)], 3, 30)


def test_result_has_the_documented_shape_and_dtype():
    y = curves(babble(0), 13, 30)
    assert y.shape == (13, len(CHANNELS)) and y.dtype == np.float32
