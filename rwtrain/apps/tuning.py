"""What the embeddings may count beside BM25, learned from questions whose documents are known.

A small model's embeddings often find less than words do. Questions with known documents say how much less: of all weights, the one with the best
recall is kept with the index. As BM25 alone is one of them, fused search is not worse than it on these questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rwtrain.apps.model import AppModel
from rwtrain.apps.passages import FUSION_DEPTH, PassageIndex, fuse

WEIGHTS = tuple(step / 20 for step in range(21))
RECALL_AT = 5


@dataclass(frozen=True)
class Question:
    """A question and the numbers of the passages that answer it."""

    text: str
    passages: frozenset[int]


def recall(ranked: Sequence[Sequence[int]], questions: Sequence[Question], *, at: int = RECALL_AT) -> float:
    """Share of the questions with one of their passages among the first `at`."""
    return float(np.mean([not question.passages.isdisjoint(numbers[:at]) for numbers, question in zip(ranked, questions, strict=True)]))


def weight_recalls(app: AppModel, index: PassageIndex, questions: Sequence[Question], *, at: int = RECALL_AT) -> dict[float, float]:
    """Recall of fused search for every weight of the embeddings; 0 is BM25 alone, 1 the embeddings alone (behind them, BM25 breaks no tie)."""
    texts, depth = [question.text for question in questions], min(len(index), FUSION_DEPTH)
    dense, bm25 = index.dense(app.embed_texts(texts), depth), index.bm25(texts, depth)
    return {weight: recall([[number for number, _ in hits] for hits in fuse(dense, bm25, dense_weight=weight)], questions, at=at) for weight in WEIGHTS}


def learn_weight(app: AppModel, index: PassageIndex, questions: Sequence[Question]) -> dict[float, float]:
    """Keep the weight with the best recall with the index, the smallest of equals; return the recall of every weight."""
    found = weight_recalls(app, index, questions)
    index.weigh(max(found, key=lambda weight: (found[weight], -weight)))
    return found
