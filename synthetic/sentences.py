"""The texts of the corpus: a list of sentences and a small grammar that generates more.

sentences.txt has hand-written sentences of 1 to 18 words, rich in closures (p b m f v), rounded
and spread vowels: narration, news, commands, prompts, numbers, hesitant speech. Its last
`N_HELD_OUT` lines are for the validation and test subjects of the corpus only and are not in the
pool. words.txt has the words of the grammar; words of hibari's lexicon are inserted to widen the
range of phone sequences.
"""

import gzip
import importlib.util
import json
import random
import re
from functools import cache
from pathlib import Path

SENTENCE_FILE = Path(__file__).with_name("sentences.txt")
WORD_FILE = Path(__file__).with_name("words.txt")
N_HELD_OUT = 80
HAND_WRITTEN_SHARE = 0.45  # of the pool's utterances
RARE_WORD_SHARE = 0.2  # of the nouns in the grammar's sentences
TWO_SENTENCES_SHARE = 0.25
LEXICON_FILE = "assets/lexicon_us_gold.json.gz"  # in the hibari package

PATTERNS = (
    "{subject} {past} {object} {place}.",
    "{subject} {past} {object}, {link} {subject2} {past2} {object2} {time}.",
    "{opener} {subject} {past} {object} {time}.",
    "Did {subject} {base} {object} {place}?",
    "Why would {subject} {base} {object}?",
    "Please {base} {object} {place}.",
    "{object} and {object2} were {place}.",
    "There was {object} {place}, {link} {subject} {past} it.",
    "{subject} will {base} {object} {time}, if you {base2} {object2}.",
    "When {subject} {past} {object}, {object2} vanished {place}.",
    "I thought {subject} might {base} {object} {time}.",
    "{number} of the {plural} were {adjective}, {link} the others were {adjective2}.",
    "{base} {object}!",
    "What {adjective} {plural}!",
    "How many {plural} did {subject} {base} {time}?",
    "{subject} could not {base} {object} because of {object2}.",
    "{opener} that {noun} is {adjective} and {adjective2}.",
    "The {noun} of {object} is more {adjective} than {object2}, {opener2} isn't it?",
    "{time}, {subject} {past} {number} {adjective} {plural}.",
    "{object} {past} {object2} {place} {time}, {link} nobody {past2} it.",
)
IRREGULAR_PLURALS = {
    "knife": "knives", "wife": "wives", "leaf": "leaves", "shelf": "shelves", "wolf": "wolves",
    "life": "lives", "man": "men", "woman": "women", "child": "children", "foot": "feet",
    "tooth": "teeth", "mouse": "mice", "sheep": "sheep", "fish": "fish",
}  # fmt: skip


def read_sentences() -> tuple[list[str], list[str]]:
    """(sentences for training, sentences held out for the val and test subjects)."""
    lines = SENTENCE_FILE.read_text(encoding="utf-8").splitlines()
    return lines[:-N_HELD_OUT], lines[-N_HELD_OUT:]


def draw_text(rng: random.Random) -> str:
    """The text of one utterance of the pool: one or two sentences, from the list or the grammar."""
    text = _draw_sentence(rng)
    if rng.random() < TWO_SENTENCES_SHARE and len(text) < 70:
        text += " " + _draw_sentence(rng)
    return text


def _draw_sentence(rng: random.Random) -> str:
    if rng.random() < HAND_WRITTEN_SHARE:
        return rng.choice(_hand_written())
    return generate_sentence(rng)


def generate_sentence(rng: random.Random) -> str:
    """One sentence of the grammar, 2 to about 25 words."""
    past, base = rng.choice(_words()["verbs"]).split("/")
    past2, base2 = rng.choice(_words()["verbs"]).split("/")

    def pick(kind: str) -> str:
        return rng.choice(_words()[kind])

    text = rng.choice(PATTERNS).format(
        subject=_subject(rng), subject2=_subject(rng), object=_noun_phrase(rng),
        object2=_noun_phrase(rng), noun=_noun(rng), plural=plural(pick("nouns")), past=past,
        past2=past2, base=base, base2=base2, adjective=pick("adjectives"),
        adjective2=pick("adjectives"), place=pick("places"), time=pick("times"),
        opener=pick("openers"), opener2=rng.choice(("um,", "uh,", "", "")),
        link=pick("links"), number=pick("numbers"),
    )  # fmt: skip
    text = re.sub(r"\ba (?=[aeiou])", "an ", " ".join(text.split()))
    return text[0].upper() + text[1:]


def plural(noun: str) -> str:
    """The plural of one of the grammar's nouns."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if re.search("(s|x|ch|sh)$", noun):
        return noun + "es"
    return noun[:-1] + "ies" if re.search("[^aeiou]y$", noun) else noun + "s"


def _subject(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(_words()["subjects"])
    return rng.choice(_words()["people"]) if kind < 0.65 else _noun_phrase(rng)


def _noun_phrase(rng: random.Random) -> str:
    article = rng.choice(("the", "the", "a", "my", "your", "our", "this", "that", "every", "her"))
    adjective = rng.choice(_words()["adjectives"]) + " " if rng.random() < 0.45 else ""
    return f"{article} {adjective}{_noun(rng)}"


def _noun(rng: random.Random) -> str:
    rare = _lexicon()
    return rng.choice(rare if rare and rng.random() < RARE_WORD_SHARE else _words()["nouns"])


@cache
def _words() -> dict[str, tuple[str, ...]]:
    """Kind -> words, from words.txt: a [kind] line, then words between semicolons."""
    kinds = re.split(r"\[(\w+)\]", WORD_FILE.read_text(encoding="utf-8"))
    return {
        kind: tuple(word.strip() for word in words.split(";"))
        for kind, words in zip(kinds[1::2], kinds[2::2], strict=True)
    }


@cache
def _hand_written() -> tuple[str, ...]:
    return tuple(read_sentences()[0])


@cache
def _lexicon() -> tuple[str, ...]:
    """Words of 3 to 9 letters in hibari's lexicon; empty when hibari is not installed."""
    spec = importlib.util.find_spec("hibari")
    if spec is None or not spec.submodule_search_locations:
        return ()
    path = Path(spec.submodule_search_locations[0]) / LEXICON_FILE
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return tuple(sorted(word for word in json.load(file) if re.fullmatch("[a-z]{3,9}", word)))
