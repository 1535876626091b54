"""Build the entity linker's folder from a store: every name of every entity, with priors, and the words that speak for each entity."""

from __future__ import annotations

import logging
import re
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from rwtrain.errors import DataError
from rwtrain.files import atomic_folder, write_json
from rwtrain.knowledge.characters import character_tables
from rwtrain.knowledge.store import VECTORS_FOLDER, EntityStore
from rwtrain.model.linking_refinedweb import (
    ALIAS,
    CONTINUES,
    LABEL,
    LAST_NAME,
    LOWER,
    MAX_WORDS,
    SCHEMA_VERSION,
    SETTINGS_FILE,
    TABLE_FILE,
    VECTORS_FILE,
    Words,
    combine,
    read_words,
    shape_of,
)

logger = logging.getLogger(__name__)

SETTINGS: dict[str, float] = {
    "threshold": 0.5,
    "prior": 1.0,
    "exact": 0.5,
    "coherence": 3.0,
    "overlap": 1.0,
    "window_words": 50,
    "window_mentions": 10,
    "mention_bias": -0.5,
    "mention_shape": 0.8,
    "mention_exact": 0.7,
    "mention_label": 0.5,
    "mention_popularity": 0.1,
    "mention_several_words": 1.5,
    "mention_length": 0.15,
    "mention_lower": -2.5,
    "mention_acronym": 1.0,
    "mention_common": -3.0,
    "mention_opens_sentence": -0.5,
    "mention_beside_capital": -2.0,
    "mention_context": 0.3,
    "mention_floor": -3.0,
    "named": 3.0,
    "mention_named": 1.5,
}
LABEL_WEIGHT, VARIANT_WEIGHT, ALIAS_WEIGHT, LAST_NAME_WEIGHT = 1.0, 0.7, 0.4, 0.1
POPULARITY_POWER = 0.75
ABOUT_WORDS = 24
SLOTS_PER_ENTRY = 1.5
SHORT_CODE_LETTERS = 3
LAST_NAME_PATTERN = re.compile(r"^\w.* ([^\W\d_][\w'’-]{2,})$")
BRACKETS = re.compile(r"\s*[(（][^()（）]*[)）]\s*$")


@dataclass(frozen=True)
class Names:
    """All usable names: one row a (name, entity) pair."""

    text: list[str]
    entity: np.ndarray
    weight: np.ndarray
    kind: np.ndarray


def build_linker(store: EntityStore, out: str | Path, *, settings: dict[str, float] | None = None) -> dict[str, Any]:
    """Write the linker of `store` into the folder `out`; return its description (as in linker.json).

    Args:
        store: where names, popularity and vectors come from; without vectors the linker works, without coherence.
        out: the folder; replaced when the new one is complete.
        settings: weights to use instead of the defaults.

    Raises:
        DataError: no entity of the store has a name, or something else stands at `out`.
    """
    out = Path(out)
    if out.exists() and not (out / SETTINGS_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(out, "something that is not an entity linker stands there", "Give another --out, or remove it")
    flags, fold = character_tables()
    labels = [store.label(row) for row in range(len(store))]
    table = name_table(collect_names(store), store.popularity, flags=flags, fold=fold)
    if not len(table["candidate_entity"]):
        raise DataError(store.folder, "no entity has a usable name", "Import the store with labels (entity2wikidata.json)")
    table |= about_table(store, flags=flags, fold=fold)
    encoded = [label.encode() for label in labels]
    table["label_text"] = np.frombuffer(b"".join(encoded), np.uint8)
    table["label_start"] = np.concatenate([[0], np.cumsum([len(label) for label in encoded])]).astype(np.int64)
    table["popularity"] = np.log1p(store.popularity).astype(np.float32)
    table |= {"char_flags": flags, "char_fold": fold}
    trained = (store.folder / VECTORS_FOLDER).is_dir()
    if not trained:
        logger.warning("%s has no vectors: the linker is built without coherence; run `rwtrain kg train` first to have it", store.folder)
    with atomic_folder(out) as folder:
        save_file(table, folder / TABLE_FILE)
        if trained:
            vectors = np.ascontiguousarray(store.vectors)
            save_file({"entity_vectors": vectors, "mean": vectors.mean(0, dtype=np.float64).astype(np.float32)}, folder / VECTORS_FILE)
        for path in folder.iterdir():
            path.chmod(0o644)  # safetensors makes files that only their owner can read
        description = {
            "schema_version": SCHEMA_VERSION,
            "store_hash": store.hash,
            "entities": len(store),
            "forms": len(table["form_start"]) - 1,
            "candidates": len(table["candidate_entity"]),
            "dimension": int(store.vectors.shape[1]) if trained else None,
            "table_bytes": sum(table[name].nbytes for name in table if name.startswith(("slot_", "form_", "candidate_"))),
            "settings": SETTINGS | (settings or {}),
            "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        }
        write_json(folder / SETTINGS_FILE, description)
    return description


def collect_names(store: EntityStore) -> Names:
    """Labels, labels without a bracketed addition, aliases, and the last names of people."""
    text: list[str] = []
    entity: list[int] = []
    weight: list[float] = []
    kind: list[int] = []
    people = person_rows(store)
    for row in range(len(store)):
        if not store.has_label(row):
            continue
        label = _clean(store.label(row))
        names = {label: (LABEL_WEIGHT, LABEL)}
        for name, value in ((BRACKETS.sub("", label), VARIANT_WEIGHT), *((_clean(alias), ALIAS_WEIGHT) for alias in store.aliases(row))):
            names.setdefault(name, (value, ALIAS))
        if row in people and label.split(" ", 1)[0] in names and " " in label:  # a first name alone
            names[label.split(" ", 1)[0]] = (LAST_NAME_WEIGHT, LAST_NAME)
        if row in people and (last := LAST_NAME_PATTERN.search(label)):
            names.setdefault(last[1], (LAST_NAME_WEIGHT, LAST_NAME))
        text += names
        entity += [row] * len(names)
        weight += [value for value, _ in names.values()]
        kind += [value for _, value in names.values()]
    return Names(text, np.array(entity, np.int32), np.array(weight, np.float32), np.array(kind, np.uint8))


def _clean(name: str) -> str:
    """One space between words, no leading article: "the United States" is found as "United States"."""
    return " ".join(name.split()).removeprefix("the ")


def person_rows(store: EntityStore) -> set[int]:
    """Entities that the graph calls human: subjects of Freebase's /people/person relations, or of Wikidata's "instance of human"."""
    triples = store.triples("train")
    relations = [row for row in range(store.relation_count) if store.relation_id(row).startswith("/people/person/")]
    rows = set(triples[np.isin(triples[:, 1], relations), 0].tolist())
    try:
        human = store.row("Q5")
    except KeyError:
        return rows
    instance_of = [row for row in range(store.relation_count) if store.relation_id(row) == "P31"]
    return rows | set(triples[np.isin(triples[:, 1], instance_of) & (triples[:, 2] == human), 0].tolist())


def name_table(names: Names, popularity: np.ndarray, *, flags: np.ndarray, fold: np.ndarray) -> dict[str, np.ndarray]:
    """The hash table from names to candidates, as arrays."""
    words = read_words("\n".join(names.text), char_flags=flags, char_fold=fold)
    first, count, shape, letters = _split(names.text, words)
    usable = _usable(names, count, shape, letters, words, first)
    rows = np.flatnonzero(usable)
    prefixes = _phrase_hashes(words.hash, first[rows], count[rows])  # [names, longest] uint64, 0 beyond the name
    key = prefixes[np.arange(len(rows)), count[rows] - 1] if len(rows) else np.zeros(0, np.uint64)
    weight = names.weight[rows] * (popularity[names.entity[rows]] + 1.0) ** POPULARITY_POWER
    order = np.lexsort((-weight, names.entity[rows], key))
    order = order[_first_of_pair(key[order], names.entity[rows][order])]
    order = order[np.lexsort((-weight[order], key[order]))]
    form_key, form_start = np.unique(key[order], return_index=True)
    form_of = np.searchsorted(form_key, key[order])
    total = np.bincount(form_of, weight[order], minlength=len(form_key))
    table = _hash_slots(form_key, prefixes, count[rows])
    kept = rows[order]
    common = _common_words(flags, fold)
    all_common = np.logical_and.reduceat(np.isin(words.hash, common), first) if len(first) else np.zeros(0, bool)
    table |= {
        "form_start": np.append(form_start, len(order)).astype(np.uint32),
        "form_common": np.maximum.reduceat(all_common[kept].astype(np.uint8), form_start),
        "form_period": _any_by_key(form_key, key, np.array([names.text[row].endswith(".") for row in rows], np.uint8)),
        "candidate_entity": names.entity[kept],
        "candidate_prior": (weight[order] / total[form_of]).astype(np.float32),
        "candidate_shape": shape[kept].astype(np.uint8),
        "candidate_kind": names.kind[kept],
        "candidate_exact": np.array([zlib.crc32(names.text[row].encode()) for row in kept], np.uint32),
    }
    return table


def _split(texts: list[str], words: Words) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which words belong to each name: (first word, word count, shape, letters), [names] each."""
    begin = np.concatenate([[0], np.cumsum([len(text) + 1 for text in texts])])
    edge = np.searchsorted(words.start, begin)
    first, count = edge[:-1], np.diff(edge)
    sums = [np.concatenate([[0], np.cumsum(values)]) for values in (words.upper, words.cased, words.end - words.start)]
    upper, cased, letters = (total[edge[1:]] - total[edge[:-1]] for total in sums)
    return first, count, shape_of(upper, cased), letters


def _usable(names: Names, count: np.ndarray, shape: np.ndarray, letters: np.ndarray, words: Words, first: np.ndarray) -> np.ndarray:
    """Names that can be found in text without linking everything: no single letters, no lower-case codes such as "be" or "it", no bare numbers."""
    joined = np.concatenate([[0], np.cumsum(words.joins)])
    whole = (count > 0) & (joined[np.maximum(first + count - 1, 0)] - joined[np.minimum(first, len(joined) - 1)] == count - 1)
    short_code = (shape == LOWER) & (letters <= SHORT_CODE_LETTERS) & (names.kind != LABEL)
    digits = np.array([text.replace(" ", "").isdigit() for text in names.text], bool)
    symbols = np.array([any(sign in "+#*$@%=<>~^" for sign in text) for text in names.text], bool) & (letters <= 2)
    return whole & (count <= MAX_WORDS) & (letters >= 2) & ~short_code & ~(digits & (names.kind != LABEL)) & ~symbols


def _phrase_hashes(hashes: np.ndarray, first: np.ndarray, count: np.ndarray) -> np.ndarray:
    longest = int(count.max(initial=1))
    prefixes = np.zeros((len(first), longest), np.uint64)
    phrase = np.zeros(len(first), np.uint64)
    for place in range(longest):
        active = np.flatnonzero(count > place)
        phrase[active] = combine(phrase[active], hashes[first[active] + place])
        prefixes[active, place] = phrase[active]
    return prefixes


def _first_of_pair(key: np.ndarray, entity: np.ndarray) -> np.ndarray:
    """Of equal neighbouring (key, entity) pairs, only the first."""
    return np.append(True, (key[1:] != key[:-1]) | (entity[1:] != entity[:-1])) if len(key) else np.zeros(0, bool)


def _any_by_key(form_key: np.ndarray, key: np.ndarray, flag: np.ndarray) -> np.ndarray:
    result = np.zeros(len(form_key), np.uint8)
    np.maximum.at(result, np.searchsorted(form_key, key), flag)
    return result


def _hash_slots(form_key: np.ndarray, prefixes: np.ndarray, count: np.ndarray) -> dict[str, np.ndarray]:
    """The open-addressing table: names, and the beginnings of longer names, at two thirds full or less."""
    inner = [prefixes[count > place + 1, place] for place in range(prefixes.shape[1] - 1)]
    begins = np.unique(np.concatenate([*inner, np.zeros(0, np.uint64)]))
    keys = np.union1d(form_key, begins)
    value = np.zeros(len(keys), np.uint32)
    value[np.searchsorted(keys, form_key)] = np.arange(1, len(form_key) + 1)
    value[np.searchsorted(keys, begins)] |= CONTINUES
    size = 1 << max(4, int(np.ceil(np.log2(len(keys) * SLOTS_PER_ENTRY + 1))))
    slot_key, slot_form = np.zeros(size, np.uint64), np.zeros(size, np.uint32)
    slot, active = keys & np.uint64(size - 1), np.arange(len(keys))
    while active.size:
        free = slot_key[slot[active]] == 0
        taken, winners = np.unique(slot[active[free]], return_index=True)
        placed = active[free][winners]
        slot_key[taken], slot_form[taken] = keys[placed], value[placed]
        active = np.setdiff1d(active, placed, assume_unique=True)
        occupied = slot_key[slot[active]] != 0
        slot[active[occupied]] = (slot[active[occupied]] + np.uint64(1)) & np.uint64(size - 1)
    return {"slot_key": slot_key, "slot_form": slot_form}


def _common_words(flags: np.ndarray, fold: np.ndarray) -> np.ndarray:
    text = (resources.files("rwtrain.knowledge") / "common_words.md").read_text(encoding="utf-8").split("\n\n", 1)[1]
    return read_words(text, char_flags=flags, char_fold=fold).hash


def about_table(store: EntityStore, *, flags: np.ndarray, fold: np.ndarray) -> dict[str, np.ndarray]:
    """The words of each entity's label and description, weighted by rarity, as 32-bit hashes: at most 24 an entity."""
    common = _common_words(flags, fold).astype(np.uint32)
    texts = [f"{store.label(row) if store.has_label(row) else ''} {store.description(row)}".replace("\n", " ") for row in range(len(store))]
    words = read_words("\n".join(texts), char_flags=flags, char_fold=fold)
    begin = np.concatenate([[0], np.cumsum([len(text) + 1 for text in texts])])
    owner = np.searchsorted(begin, words.start, side="right") - 1
    pairs = np.unique(owner.astype(np.uint64) << np.uint64(32) | words.hash.astype(np.uint32))
    owner, word = (pairs >> np.uint64(32)).astype(np.int64), pairs.astype(np.uint32)
    keep = ~np.isin(word, common)
    owner, word = owner[keep], word[keep]
    _, place, seen = np.unique(word, return_inverse=True, return_counts=True)
    rarity = np.log(len(store) / seen[place]) / np.log(max(2, len(store)))
    order = np.lexsort((-rarity, owner))
    owner, word, rarity = owner[order], word[order], rarity[order]
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    keep = rank < ABOUT_WORDS
    counts = np.bincount(owner[keep], minlength=len(store))
    return {
        "about_start": np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32),
        "about_word": word[keep],
        "about_weight": rarity[keep].astype(np.float16),
    }
