"""Words of transcripts and of the recogniser, and their differences."""

import sys

import pytest

from benchmarks.check_transcripts import plain_words, recogniser, word_errors
from common.errors import UserError


def test_spellings_are_made_equal():
    assert plain_words("Mr. Dashwood, press 12!") == plain_words("mister dashwood press one two")
    assert plain_words("the P. B. X.") == ["the", "p", "b", "x"]
    assert plain_words("I’d login") == plain_words("i'd log in") == ["i'd", "login"]


def test_word_errors_are_insertions_deletions_and_substitutions():
    assert word_errors(["the", "cat", "sat"], ["the", "cat", "sat"]) == 0
    assert word_errors(["a", "cat"], ["the", "cat", "sat"]) == 2
    assert word_errors([], ["the", "cat"]) == 2


def test_a_missing_recogniser_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "moonshine_voice", None)
    with pytest.raises(UserError, match=r"pip install moonshine-voice==0\.0\.49"):
        recogniser()
