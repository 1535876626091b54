"""The edits that a teacher would make are proposed."""

from __future__ import annotations

import time

from rwtrain.apps.edits import apply, inflections, misspellings, propose

WORDS = "the a an of people have has conclusion in this book read reads reading city cities stop receive front don't"
LEXICON = frozenset(WORDS.split())


def texts(sentence: str) -> set[str]:
    return {apply(sentence, edit) for edit in propose(sentence, LEXICON)}


def test_edits_that_a_teacher_would_make_are_proposed() -> None:
    assert "people have a book" in texts("people has a book")
    assert "people have the book" in texts("people have a book")
    assert "people have the book" in texts("people have book")
    assert "In conclusion" in texts("In concluion")
    assert "people in the city" in texts("people at the city")
    assert "He reads" in texts("He read")
    assert "people read book" in texts("people read of book")
    assert "people in front of" in texts("people infront of")
    assert "I read" in texts("i read")


def test_spelling_and_forms() -> None:
    assert misspellings("recieve", LEXICON) == {"receive"}
    assert misspellings("citty", LEXICON) == {"city"}
    assert misspellings("dont", LEXICON) == {"don't"}
    assert misspellings("xqzwv", LEXICON) == set()
    assert inflections("city") >= {"cities"}
    assert {"reading", "reads"} <= inflections("read")


def test_known_words_and_names_are_not_respelled() -> None:
    assert {edit.kind for edit in propose("people in this city", LEXICON)} & {"spelling"} == set()
    assert {edit.kind for edit in propose("people in Citty", LEXICON)} & {"spelling"} == set()


def test_a_long_word_that_no_edits_lead_from_takes_no_time() -> None:
    lexicon = frozenset(["abcdefgh", "on"])
    began = time.process_time()
    assert misspellings("qxz" * 200, lexicon) == frozenset()
    assert time.process_time() - began < 1
    assert misspellings("abcdefghxy", lexicon) == {"abcdefgh"}


def test_typographic_apostrophes_are_apostrophes() -> None:
    lexicon = frozenset({"don't", "we", "know", "done"})
    assert [edit for edit in propose("We don\u2019t know", lexicon) if edit.kind == "spelling"] == []


def test_two_edits_are_tried_on_words_of_ordinary_length_only() -> None:
    lexicon = frozenset({"encyclopedia", "x" * 40})
    assert misspellings("encyklopedya", lexicon) == {"encyclopedia"}
    assert misspellings("x" * 36 + "ab", lexicon | {"x" * 38}) == frozenset()
