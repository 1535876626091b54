"""Link prediction: rank the true entity of each triple among all entities, as FB15k-237 is evaluated.

Filtered: other entities that make a known triple are taken out. Realistic rank: among equal distances the true entity stands in
the middle (Berrendorf et al. 2020). Both directions are ranked: (h, r, ?) and (?, r, t).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from rwtrain.errors import DataError
from rwtrain.knowledge.negatives import expand
from rwtrain.knowledge.rows import Place
from rwtrain.knowledge.store import SPLITS, EntityStore

SCORES_PER_BATCH = 1 << 21
MANY = 1.5
CATEGORIES = ("1-1", "1-N", "N-1", "N-N")


class KnownAnswers:
    """For every query, the entities that make a triple known from any split: a sorted list to take out of the ranking.

    Args:
        triples: [triples, 3] int rows (head, relation, tail) of all splits.
        relations: number of relations.

    Attributes:
        categories: of each relation, see `relation_categories`.
    """

    def __init__(self, triples: np.ndarray, *, relations: int) -> None:
        self.relations = relations
        self.categories = relation_categories(triples, relations=relations)
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
        query, places = expand(first, last)
        return query, answers[places]


class Scorer:
    """Ranks entities by their distance to where a triple points, over the rows that this rank holds.

    Args:
        part: this rank's rows of the table [entities, then relations; D]: rows rank, rank + W, … of it.
        entities: number of entity rows of the whole table.
        norm: 1 or 2.
        place: this rank; with several, every rank must ask for the same ranks.
    """

    def __init__(self, part: torch.Tensor, *, entities: int, norm: int, place: Place | None = None) -> None:
        self.part, self.entities, self.norm, self.place = part, entities, norm, place or Place()
        self.local_ND = part[: self.place.count(entities)]
        self.square_1N = self.local_ND.square().sum(1).unsqueeze(0)
        self.queries_per_batch = max(1, min(512, SCORES_PER_BATCH // max(1, len(self.local_ND))))

    def vectors(self, rows: np.ndarray) -> torch.Tensor:
        """The vectors of some rows of the whole table, on every rank, [rows, D]."""
        if self.place.world_size == 1:
            return self.part[torch.from_numpy(rows).to(self.part.device)]
        found = torch.zeros(len(rows), self.part.shape[1], device=self.part.device)
        mine, local = self._held(rows)
        found[mine] = self.part[local]
        dist.all_reduce(found)
        return found

    def _held(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of some rows this rank holds, and where."""
        mine = np.flatnonzero(rows % self.place.world_size == self.place.rank)
        return torch.from_numpy(mine).to(self.part.device), torch.from_numpy(rows[mine] // self.place.world_size).to(self.part.device)

    @torch.no_grad()
    def ranks(self, batch: np.ndarray, *, known: KnownAnswers, tails: bool) -> tuple[np.ndarray, np.ndarray]:
        """Realistic filtered rank of each triple's true tail (or head), and how many candidates it was ranked among.

        Args:
            batch: [Q, 3] int64 triples.
            known: whose answers are taken out.
            tails: rank tails, else heads.
        """
        given, answer = (batch[:, 0], batch[:, 2]) if tails else (batch[:, 2], batch[:, 0])
        query_QD = self.vectors(given) + self.vectors(batch[:, 1] + self.entities) * (1 if tails else -1)
        # Squared distance without the query's own square, which is the same for all its candidates.
        score_QN = torch.addmm(self.square_1N, query_QD, self.local_ND.T, alpha=-2.0) if self.norm == 2 else torch.cdist(query_QD, self.local_ND, p=1.0)
        truth_Q1 = torch.zeros(len(batch), 1, device=self.part.device)
        mine, local = self._held(answer)
        truth_Q1[mine, 0] = score_QN[mine, local]
        query, taken = known.pairs(given, batch[:, 1], tails=tails)
        pair, place = self._held(taken)
        score_QN[torch.from_numpy(query).to(self.part.device)[pair], place] = float("inf")
        if self.place.world_size > 1:
            dist.all_reduce(truth_Q1)
        counts = torch.stack([(score_QN < truth_Q1).sum(1), (score_QN == truth_Q1).sum(1)])
        if self.place.world_size > 1:
            dist.all_reduce(counts)
        nearer, equal = counts.cpu().numpy()
        # The true answer is a known one and was taken out; it stands in the middle of those at its own distance.
        return 1 + nearer + equal / 2, self.entities - np.bincount(query, minlength=len(batch)) + 1


def relation_categories(triples: np.ndarray, *, relations: int) -> np.ndarray:
    """ "1-1", "1-N", "N-1" or "N-N" for each relation row, after Bordes et al. 2013, section 4.3: a side is N where a pair of the
    relation and the other side's entity has 1.5 or more entities on average. Relations without triples are "1-1".

    Args:
        triples: [triples, 3] int rows of all splits.
        relations: number of relations.
    """
    triples = np.unique(np.asarray(triples), axis=0)
    count = np.bincount(triples[:, 1], minlength=relations)
    per_other = []
    for column in (2, 0):
        pairs = np.unique(triples[:, [column, 1]], axis=0)
        per_other.append(count >= MANY * np.maximum(np.bincount(pairs[:, 1], minlength=relations), 1))
    many_heads, many_tails = per_other
    return np.array(CATEGORIES)[many_heads * 2 + many_tails]


def summary(ranks: np.ndarray) -> dict[str, float]:
    """MRR, Hits@1, 3 and 10 and the mean rank."""
    hits = {f"hits{k}": float((ranks <= k).mean()) for k in (1, 3, 10)}
    return {"mrr": float((1 / ranks).mean()), **hits, "mean_rank": float(ranks.mean())}


def evaluate_scorer(triples: np.ndarray, scorer: Scorer, *, known: KnownAnswers, progress: bool = False) -> dict[str, Any]:
    """Rank `triples` both ways; return figures over both directions, per direction under "head" and "tail", per category of relation
    under "categories", and the MRR of a random order under "chance_mrr"."""
    ranks: dict[str, np.ndarray] = {}
    counts = []
    for name in ("head", "tail"):
        found = [
            scorer.ranks(np.asarray(triples[start : start + scorer.queries_per_batch], np.int64), known=known, tails=name == "tail")
            for start in tqdm(range(0, len(triples), scorer.queries_per_batch), desc=f"ranking {name}s", unit="batch", disable=not progress, leave=False)
        ]
        ranks[name] = np.concatenate([part for part, _ in found])
        counts.append(np.concatenate([part for _, part in found]))
    harmonic = np.cumsum(1 / np.arange(1, scorer.entities + 1))
    candidates = np.concatenate(counts)
    kinds = known.categories[triples[:, 1]]
    return {
        **summary(np.concatenate(list(ranks.values()))),
        "chance_mrr": float((harmonic[candidates.astype(np.int64) - 1] / candidates).mean()),
        "triples": len(triples),
        **{name: summary(found) for name, found in ranks.items()},
        "categories": {
            kind: {"triples": int((kinds == kind).sum()), **{name: summary(found[kinds == kind]) for name, found in ranks.items()}}
            for kind in CATEGORIES
            if (kinds == kind).any()
        },
    }


def evaluate_vectors(
    triples: np.ndarray,
    *,
    entity_vectors: np.ndarray,
    relation_vectors: np.ndarray,
    known: KnownAnswers,
    norm: int,
    progress: bool = False,
) -> dict[str, Any]:
    """`evaluate_scorer` with vectors given as two arrays of float32."""
    table = torch.from_numpy(np.concatenate([entity_vectors, relation_vectors]))
    return evaluate_scorer(triples, Scorer(table, entities=len(entity_vectors), norm=norm), known=known, progress=progress)


def known_answers(store: EntityStore) -> KnownAnswers:
    """The answers known from every split of a store."""
    return KnownAnswers(np.concatenate([store.triples(split) for split in SPLITS]), relations=store.relation_count)


def evaluate_link_prediction(store: EntityStore, *, split: str = "test", progress: bool = False) -> dict[str, Any]:
    """Filtered link prediction of a trained store, both directions, ties averaged.

    Returns:
        mrr, hits1, hits3, hits10, mean_rank, chance_mrr, triples, the same under "head" and "tail" and, by category of relation
        (1-1, 1-N, N-1, N-N), under "categories"; split, dimension and norm.

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
