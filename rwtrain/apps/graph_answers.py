"""Simple questions from the graph: the subject is linked, the relation is scored against the question, the objects are read from the triples.

The graph is an entity store (`rwtrain kg import`), the subject comes from the folder's own linker, and the question is compared with the
relation by the folder's own text embeddings: through a linear map learned from questions with known relations (`learn_relations`), or, without
one, with the relation's words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rwtrain.apps.model import AppModel
from rwtrain.errors import DataError, RWTrainError
from rwtrain.files import atomic_path
from rwtrain.knowledge.store import EntityStore

SUBJECT = "this"  # stands for the subject's name when question and relation are compared
CANDIDATES = 5
TRUST = 0.1  # power of the linker's score: what a question is about is mostly its longest name
SHARPNESS = 20  # inverse temperature of cosines between questions and relations


@dataclass(frozen=True)
class Subject:
    """An entity that a question may be about: characters `start` to `end`; `score` grows with the length of the name and the linker's score."""

    start: int
    end: int
    entity: int
    score: float


@dataclass(frozen=True)
class GraphAnswer:
    """Objects of one subject and relation.

    Attributes:
        subject: what the question is about.
        relation: row of the relation; `forward` says whether the subject is the triples' head.
        objects: rows of the entities that answer, the best first by TransE distance.
        score: subject's and relation's scores multiplied.
    """

    subject: Subject
    relation: int
    forward: bool
    objects: tuple[int, ...]
    score: float


class GraphAnswerer:
    """Answers from one store with one model."""

    def __init__(self, app: AppModel, store: EntityStore, *, relations: str | Path | None = None) -> None:
        """Args: relations: file written by `learn_relations`.

        Raises:
            RWTrainError: the folder has no linker, or it was built from another store.
            DataError: `relations` is not readable or does not fit.
        """
        linker = app.need_linker()
        if linker.store_hash != store.hash:
            raise RWTrainError(f"{app.folder}: its linker belongs to another entity store than {store.folder}. Give the store that the linker was built from.")
        self.app, self.store, self.linker = app, store, linker
        self.map = _load_map(Path(relations), app, store) if relations is not None else None

    @cached_property
    def edges(self) -> dict[int, dict[tuple[int, bool], list[int]]]:
        """entity → (relation, forward) → objects, of all triples of the store."""
        found: dict[int, dict[tuple[int, bool], list[int]]] = defaultdict(lambda: defaultdict(list))
        for split in ("train", "valid", "test"):
            for head, relation, tail in np.asarray(self.store.triples(split)).tolist():
                found[head][relation, True].append(tail)
                found[tail][relation, False].append(head)
        return found

    def subjects(self, question: str) -> list[Subject]:
        """Entities that the question may be about, by descending score; names that the linker would not link count, too."""
        found = [
            Subject(spot.start, spot.end, entity, (spot.end - spot.start) / len(question) * max(score, 0.0) ** TRUST)
            for spot in self.linker.explain(question)
            for entity, score in spot.candidates[:CANDIDATES]
        ]
        best = {subject.entity: subject for subject in sorted(found, key=lambda each: each.score)}
        return sorted(best.values(), key=lambda each: -each.score)

    def relation_scores(self, question: str, subject: Subject) -> np.ndarray:
        """Probability-like scores of (relation, forward), [2 · relations]: forward ones first."""
        asked = question[: subject.start] + SUBJECT + question[subject.end :]
        features = self.app.embed_texts([asked])
        learned = self.map
        logits = np.tile(features @ self.relation_embeddings.T, 2) * SHARPNESS if learned is None else features @ learned["weight"].T + learned["bias"]
        shares = np.exp(logits[0] - logits[0].max())
        return shares / shares.sum()

    @cached_property
    def relation_embeddings(self) -> np.ndarray:
        """Embeddings of the relations' words, [relations, C]."""
        return self.app.embed_texts([self.store.relation_label(row).replace("/", " ").replace("_", " ") for row in range(self.store.relation_count)])

    def answer(self, question: str, *, count: int = 3) -> list[GraphAnswer]:
        """The best answers, one for each subject and relation."""
        found = []
        for subject in self.subjects(question)[:CANDIDATES]:
            scores = self.relation_scores(question, subject)
            for (relation, forward), objects in self.edges.get(subject.entity, {}).items():
                share = scores[relation + (0 if forward else self.store.relation_count)]
                found.append(
                    GraphAnswer(subject, relation, forward, self.rank_objects(subject.entity, relation, forward, objects), float(subject.score * share))
                )
        return sorted(found, key=lambda each: -each.score)[:count]

    def rank_objects(self, subject: int, relation: int, forward: bool, objects: Sequence[int]) -> tuple[int, ...]:
        """Objects by ‖h + r − t‖, the nearest first."""
        rows = np.array(sorted(set(objects)))
        vectors, step = self.store.vectors, self.store.relation_vectors[relation]
        target = vectors[subject] + step if forward else vectors[subject] - step
        return tuple(rows[np.argsort(np.linalg.norm(vectors[rows] - target, axis=1), kind="stable")].tolist())


def learn_relations(app: AppModel, store: EntityStore, questions: Sequence[tuple[str, int, int, bool]], out: str | Path, *, decay: float = 0.03) -> float:
    """Learn which relation a question asks for: multinomial logistic regression on the model's text embeddings.

    Embeddings of one kind of text lie close together, so their directions are made equally wide first (Su et al. 2021); the map that is
    written is one of the plain embeddings again.

    Args:
        questions: (question with its subject's name replaced by `SUBJECT`, subject row, relation row, forward).
        out: file to write.
        decay: L2 penalty on the widened directions.

    Returns:
        Share of the questions whose relation it finds.
    """
    plain = torch.from_numpy(app.embed_texts([question for question, *_ in questions])).double()
    centre, widen = plain.mean(0), _widening(plain)
    features = ((plain - centre) @ widen).float()
    labels = torch.tensor([relation + (0 if forward else store.relation_count) for _, _, relation, forward in questions])
    weight = torch.zeros(2 * store.relation_count, features.shape[1], requires_grad=True)
    bias = torch.zeros(2 * store.relation_count, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(features @ weight.T + bias, labels) + decay * weight.pow(2).sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad(), atomic_path(out) as temporary:
        unwidened = weight.double() @ widen.T
        arrays = {"weight": unwidened.float().numpy(), "bias": (bias - unwidened @ centre).float().numpy()}
        save_file(arrays, temporary, metadata={"store_hash": store.hash})
    return float(((features @ weight.T + bias).argmax(1) == labels).float().mean())


def _widening(features: torch.Tensor) -> torch.Tensor:
    """[C, C]: makes the variance of features [N, C] one in every direction that varies at all."""
    values, directions = torch.linalg.eigh(torch.cov(features.T, correction=0))
    return directions * torch.where(values > 1e-6 * values.max(), values.clamp(min=1e-12).rsqrt(), 0.0)


def _load_map(path: Path, app: AppModel, store: EntityStore) -> dict[str, np.ndarray]:
    remedy = "Make it again with `rwtrain answer relations`"
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(path, f"not a readable file of relation scores ({error})", remedy) from error
    expected = (2 * store.relation_count, app.model.config.embedding_dim)
    if arrays.get("weight", np.zeros(0)).shape != expected or arrays.get("bias", np.zeros(0)).shape != expected[:1]:
        raise DataError(path, f"made for another model or store (expected a weight of shape {expected})", remedy)
    return arrays
