from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from rwtrain.cli import main
from rwtrain.errors import DataError
from rwtrain.knowledge.evaluate import KnownAnswers, evaluate_link_prediction, evaluate_vectors, relation_categories
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


def plain_category(relation: int, everything: set) -> str:
    """Bordes et al. 2013: a side is N if a pair of the relation and the other side's entity has 1.5 entities or more on average."""
    tails, heads = Counter(h for h, r, _ in everything if r == relation), Counter(t for _, r, t in everything if r == relation)
    one_or_many = ["N" if sum(counts.values()) / len(counts) >= 1.5 else "1" for counts in (heads, tails)]
    return "-".join(one_or_many)


def test_relations_fall_into_the_four_categories() -> None:
    one_to_one = [(0, 0, 1), (2, 0, 3)]
    one_to_many = [(0, 1, tail) for tail in range(1, 4)]
    many_to_one = [(head, 2, 0) for head in range(1, 4)]
    many_to_many = [(head, 3, tail) for head in range(3) for tail in range(3)]
    exactly_half = [(0, 4, 1), (0, 4, 2), (3, 4, 4)]  # 3 tails for 2 heads: 1.5, which counts as many
    triples = one_to_one + one_to_many + many_to_one + many_to_many + exactly_half
    repeated = np.array(triples + one_to_one)  # a triple that stands in two splits counts once
    assert relation_categories(repeated, relations=6).tolist() == ["1-1", "1-N", "N-1", "N-N", "1-N", "1-1"]
    assert [plain_category(relation, set(triples)) for relation in range(5)] == ["1-1", "1-N", "N-1", "N-N", "1-N"]


@pytest.mark.parametrize("norm", [1, 2])
def test_figures_agree_with_brute_force_on_a_graph_full_of_ties(norm: int) -> None:
    draw = np.random.default_rng(norm)
    entity = draw.integers(-2, 3, (40, 3)).astype(np.float32)  # whole numbers: exact in float32, with many equal distances
    relation = draw.integers(-1, 2, (3, 3)).astype(np.float32)
    draws = [(draw.integers(0, 40, 300), 0, draw.integers(0, 40, 300)), (np.arange(40), 1, np.arange(40) // 4), (np.arange(20), 2, 2 * np.arange(20))]
    triples = np.unique(np.concatenate([np.stack(np.broadcast_arrays(*parts), 1) for parts in draws]), axis=0).astype(np.int32)
    test = triples[::7]
    figures = evaluate_vectors(test, entity_vectors=entity, relation_vectors=relation, known=KnownAnswers(triples, relations=3), norm=norm)
    everything = set(map(tuple, triples.tolist()))
    expected = {name: np.array(brute_force_ranks(test, everything, entity, relation, norm, tails=name == "tail")) for name in ("head", "tail")}
    expected["both"] = np.concatenate([expected["head"], expected["tail"]])
    kinds = np.array([plain_category(relation, everything) for relation in test[:, 1].tolist()])
    for kind, found in figures["categories"].items():
        assert found["triples"] == (kinds == kind).sum()
        for name in ("head", "tail"):
            assert found[name]["mrr"] == pytest.approx((1 / expected[name][kinds == kind]).mean())
            assert found[name]["hits10"] == pytest.approx((expected[name][kinds == kind] <= 10).mean())
    assert set(figures["categories"]) == set(kinds)
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


def test_the_command_prints_figures_per_category(store: EntityStore, capsys: pytest.CaptureFixture[str]) -> None:
    tables = {"entity_vectors": np.ones((len(store), 3), np.float32), "relation_vectors": np.ones((store.relation_count, 3), np.float32)}
    write_vectors(store, **tables, details={"norm": 2})
    assert main(["eval", "kg", str(store.folder), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert sum(kind["triples"] for kind in figures["categories"].values()) == figures["triples"] == 1
    (kind,) = figures["categories"]
    assert main(["eval", "kg", str(store.folder)]) == 0
    assert f"categories {kind} tail mrr" in capsys.readouterr().out


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
