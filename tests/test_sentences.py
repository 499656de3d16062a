"""The texts of the corpus and the pool."""

import random
import re

import pytest

from synthetic import sentences


def test_sentences_are_many_plain_and_distinct():
    common, held_out = sentences.read_sentences()
    assert len(common) >= 8 * 40 and len(held_out) == sentences.N_HELD_OUT
    lines = common + held_out
    assert len(set(lines)) == len(lines)
    assert all(re.fullmatch(r"[A-Z][A-Za-z' ,;.!?]*[.!?]", line) for line in lines)


def test_generated_sentences_are_plain_and_repeatable():
    texts = [sentences.generate_sentence(random.Random(seed)) for seed in range(300)]
    assert texts == [sentences.generate_sentence(random.Random(seed)) for seed in range(300)]
    assert len(set(texts)) > 290
    assert all(re.fullmatch(r"[A-Z][A-Za-z' ,]*[.!?]", text) for text in texts)
    assert not any(re.search(r"\ba [aeiou]|  |\{", text) for text in texts)


@pytest.mark.parametrize(
    ("noun", "plural"), [("box", "boxes"), ("city", "cities"), ("boy", "boys"), ("wolf", "wolves")]
)
def test_plurals_follow_the_ending_of_the_noun(noun, plural):
    assert sentences.plural(noun) == plural
