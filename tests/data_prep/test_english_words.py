from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.english_words import english_words


def words(text: str) -> list[str]:
    found = english_words(text)
    return [text[start:end] for start, end in zip(found.start, found.end, strict=True)]


# Each split is spaCy 3.8's (`spacy.blank("en")`), whitespace tokens left out.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop!", ["Do", "n't", "stop", "!"]),
        ("I'm sure they've gone.", ["I", "'m", "sure", "they", "'ve", "gone", "."]),
        ("Mr. Smith's U.S. dog, e.g. Rex.", ["Mr.", "Smith", "'s", "U.S.", "dog", ",", "e.g.", "Rex", "."]),
        ('He said: "well-known (sort of)".', ["He", "said", ":", '"', "well", "-", "known", "(", "sort", "of", ")", '"', "."]),
        ("It costs $5.50, US$7 or 10km.", ["It", "costs", "$", "5.50", ",", "US$", "7", "or", "10", "km", "."]),
        ("See http://example.com/a,b and me@example.org.", ["See", "http://example.com/a,b", "and", "me@example.org", "."]),
        ("and/or 3-4 1,000 a.b A.B x=y", ["and/or", "3", "-", "4", "1,000", "a.b", "A.B", "x", "=", "y"]),
        ("Wait... what?!", ["Wait", "...", "what", "?", "!"]),
        ("10% of +5 and C++", ["10", "%", "of", "+5", "and", "C++"]),
        ("naïve café — “quoted”", ["naïve", "café", "—", "“", "quoted", "”"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_words_are_those_of_spacy(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_word_properties() -> None:
    found = english_words("the 12 ... the x1")
    assert found.has_letter.tolist() == [True, False, False, True, True]
    assert found.is_symbol.tolist() == [False, False, True, False, False]
    assert found.hash[0] == found.hash[3]
    assert len(set(found.hash.tolist())) == 4


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.one_of(st.sampled_from("ab.,'-:/@ $5%+()\"\n…"), st.characters(codec="utf-8"))))
def test_words_cover_everything_but_spaces_in_order(text: str) -> None:
    found = english_words(text)
    assert "".join(words(text)) == "".join(text.split())
    assert (found.start[1:] >= found.end[:-1]).all()
    assert (found.end > found.start).all()
