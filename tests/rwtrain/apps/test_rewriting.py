"""Corrections: of the proposed edits those are made that the language model gains most from, by more than they cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rwtrain.apps import rewriting
from rwtrain.apps.edits import Edit
from rwtrain.apps.model import AppModel
from rwtrain.apps.rewriting import Costs, correct, correct_sentence, weighed_edits
from rwtrain.errors import ConfigError

WORDS = frozenset(["the", "people", "have", "has", "book"])


def equal_costs(cost: float) -> Costs:
    return Costs(**dict.fromkeys(Costs.__dataclass_fields__, cost))


def test_the_most_gainful_edit_wins_and_costs_hold(app: AppModel, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"people has book. ": 0.0, "people has the book. ": 4.0, "people have the book. ": 9.0}

    def gains(_: AppModel, text: str, variants: Sequence[str]) -> list[float]:
        return [known.get(variant, -50.0) - known[text] for variant in variants]

    monkeypatch.setattr(rewriting, "variant_gains", gains)
    found = correct(app, "people has book. ", costs=equal_costs(0.5), words=WORDS)
    assert found.text == "people have the book. "
    assert [edit.kind for edit in found.edits] == ["insertion", "form"]
    assert [edit.gain for edit in found.edits] == pytest.approx([3.5, 4.5])
    assert correct(app, "people has book. ", costs=equal_costs(4.5), words=WORDS).text == "people has book. "


def test_edits_that_stand_apart_are_made_in_one_reading_and_near_ones_are_not() -> None:
    text, read = "aa bb " + "x" * 30 + " cc", list[str]()

    def weigh(now: str) -> list[Edit]:
        read.append(now)
        return [
            Edit(now.index(word), now.index(word) + 2, word.upper() + "!", "case", gain)
            for word, gain in (("aa", 5.0), ("bb", 3.0), ("cc", 4.0))
            if word in now
        ]

    found = correct_sentence(text, weigh, costs=equal_costs(1.0), rounds=4)
    assert read[1] == "AA! bb " + "x" * 30 + " CC!"
    assert found.text == "AA! BB! " + "x" * 30 + " CC!"
    replayed = text
    for edit in found.edits:
        replayed = replayed[: edit.start] + edit.replacement + replayed[edit.end :]
    assert replayed == found.text
    assert correct_sentence(text, weigh, costs=equal_costs(1.0), rounds=1).text == read[1]


def test_gains_are_differences_of_the_model(app: AppModel) -> None:
    """Against the whole texts' ln p, each read by itself."""
    text = "in this city was many peopel"
    found = weighed_edits(app, text)
    assert found
    for edit in found[:20]:
        variant = text[: edit.start] + edit.replacement + text[edit.end :]
        rows = [np.concatenate(([1], app.tokenizer.encode(each))).astype(np.int64) for each in (text, variant)]
        before, after = (float(row.sum(dtype=np.float64)) for row in app.token_log_probabilities(rows))
        assert edit.gain == pytest.approx(after - before, abs=1e-4)


def test_nothing_is_lost(app: AppModel) -> None:
    text = "One line.\n\nAnother, with 3.5 % and more?! "
    assert correct(app, text, costs=equal_costs(np.inf)).text == text
    with pytest.raises(ConfigError, match="empty"):
        correct(app, "  ")
