"""Corrections: the right edits are proposed, and those that the language model gains most from are made."""

from __future__ import annotations

import numpy as np
import pytest

from rwtrain.apps import rewriting
from rwtrain.apps.model import AppModel
from rwtrain.apps.rewriting import Costs, apply, correct, inflections, lexicon_of, misspellings, propose
from rwtrain.errors import ConfigError

WORDS = "the a an of people have has conclusion in this book read reads reading city cities stop receive"
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
    assert "people read" in texts("people read of") or "people read book" in texts("people read of book")


def test_spelling_and_forms() -> None:
    assert misspellings("recieve", LEXICON) == {"receive"}
    assert misspellings("citty", LEXICON) == {"city"}
    assert misspellings("xqzwv", LEXICON) == set()
    assert {"cities", "citys"} & inflections("city") >= {"cities"}
    assert {"reading", "reads"} <= inflections("read")


def test_lexicon_is_the_tokenizers_words(app: AppModel) -> None:
    lexicon = lexicon_of(app)
    assert {"the", "of", "and"} <= lexicon
    assert all(len(app.tokenizer.encode(f" {word}")) == 1 for word in list(lexicon)[:50])


def test_the_most_gainful_edit_wins_and_costs_hold(app: AppModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"people have the book. ": 9.0, "people has the book. ": 4.0}
    monkeypatch.setattr(rewriting, "lexicon_of", lambda _: LEXICON)
    monkeypatch.setattr(rewriting, "log_probabilities", lambda _, rows: [wanted.get(row, 0.0 if row == "people has book. " else -50.0) for row in rows])
    free = Costs(**dict.fromkeys(Costs.__dataclass_fields__, 0.5))
    found = correct(app, "people has book. ", costs=free)
    assert found.text == "people have the book. "
    assert [edit.kind for edit in found.edits] == ["insertion", "form"]
    assert [edit.gain for edit in found.edits] == pytest.approx([3.5, 4.5])
    dear = Costs(**dict.fromkeys(Costs.__dataclass_fields__, 4.5))
    assert correct(app, "people has book. ", costs=dear).text == "people has book. "


def test_nothing_is_lost(app: AppModel) -> None:
    text = "One line.\n\nAnother, with 3.5 % and more?! "
    assert correct(app, text, costs=Costs(**dict.fromkeys(Costs.__dataclass_fields__, np.inf))).text == text
    with pytest.raises(ConfigError, match="empty"):
        correct(app, "  ")
