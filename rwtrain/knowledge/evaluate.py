"""Link prediction: rank the true entity of each triple among all entities, as FB15k-237 is evaluated.

Filtered: other entities that make a known triple are taken out. Realistic rank: among equal distances the true entity stands in
the middle (Berrendorf et al. 2020). Both directions are ranked: (h, r, ?) and (?, r, t).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rwtrain.errors import DataError
from rwtrain.knowledge.store import SPLITS, EntityStore
from rwtrain.knowledge.transe import pairwise_distance, pairwise_square

QUERIES_PER_BATCH = 1024


class KnownAnswers:
    """For every query, the entities that make a triple known from any split: a sorted list to take out of the ranking.

    Args:
        triples: [triples, 3] int rows (head, relation, tail) of all splits.
        relations: number of relations.
    """

    def __init__(self, triples: np.ndarray, *, relations: int) -> None:
        self.relations = relations
        heads, relation, tails = (triples[:, column].astype(np.int64) for column in range(3))
        self._tails = self._sorted(heads * relations + relation, tails)
        self._heads = self._sorted(tails * relations + relation, heads)

    @staticmethod
    def _sorted(keys: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(keys, kind="stable")
        return keys[order], answers[order]

    def pairs(self, entities: np.ndarray, relations: np.ndarray, *, tails: bool) -> tuple[np.ndarray, np.ndarray]:
        """(query number, answer row) of every known answer to the queries (entity, relation)."""
        keys, answers = self._tails if tails else self._heads
        wanted = entities.astype(np.int64) * self.relations + relations
        first, last = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
        counts = last - first
        places = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
        return np.repeat(np.arange(len(wanted)), counts), answers[places]


@torch.no_grad()
def filtered_ranks(
    triples: np.ndarray, *, entity_ND: torch.Tensor, relation_RD: torch.Tensor, known: KnownAnswers, norm: int, tails: bool, progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Realistic filtered rank of each triple's true tail (or head), and how many candidates it was ranked among; both [triples] float64."""
    ranks, candidates = np.empty(len(triples)), np.empty(len(triples))
    for start in tqdm(
        range(0, len(triples), QUERIES_PER_BATCH), desc="ranking tails" if tails else "ranking heads", unit="batch", disable=not progress, leave=False
    ):
        batch = np.asarray(triples[start : start + QUERIES_PER_BATCH], np.int64)
        given, answer = (batch[:, 0], batch[:, 2]) if tails else (batch[:, 2], batch[:, 0])
        translation = relation_RD[torch.from_numpy(batch[:, 1])] * (1 if tails else -1)
        query_QD = entity_ND[torch.from_numpy(given)] + translation
        score_QN = pairwise_square(query_QD, entity_ND) if norm == 2 else pairwise_distance(query_QD, entity_ND, norm=norm)
        truth_Q1 = score_QN.gather(1, torch.from_numpy(answer).to(score_QN.device).unsqueeze(1))
        query, taken = known.pairs(given, batch[:, 1], tails=tails)
        score_QN[torch.from_numpy(query), torch.from_numpy(taken)] = float("inf")
        nearer = (score_QN < truth_Q1).sum(1).cpu().numpy()
        equal = (score_QN == truth_Q1).sum(1).cpu().numpy()
        stop = start + len(batch)
        ranks[start:stop] = 1 + nearer + equal / 2
        candidates[start:stop] = len(entity_ND) - np.bincount(query, minlength=len(batch)) + 1
    return ranks, candidates


def summary(ranks: np.ndarray) -> dict[str, float]:
    """MRR, Hits@1, 3 and 10 and the mean rank."""
    hits = {f"hits{k}": float((ranks <= k).mean()) for k in (1, 3, 10)}
    return {"mrr": float((1 / ranks).mean()), **hits, "mean_rank": float(ranks.mean())}


def evaluate_vectors(
    triples: np.ndarray,
    *,
    entity_vectors: np.ndarray | torch.Tensor,
    relation_vectors: np.ndarray | torch.Tensor,
    known: KnownAnswers,
    norm: int,
    progress: bool = False,
) -> dict[str, Any]:
    """Rank `triples` both ways; return figures over both directions, per direction under "head" and "tail", and MRR of a random order under "chance_mrr"."""
    tables = {
        "entity_ND": torch.as_tensor(np.array(entity_vectors) if isinstance(entity_vectors, np.ndarray) else entity_vectors),
        "relation_RD": torch.as_tensor(np.array(relation_vectors) if isinstance(relation_vectors, np.ndarray) else relation_vectors),
    }
    results = {name: filtered_ranks(triples, **tables, known=known, norm=norm, tails=name == "tail", progress=progress) for name in ("head", "tail")}
    harmonic = np.cumsum(1 / np.arange(1, len(tables["entity_ND"]) + 1))
    counts = np.concatenate([counted for _, counted in results.values()])
    return {
        **summary(np.concatenate([ranks for ranks, _ in results.values()])),
        "chance_mrr": float((harmonic[counts.astype(np.int64) - 1] / counts).mean()),
        "triples": len(triples),
        **{name: summary(ranks) for name, (ranks, _) in results.items()},
    }


def known_answers(store: EntityStore) -> KnownAnswers:
    """The answers known from every split of a store."""
    return KnownAnswers(np.concatenate([store.triples(split) for split in SPLITS]), relations=store.relation_count)


def evaluate_link_prediction(store: EntityStore, *, split: str = "test", progress: bool = False) -> dict[str, Any]:
    """Filtered link prediction of a trained store, both directions, ties averaged.

    Returns:
        mrr, hits1, hits3, hits10, mean_rank, chance_mrr, triples, the same under "head" and "tail", split, dimension and norm.

    Raises:
        DataError: the store has no vectors, or no triples in `split`.
    """
    triples = store.triples(split)
    if not len(triples):
        raise DataError(store.folder, f"no {split} triples to evaluate on", f"Import a graph with a {split} file, or choose another split")
    norm = int(store.vectors_manifest["norm"])
    figures = evaluate_vectors(
        triples, entity_vectors=store.vectors, relation_vectors=store.relation_vectors, known=known_answers(store), norm=norm, progress=progress
    )
    return {**figures, "split": split, "dimension": int(store.vectors.shape[1]), "norm": norm}
