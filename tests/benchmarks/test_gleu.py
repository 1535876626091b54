"""GLEU against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from benchmarks.apps.gleu import gleu, sentence_stats


def test_one_reference_by_hand() -> None:
    source, hypothesis, reference = "the cat was on mat", "the cats was on a mat", "the cats were on a mat"
    stats = sentence_stats(source, hypothesis, [reference])[0]
    # 1: the, cats, on, a, mat are right; was is the source's alone: 5 − 1 of 6
    # 2: "the cats", "on a", "a mat" are right; "was on" is the source's alone: 3 − 1 of 5
    # 3: "on a mat" is right: 1 of 4
    # 4: none of 3
    assert stats.tolist() == [6, 6, 4, 6, 2, 5, 1, 4, 0, 3]
    assert gleu([stats[None]]) == 0
    more = sentence_stats("x", "a b c d e", ["a b c d e"])
    summed = [(4 + 5) / 11, (2 + 4) / 9, (1 + 3) / 7, 2 / 5]
    assert gleu([stats[None], more]) == pytest.approx(math.prod(summed) ** 0.25)


def test_short_texts_pay_for_it() -> None:
    assert gleu([sentence_stats("a b c d", "a b c d", ["a b c d e f"])]) == pytest.approx(math.exp(1 - 6 / 4))
    assert gleu([sentence_stats("a b c d", "a b c d", ["a b c d"])]) == 1


def test_references_are_drawn_evenly() -> None:
    right, wrong = "a b c d e", "v w x y z"
    assert gleu([sentence_stats(right, right, [right, wrong])]) == pytest.approx(0.5, abs=0.07)
