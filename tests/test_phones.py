"""Phone sets of the engines, IPA tokens with times, and segments."""

import pytest

from synthetic.phones import (
    IPA_TO_PHONES,
    PHONE_INDEX,
    PHONES,
    RADIO_TO_PHONE,
    Segment,
    ipa_to_phones,
    merge_segments,
    segments_from_tokens,
    transform_segments,
)


def test_every_symbol_maps_to_the_phone_set():
    assert len(PHONES) == 40 and PHONES[0] == "sil" and len(PHONE_INDEX) == 40
    assert {phone for phones in IPA_TO_PHONES.values() for phone in phones} <= set(PHONES)
    assert set(RADIO_TO_PHONE.values()) <= set(PHONES)


@pytest.mark.parametrize(
    ("ipa", "phones"),
    [
        ("tʃˈiːz", "ch iy z"),
        ("dʒˈʌdʒ", "jh ah jh"),
        ("hˈaʊs", "hh aw s"),
        ("bˈɜːd", "b er d"),
        ("flˈaɪɚ", "f l ay er"),
        ("ʧˈIld", "ch ay l d"),
    ],
)
def test_longest_ipa_unit_is_taken(ipa, phones):
    assert ipa_to_phones(ipa) == phones.split()


def test_durations_of_marks_are_added_to_their_phone():
    # pad m stress-a length blank . pad: the durations of the stress and length marks are added to
    # the vowel; the short blank is added to the pause that follows
    tokens = ["$", "m", "ˈ", "ɑ", "ː", " ", ".", "$"]
    times = [0.0, 0.5, 0.6, 0.65, 0.7, 0.8, 0.85, 1.0, 1.2]
    assert segments_from_tokens(tokens, times) == [
        Segment("sil", 0.0, 0.5),
        Segment("m", 0.5, 0.6),
        Segment("aa", 0.6, 0.8),
        Segment("sil", 0.8, 1.2),
    ]


def test_short_blank_before_a_stop_is_its_closure():
    closure = segments_from_tokens(["A", " ", "b"], [0.0, 0.1, 0.2, 0.3])
    assert closure == [Segment("ey", 0.0, 0.1), Segment("b", 0.1, 0.3)]
    pause = segments_from_tokens(["A", " ", "b"], [0.0, 0.1, 0.3, 0.4])
    assert [segment.phone for segment in pause] == ["ey", "sil", "b"]


def test_schwa_r_is_one_vowel_unless_a_vowel_follows():
    butter = segments_from_tokens(list("bˈʌTəɹ"), list(range(7)))
    assert [segment.phone for segment in butter] == ["b", "ah", "d", "er"]
    around = segments_from_tokens(list("əɹˈWnd"), list(range(7)))
    assert [segment.phone for segment in around] == ["ah", "r", "aw", "n", "d"]


def test_tokens_and_boundaries_must_agree():
    with pytest.raises(ValueError, match="3 tokens: expected 4 boundaries, got 3"):
        segments_from_tokens(["a", "b", "c"], [0.0, 1.0, 2.0])


def test_merging_joins_pauses_and_drops_empty_segments():
    segments = [
        Segment("sil", 0.0, 0.1),
        Segment("p", 0.1, 0.1),
        Segment("sil", 0.1, 0.3),
        Segment("n", 0.3, 0.4),
        Segment("n", 0.4, 0.5),
    ]
    merged = [Segment("sil", 0.0, 0.3), Segment("n", 0.3, 0.4), Segment("n", 0.4, 0.5)]
    assert merge_segments(segments) == merged


def test_transformed_segments_fill_the_clip_without_a_gap():
    moved = transform_segments([Segment("m", 0.2, 0.4), Segment("aa", 0.4, 2.0)], -0.1, 0.8, 0.5)
    assert moved[0] == Segment("m", 0.0, pytest.approx(0.1))
    assert moved[1] == Segment("aa", pytest.approx(0.1), 0.8)
    padded = transform_segments([Segment("m", 0.2, 0.4)], 0.0, 1.0)
    assert padded == [Segment("sil", 0, 0.2), Segment("m", 0.2, 0.4), Segment("sil", 0.4, 1.0)]
