from __future__ import annotations

import numpy as np
import pytest

from rwtrain.knowledge.negatives import KnownNegatives, expand, own_answers


@pytest.mark.parametrize("seed", range(5))
def test_exactly_the_negatives_that_make_a_training_triple_are_found(seed: int) -> None:
    draw = np.random.default_rng(seed)
    triples = draw.integers(0, (12, 3, 12), (90, 3)).astype(np.int32)
    batch, negatives = triples[draw.permutation(90)[:20]].astype(np.int64), np.unique(draw.integers(0, 12, 6))
    train = set(map(tuple, triples.tolist()))
    expected = set()
    for number, (head, relation, tail) in enumerate(batch.tolist()):
        for place, negative in enumerate(negatives.tolist()):
            expected |= {(number, place)} if (head, relation, negative) in train else set()
            expected |= {(number + 20, place)} if (negative, relation, tail) in train else set()
    query, place = KnownNegatives(triples, entities=12, relations=3).pairs(batch, negatives)
    assert set(zip(query.tolist(), place.tolist(), strict=True)) == expected
    assert (np.diff(query) >= 0).all()


def test_own_answers_among_the_negatives() -> None:
    query, place = own_answers(np.array([[0, 0, 5], [9, 1, 2]]), np.array([2, 5, 7]))
    assert sorted(zip(query.tolist(), place.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_expand_lists_the_integers_of_ranges() -> None:
    number, integer = expand(np.array([3, 7, 7]), np.array([5, 7, 8]))
    assert (number.tolist(), integer.tolist()) == ([0, 0, 2], [3, 4, 7])
