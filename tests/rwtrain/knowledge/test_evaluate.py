from __future__ import annotations

import numpy as np
import pytest

from rwtrain.errors import DataError
from rwtrain.knowledge.evaluate import KnownAnswers, evaluate_link_prediction, evaluate_vectors
from rwtrain.knowledge.store import EntityStore
from rwtrain.knowledge.writing import write_vectors


def brute_force_ranks(triples: np.ndarray, everything: set, entity: np.ndarray, relation: np.ndarray, norm: int, *, tails: bool) -> list[float]:
    ranks = []
    for head, rel, tail in triples.tolist():
        scores = {}
        for other in range(len(entity)):
            candidate = (head, rel, other) if tails else (other, rel, tail)
            if candidate in everything and candidate != (head, rel, tail):
                continue
            difference = entity[candidate[0]].astype(np.float64) + relation[rel] - entity[candidate[2]]
            scores[other] = float(np.abs(difference).sum() if norm == 1 else np.square(difference).sum())
        truth = scores[tail if tails else head]
        optimistic = 1 + sum(score < truth for score in scores.values())
        pessimistic = sum(score <= truth for score in scores.values())
        ranks.append((optimistic + pessimistic) / 2)
    return ranks


@pytest.mark.parametrize("norm", [1, 2])
def test_figures_agree_with_brute_force_on_a_graph_full_of_ties(norm: int) -> None:
    draw = np.random.default_rng(norm)
    entity = draw.integers(-2, 3, (40, 3)).astype(np.float32)  # whole numbers: exact in float32, with many equal distances
    relation = draw.integers(-1, 2, (3, 3)).astype(np.float32)
    triples = np.unique(np.stack([draw.integers(0, 40, 300), draw.integers(0, 3, 300), draw.integers(0, 40, 300)], 1), axis=0).astype(np.int32)
    test = triples[::7]
    figures = evaluate_vectors(test, entity_vectors=entity, relation_vectors=relation, known=KnownAnswers(triples, relations=3), norm=norm)
    everything = set(map(tuple, triples.tolist()))
    expected = {name: np.array(brute_force_ranks(test, everything, entity, relation, norm, tails=name == "tail")) for name in ("head", "tail")}
    expected["both"] = np.concatenate([expected["head"], expected["tail"]])
    for name, ranks in expected.items():
        found = figures if name == "both" else figures[name]
        assert found["mrr"] == pytest.approx((1 / ranks).mean())
        assert found["mean_rank"] == pytest.approx(ranks.mean())
        for k in (1, 3, 10):
            assert found[f"hits{k}"] == pytest.approx((ranks <= k).mean())


def test_equal_distances_everywhere_give_the_middle_rank_and_chance_is_the_mean_of_random_orders() -> None:
    triples = np.array([[0, 0, 1], [2, 0, 3]], np.int32)
    figures = evaluate_vectors(
        triples, entity_vectors=np.ones((9, 2), np.float32), relation_vectors=np.zeros((1, 2), np.float32), known=KnownAnswers(triples, relations=1), norm=2
    )
    assert figures["mean_rank"] == 5
    assert figures["chance_mrr"] == pytest.approx(sum(1 / rank for rank in range(1, 10)) / 9)


def test_a_store_without_vectors_or_test_triples_is_refused(store: EntityStore) -> None:
    with pytest.raises(DataError, match="no vectors yet"):
        evaluate_link_prediction(store)
    write_vectors(
        store, entity_vectors=np.ones((len(store), 3), np.float32), relation_vectors=np.ones((store.relation_count, 3), np.float32), details={"norm": 2}
    )
    figures = evaluate_link_prediction(EntityStore.open(store.folder))
    assert (figures["triples"], figures["split"], figures["dimension"]) == (1, "test", 3)
    np.save(store.folder / "test.npy", np.zeros((0, 3), np.int32))
    with pytest.raises(DataError, match="no test triples"):
        evaluate_link_prediction(store)
