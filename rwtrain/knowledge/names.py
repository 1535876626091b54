"""The names of a store's entities: labels, aliases, names made from them, and names seen in links."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from rwtrain.errors import DataError
from rwtrain.knowledge.store import ANCHORS, EntityStore
from rwtrain.knowledge.variants import ARTICLE, known_demonyms, plurals, short_names_of, spellings
from rwtrain.model.linking_features_refinedweb import ALIAS, LABEL, QUALIFIED

LABEL_WEIGHT, VARIANT_WEIGHT, ALIAS_WEIGHT, PLURAL_WEIGHT, SHORT_WEIGHT = 1.0, 0.7, 0.4, 0.3, 0.05
BRACKETS = re.compile(r"\s*[(（][^()（）]*[)）]\s*$")
PLAIN_NOUN = re.compile(r"^[a-z]+(?:[ -][a-z]+)?$")

ADJECTIVE = re.compile(r"([A-Z][a-z]+(?:an|ish|ese|[ck]h|sh|ss|[lr]i)) [a-z]")
HUMAN = "Q5"  # in Wikidata
DEMONYM_COUNT, DEMONYM_SHARE, DEMONYM_LIFT = 3, 0.25, 1.5


@dataclass(frozen=True)
class Names:
    """All names: one row a (name, entity) pair; `count` is how often the name was seen as a link to the entity."""

    text: list[str]
    entity: np.ndarray
    weight: np.ndarray
    kind: np.ndarray
    count: np.ndarray


def collect_names(store: EntityStore, people: set[int]) -> Names:
    """Every name of every entity.

    Args:
        store: the entities, and where it holds `anchors.arrow` (surface: string, entity: row, count), names seen in links.
        people: rows that are persons.

    Raises:
        DataError: the file of links cannot be used.
    """
    text: list[str] = []
    entity: list[int] = []
    weight: list[float] = []
    kind: list[int] = []
    labels: dict[str, int] = {}
    taken: dict[int, set[str]] = {}
    for row in range(len(store)):
        if not store.has_label(row):
            continue
        names = entity_names(store.label(row), [(name.text, name.is_label) for name in store.names(row)])
        text += names
        entity += [row] * len(names)
        weight += [value for value, _ in names.values()]
        kind += [value for _, value in names.values()]
        label = store.label(row)
        if label not in labels or store.popularity[row] > store.popularity[labels[label]]:
            labels[label] = row
        taken[row] = set(names)
    adjectives = [(adjective, row) for adjective, row in demonyms(store).items() if adjective not in taken[row]]
    adjectives += [(word, labels[place]) for place, words in known_demonyms().items() if place in labels for word in words]
    plain = ((row, clean(BRACKETS.sub("", store.label(row)))) for row in taken)
    for names_made, its_weight in ((adjectives, ALIAS_WEIGHT), (short_names_of(plain, people, taken), SHORT_WEIGHT)):
        text += [name for name, _ in names_made]
        entity += [row for _, row in names_made]
        weight += [its_weight] * len(names_made)
        kind += [ALIAS] * len(names_made)
    surfaces, rows, counts = read_anchors(store)
    return Names(
        text + surfaces,
        np.concatenate([np.array(entity, np.int64), rows]),
        np.concatenate([np.array(weight), np.full(len(rows), ALIAS_WEIGHT)]),
        np.concatenate([np.array(kind, np.uint8), np.full(len(rows), ALIAS, np.uint8)]),
        np.concatenate([np.zeros(len(text), np.int64), counts]),
    )


def entity_names(label: str, aliases: list[tuple[str, bool]]) -> dict[str, tuple[float, int]]:
    """name -> (weight, kind) of one entity: its label, other names (and whether each is the label in its language), and variants of them."""
    label = " ".join(label.split())
    names = {label: (LABEL_WEIGHT, LABEL)}
    plain = clean(BRACKETS.sub("", label))
    names.setdefault(plain, (VARIANT_WEIGHT, ALIAS))
    for alias, is_label in aliases:
        name = clean(alias)
        kind = QUALIFIED if is_qualified(name, plain) else LABEL if is_label else ALIAS
        names.setdefault(name, (LABEL_WEIGHT if is_label else ALIAS_WEIGHT, kind))
    for name in list(names):
        for other in spellings(name):
            names.setdefault(other, (ALIAS_WEIGHT, ALIAS))
    if PLAIN_NOUN.match(plain):
        for other in plurals(plain):
            names.setdefault(other, (PLURAL_WEIGHT, ALIAS))
    return names


def clean(name: str) -> str:
    """One space between words, no leading article: "the United States" is found as "United States"."""
    return ARTICLE.sub("", " ".join(name.split()))


def is_qualified(name: str, label: str) -> bool:
    """Whether a name is the label and more: "Paris, Texas", "President Barack Obama". It tells who is meant; the mention is the label."""
    return len(name) > len(label) and (name.startswith(label + ",") or name.endswith(" " + label))


def demonyms(store: EntityStore) -> dict[str, int]:
    """Adjectives such as "American", learned from descriptions ("American actor"): adjective -> row of the place.

    The adjective begins the descriptions of three entities or more, a quarter of them are related to the place, which is half as often again as
    others are, and it begins like the place's name ("Spanish", Spain).
    """
    first_words = [match[1] if (match := ADJECTIVE.match(store.description(row))) else "" for row in range(len(store))]
    words, word_of, count = np.unique(np.array(first_words, object).astype(str), return_inverse=True, return_counts=True)
    pairs = store.triples("train")[:, [0, 2]].astype(np.int64)
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    degree = np.bincount(pairs[:, 1], minlength=len(store))
    usable = (words != "") & (count >= DEMONYM_COUNT)
    pairs = pairs[usable[word_of[pairs[:, 0]]]]
    key, together = np.unique(word_of[pairs[:, 0]] * len(store) + pairs[:, 1], return_counts=True)
    word, place = key // len(store), key % len(store)
    share = together / count[word]
    good = (share >= DEMONYM_SHARE) & (together >= DEMONYM_COUNT) & (share * len(store) >= DEMONYM_LIFT * degree[place])
    found: dict[str, int] = {}
    for number in np.flatnonzero(good)[np.argsort(-share[good], kind="stable")]:
        adjective, row = str(words[word[number]]), int(place[number])
        known = {part for name in (store.label(row), *store.aliases(row)) for part in name.split() if "," not in name}
        if adjective not in found and adjective not in known and any(part[:2] == adjective[:2] and len(part) > 3 for part in known):
            found[adjective] = row
    return found


def read_anchors(store: EntityStore) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(surface, row, count) of the links that the store has seen; empty without `anchors.arrow`.

    Raises:
        DataError: the file names a row that the store does not have.
    """
    table = store.anchors
    if table is None:
        return [], np.zeros(0, np.int64), np.zeros(0, np.int64)
    entity, count = (table.column(name).to_numpy().astype(np.int64) for name in ("entity", "count"))
    bad = np.flatnonzero((entity < 0) | (entity >= len(store)) | (count < 1))
    if len(bad):
        problem = f"entity {entity[bad[0]]} with count {count[bad[0]]}; the store has {len(store)} entities"
        raise DataError(store.folder / ANCHORS, problem, "Collect the links again with `rwtrain kg anchors`", record=int(bad[0]))
    return [clean(text) for text in table.column("surface").to_pylist()], entity, count


def person_rows(store: EntityStore) -> set[int]:
    """Entities that the graph calls human: subjects of Freebase's /people/person relations, or of Wikidata's type "human"."""
    triples = store.triples("train")
    relations = [row for row in range(store.relation_count) if store.relation_id(row).startswith("/people/person/")]
    rows = set(triples[np.isin(triples[:, 1], relations), 0].tolist())
    rows |= {row for row in range(len(store)) if HUMAN in store.types(row)}
    try:
        human = store.row(HUMAN)
    except KeyError:
        return rows
    instance_of = [row for row in range(store.relation_count) if store.relation_id(row) == "P31"]
    return rows | set(triples[np.isin(triples[:, 1], instance_of) & (triples[:, 2] == human), 0].tolist())
