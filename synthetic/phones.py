"""The phone set of the synthetic corpus, and each engine's symbols mapped to it.

39 ARPAbet phones of American English, lower case and without stress, and "sil". The engines use
three notations: ARPAbet with additions ("radio" names: flite, festival), IPA (espeak-ng), and IPA
with one letter per diphthong and affricate (hibari and Kokoro, after the misaki phonemiser).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

SILENCE = "sil"
_VOWELS = "aa ae ah ao aw ay eh er ey ih iy ow oy uh uw"
_CONSONANTS = "b ch d dh f g hh jh k l m n ng p r s sh t th v w y z zh"
PHONES: tuple[str, ...] = (SILENCE, *sorted(f"{_VOWELS} {_CONSONANTS}".split()))
PHONE_INDEX: dict[str, int] = {phone: i for i, phone in enumerate(PHONES)}
VOWELS = frozenset(_VOWELS.split())

# Names of flite, festival and TIMIT.
RADIO_TO_PHONE: dict[str, str] = {phone: phone for phone in PHONES} | {
    "pau": SILENCE, "h#": SILENCE, "brth": SILENCE, "ssil": SILENCE, "#": SILENCE,
    "ax": "ah", "axr": "er", "ix": "ih", "el": "l", "em": "m", "en": "n", "dx": "d", "nx": "n",
    "hv": "hh",
}  # fmt: skip

# IPA units to phones; the longest matching unit is taken.
IPA_TO_PHONES: dict[str, tuple[str, ...]] = {
    unit: tuple(phones.split())
    for unit, phones in {
        "aɪə": "ay ah", "aɪɚ": "ay er", "aʊɚ": "aw er",
        "aɪ": "ay", "aʊ": "aw", "eɪ": "ey", "oʊ": "ow", "əʊ": "ow", "ɔɪ": "oy", "dʒ": "jh",
        "tʃ": "ch", "ɜː": "er", "ɜɹ": "er", "əɹ": "er", "ɑː": "aa", "ɔː": "ao", "iː": "iy",
        "uː": "uw", "oː": "ao", "aː": "aa", "ɛː": "eh", "ɛə": "eh", "eə": "eh", "ɪə": "ih ah",
        "ʊə": "uh ah", "iə": "iy ah", "əl": "ah l", "n̩": "n", "l̩": "l", "m̩": "m",
        # misaki's single letters
        "A": "ey", "I": "ay", "O": "ow", "Q": "ow", "W": "aw", "Y": "oy", "ʤ": "jh", "ʧ": "ch",
        "ᵊ": "ah", "ᵻ": "ih", "T": "d",
        "a": "aa", "æ": "ae", "ɐ": "ah", "ə": "ah", "ʌ": "ah", "ɑ": "aa", "ɒ": "aa", "ɔ": "ao",
        "e": "eh", "ɛ": "eh", "ɜ": "er", "ɚ": "er", "ɝ": "er", "i": "iy", "ɪ": "ih", "ɨ": "ih",
        "o": "ao", "u": "uw", "ʊ": "uh",
        "b": "b", "d": "d", "f": "f", "ɡ": "g", "g": "g", "h": "hh", "j": "y", "k": "k", "l": "l",
        "ɫ": "l", "m": "m", "n": "n", "ŋ": "ng", "p": "p", "r": "r", "ɹ": "r", "ɻ": "r", "ɾ": "d",
        "s": "s", "ʃ": "sh", "t": "t", "θ": "th", "ð": "dh", "v": "v", "w": "w", "ʍ": "w",
        "x": "k", "z": "z", "ʒ": "zh", "ʔ": "t", "ç": "hh",
    }.items()
}  # fmt: skip
LONGEST_UNIT = max(map(len, IPA_TO_PHONES))
TIMED_APART = frozenset({"əl", "iə", "ɪə", "ʊə"})  # two phones where each letter has a time
STRESS_MARKS = frozenset("ˈˌ")  # precede the vowel; their duration is added to it
LENGTH_MARKS = frozenset("ːʰʲ")  # follow their phone; their duration is added to it
MIN_PAUSE_S = 0.06  # shorter punctuation is no pause; its duration is added to the next phone
MIN_BLANK_PAUSE_S = 0.15  # the same for a blank, which is mostly the closure of a stop


class Segment(NamedTuple):
    """One phone of an utterance, from `start_s` to `end_s` in seconds."""

    phone: str
    start_s: float
    end_s: float


def ipa_to_phones(text: str) -> list[str]:
    """Phones of an IPA string; stress marks, length marks and unknown symbols are skipped."""
    phones: list[str] = []
    position = 0
    while position < len(text):
        size = _unit_size(text, position)
        phones += IPA_TO_PHONES.get(text[position : position + size], ())
        position += size
    return phones


def segments_from_tokens(tokens: Sequence[str], boundaries_s: Sequence[float]) -> list[Segment]:
    """Segments of one-letter IPA tokens with known times.

    tokens: n letters as spoken by the engine, including pads and blanks.
    boundaries_s: n + 1 times in seconds; token i lasts from boundary i to boundary i + 1.
    Blanks and punctuation become silence where they are long enough. Raises ValueError when the
    lengths do not match.
    """
    if len(boundaries_s) != len(tokens) + 1:
        raise ValueError(
            f"{len(tokens)} tokens: expected {len(tokens) + 1} boundaries, got {len(boundaries_s)}"
        )
    segments: list[Segment] = []
    start_s = boundaries_s[0]  # advances only with a new segment, so marks join the next phone
    position = 0
    while position < len(tokens):
        size = _timed_unit_size(tokens, position)
        unit = "".join(tokens[position : position + size])
        position += size
        end_s = boundaries_s[position]
        if unit in IPA_TO_PHONES:
            segments += _shared(IPA_TO_PHONES[unit], start_s, end_s)
        elif unit in LENGTH_MARKS and segments:
            segments[-1] = segments[-1]._replace(end_s=end_s)
        elif unit in STRESS_MARKS or end_s - start_s < _min_pause_s(unit):
            continue
        else:
            segments.append(Segment(SILENCE, start_s, end_s))
        start_s = end_s
    if boundaries_s[-1] > start_s:
        segments.append(Segment(SILENCE, start_s, boundaries_s[-1]))
    return merge_segments(segments)


def merge_segments(segments: Iterable[Segment]) -> list[Segment]:
    """The segments without empty ones, with adjacent silences merged."""
    merged: list[Segment] = []
    for segment in segments:
        if segment.end_s <= segment.start_s:
            continue
        if merged and merged[-1].phone == segment.phone == SILENCE:
            merged[-1] = merged[-1]._replace(end_s=segment.end_s)
        else:
            merged.append(segment)
    return merged


def transform_segments(
    segments: Iterable[Segment], offset_s: float, duration_s: float, scale: float = 1.0
) -> list[Segment]:
    """The segments at scale · time + offset_s, clipped to 0..duration_s, silence at both ends."""
    moved = [
        Segment(
            phone,
            min(max(start * scale + offset_s, 0.0), duration_s),
            min(max(end * scale + offset_s, 0.0), duration_s),
        )
        for phone, start, end in segments
    ]
    moved = [segment for segment in moved if segment.end_s > segment.start_s]
    first = moved[0].start_s if moved else duration_s
    last = moved[-1].end_s if moved else duration_s
    return merge_segments(
        [Segment(SILENCE, 0.0, first), *moved, Segment(SILENCE, last, duration_s)]
    )


def _min_pause_s(gap: str) -> float:
    return MIN_BLANK_PAUSE_S if gap == " " else MIN_PAUSE_S


def _shared(phones: Sequence[str], start_s: float, end_s: float) -> list[Segment]:
    """The interval divided equally among the phones."""
    step = (end_s - start_s) / len(phones)
    return [
        Segment(phone, start_s + i * step, start_s + (i + 1) * step)
        for i, phone in enumerate(phones)
    ]


def _unit_size(text: str | Sequence[str], position: int) -> int:
    """Letters of the longest unit of IPA_TO_PHONES at `position`, at least 1."""
    for size in range(LONGEST_UNIT, 1, -1):
        unit = "".join(text[position : position + size])
        if len(unit) == size and unit in IPA_TO_PHONES:
            return size
    return 1


def _timed_unit_size(tokens: Sequence[str], position: int) -> int:
    """Like `_unit_size`, but ə + ɹ is one "er" unless a vowel follows (butter, not around)."""
    if "".join(tokens[position : position + 2]) == "əɹ":
        following = tokens[position + 2] if position + 2 < len(tokens) else " "
        phones = IPA_TO_PHONES.get(following, ())
        is_linked = following in STRESS_MARKS or (phones and phones[0] in VOWELS)
        return 1 if is_linked else 2
    size = _unit_size(tokens, position)
    unit = "".join(tokens[position : position + size])
    return 1 if unit in TIMED_APART else size
