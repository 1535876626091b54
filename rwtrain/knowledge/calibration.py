"""Learn the linker's weights, and with them what counts as no entity (NIL), from texts with gold mentions.

Two small models with the features that the linker itself computes: a logistic regression says whether a known name is a mention at all
(otherwise NIL), a conditional logit says which candidate is meant. Both are fitted by Newton's method with an L2 penalty on what moves away
from the weights so far, which a few hundred mentions should not throw away. As some features depend on the scores of neighbouring names,
fitting is repeated a few times. The bias then is moved to where the F1 on the same texts is best.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rwtrain.errors import DataError
from rwtrain.files import write_json
from rwtrain.knowledge.gold import Document, Span, read_gold, rows_of
from rwtrain.knowledge.store import EntityStore
from rwtrain.model.linking_features_refinedweb import CANDIDATE_FEATURES, CANDIDATE_WIDTH, KIND, MENTION_FEATURES, MENTION_WIDTH, QUALIFIED
from rwtrain.model.linking_refinedweb import SETTINGS_FILE, EntityLinker

ROUNDS = 4
MENTION_PENALTY, CHOICE_PENALTY = 1.0, 12.0  # from two-fold cross-validation over the texts that the default weights were learned from
VECTOR_SCALE = 127.0  # length of the coherence vectors
NEWTON_STEPS = 12
SHIFTS = np.arange(-2.0, 3.01, 0.2)


@dataclass(frozen=True)
class Examples:
    """Names found in gold texts: features of each spot and whether it is a mention; features of the candidates of gold spans and which is meant."""

    spots: np.ndarray
    entity: np.ndarray
    is_mention: np.ndarray
    candidates: np.ndarray
    spot_of_candidate: np.ndarray
    is_meant: np.ndarray


def calibrate(linker: EntityLinker, store: EntityStore, documents: Sequence[Document], *, weights: bool, kinds: bool = True) -> dict[str, Any]:
    """Settings that suit some texts with gold mentions; the linker uses them from then on.

    Args:
        linker: whose settings to improve.
        store: its store.
        documents: texts with gold mentions, as `read_gold` gives them.
        weights: learn all weights, not only the biases.
        kinds: with `weights`, also learn from the TransE vectors which kinds of entity are mentions; this fits only this linker's vectors.

    Raises:
        DataError: no gold mention is an entity of the store, or the linker belongs to another one.
    """
    if linker.store_hash != store.hash:
        raise DataError(linker.folder, "the linker was built for another entity store", "Build it again with `rwtrain kg linker`")
    gold = [(text, span, rows_of(store, labels)) for text, span, labels in documents]
    if not any(mentions for _, _, mentions in gold):
        raise DataError(linker.folder, "no gold mention is an entity of the store", "Give texts that name entities of the store")
    settings = copy.deepcopy(linker.settings)
    before = {kind: np.array([settings[kind][name] for name in names]) for kind, names in (("mention", MENTION_FEATURES), ("candidate", CANDIDATE_FEATURES))}
    for _ in range(ROUNDS if weights else 0):
        examples = collect_examples(linker, gold)
        vectors = linker.coherence_vectors(examples.entity) / VECTOR_SCALE if kinds else np.zeros((len(examples.entity), 0))
        centre = np.append(before["mention"][:KIND], np.zeros(vectors.shape[1]))
        both = fit_logistic(np.concatenate([examples.spots[:, :KIND], vectors], 1), examples.is_mention, centre=centre)
        mention = np.append(both[:KIND], 1.0)
        settings["kind"] = [round(float(value) / VECTOR_SCALE, 6) for value in both[KIND:]]
        candidate = fit_choice(examples.candidates, examples.spot_of_candidate, examples.is_meant, centre=before["candidate"])
        settings["mention"] = {name: round(float(value), 3) for name, value in zip(MENTION_FEATURES, mention, strict=True)}
        settings["candidate"] = {name: round(float(value), 3) for name, value in zip(CANDIDATE_FEATURES, candidate, strict=True)}
        linker.configure(settings)
        set_bias(linker, gold)
        settings = linker.settings
    set_bias(linker, gold)
    set_bias(linker, gold, left_context=True)
    return linker.settings


def write_settings(linker: EntityLinker) -> None:
    """Keep the linker's present settings in its folder."""
    path = linker.folder / SETTINGS_FILE
    description = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, description | {"settings": linker.settings})


def collect_examples(linker: EntityLinker, gold: Sequence[tuple[str, Span, dict[Span, int]]]) -> Examples:
    """Features of every spot inside the evaluated spans, and of the candidates of gold spans."""
    spots: list[np.ndarray] = []
    entity: list[int] = []
    is_mention: list[bool] = []
    candidates: list[np.ndarray] = []
    owner: list[np.ndarray] = []
    is_meant: list[np.ndarray] = []
    for text, (first, last), mentions in gold:
        run = linker.run([text], spans=list(mentions))
        count = run.spot_bounds[-1]
        start, end = run.words.start[run.spots.first[:count]], run.ends[:count]
        features = run.spots.features[: count * MENTION_WIDTH].reshape(-1, MENTION_WIDTH)
        pairs = run.candidates.features[: run.spots.begin[count] * CANDIDATE_WIDTH].reshape(-1, CANDIDATE_WIDTH)
        for number in range(count):
            part = slice(run.spots.begin[number], run.spots.begin[number + 1])
            row = mentions.get((int(start[number]), int(end[number])))
            meant = run.candidates.entity[part] == (-1 if row is None else row)
            if meant.any():
                candidates.append(pairs[part])
                owner.append(np.full(len(meant), len(owner)))
                is_meant.append(meant)
            if first <= start[number] and end[number] <= last and run.candidates.kind[run.spots.best[number]] != QUALIFIED:
                spots.append(features[number])
                entity.append(run.candidates.entity[run.spots.best[number]])
                is_mention.append(meant.any())
    return Examples(np.array(spots), np.array(entity), np.array(is_mention, bool), np.concatenate(candidates), np.concatenate(owner), np.concatenate(is_meant))


def fit_logistic(features: np.ndarray, label: np.ndarray, *, centre: np.ndarray) -> np.ndarray:
    """Weights of a logistic regression, drawn to `centre`; the first feature is 1 and its weight is free."""
    weights = np.zeros(features.shape[1])
    penalty = np.full(len(weights), MENTION_PENALTY)
    penalty[0] = 1e-6
    for _ in range(NEWTON_STEPS):
        share = 1 / (1 + np.exp(-features @ weights))
        gradient = features.T @ (share - label) + penalty * (weights - centre)
        curvature = (features * (share * (1 - share))[:, None]).T @ features + np.diag(penalty)
        weights = weights - np.linalg.solve(curvature, gradient)
    return weights


def fit_choice(features: np.ndarray, group: np.ndarray, meant: np.ndarray, *, centre: np.ndarray) -> np.ndarray:
    """Weights of a conditional logit, drawn to `centre`: in each group one candidate is meant."""
    weights = centre.copy()
    for _ in range(NEWTON_STEPS):
        power = np.exp(features @ weights - (features @ weights).max())
        share = power / np.bincount(group, power)[group]
        mean = np.stack([np.bincount(group, share * features[:, place]) for place in range(features.shape[1])], 1)
        centred = features - mean[group]
        gradient = features.T @ (share - meant) + CHOICE_PENALTY * (weights - centre)
        curvature = (centred * share[:, None]).T @ centred + CHOICE_PENALTY * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step / max(1.0, np.abs(step).max())
    return weights


def set_bias(linker: EntityLinker, gold: Sequence[tuple[str, Span, dict[Span, int]]], *, left_context: bool = False) -> None:
    """Move the mention bias (or that of left context) so that linking what scores one half or more has the best F1 of exact spans and entities."""
    tried = [linker.settings]
    for shift in SHIFTS:
        changed = copy.deepcopy(linker.settings)
        if left_context:
            changed["left_context_bias"] = round(float(shift), 3)
        else:
            changed["mention"]["bias"] = round(changed["mention"]["bias"] + float(shift), 3)
        tried.append(changed)
    linker.configure(max(tried, key=lambda settings: _f1(linker, gold, settings, left_context=left_context)))


def _f1(linker: EntityLinker, gold: Sequence[tuple[str, Span, dict[Span, int]]], settings: dict[str, Any], *, left_context: bool) -> float:
    linker.configure(settings)
    found = linker.link_batch([text for text, _, _ in gold], left_context=left_context)
    right, links = 0, 0
    for number, (_, (first, last), mentions) in enumerate(gold):
        part = slice(found.bounds[number], found.bounds[number + 1])
        for start, end, entity in zip(found.start[part].tolist(), found.end[part].tolist(), found.entity[part].tolist(), strict=True):
            if first <= start and end <= last:
                links += 1
                right += mentions.get((start, end)) == entity
    return 2 * right / max(1, links + sum(len(mentions) for _, _, mentions in gold))


def read_documents(paths: Sequence[Path]) -> list[Document]:
    """All documents of some gold files."""
    return [document for path in paths for document in read_gold(path)]
