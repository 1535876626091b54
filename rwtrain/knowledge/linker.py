"""Build the entity linker's folder from a store: every name of every entity, with priors, and the words that speak for each entity."""

from __future__ import annotations

import logging
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from rwtrain.errors import DataError
from rwtrain.files import atomic_folder, write_json
from rwtrain.knowledge.characters import character_table
from rwtrain.knowledge.linker_weights import SETTINGS, SHAPE_WEIGHTS
from rwtrain.knowledge.names import Names, collect_names, person_rows
from rwtrain.knowledge.store import VECTORS_FOLDER, EntityStore
from rwtrain.model.linking_features_refinedweb import COMMON, DATE, DIGITS, HAS_LABEL, LABEL, PERSON, POPULARITY_SHIFT, SHAPES_SHIFT, WITH_PERIOD
from rwtrain.model.linking_kernels_refinedweb import kernels
from rwtrain.model.linking_refinedweb import SCHEMA_VERSION, SETTINGS_FILE, TABLE_FILE, VECTORS_FILE, has_numba
from rwtrain.model.linking_run_refinedweb import seen, split_words
from rwtrain.model.linking_words_refinedweb import COMMON_WORD, CONTINUES, JOINED, LOWER, MASK_30, MAX_WORDS, Words

logger = logging.getLogger(__name__)

POPULARITY_POWER = 0.75
ANCHOR_SMOOTHING = 2.0  # how many observed links the prior without observation is worth
MAX_CANDIDATES = 24  # of one name, the likeliest
ABOUT_WORDS = 24
COHERENCE_DIMENSIONS = 32
SLOTS_PER_KEY = 1.6
FILTER_BITS_PER_WORD = 16
SHORT_CODE_LETTERS = 3
COMPILE_FROM_NAMES = 100_000


def build_linker(store: EntityStore, out: str | Path, *, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write the linker of `store` into the folder `out`; return its description (as in linker.json).

    Args:
        store: where names, popularity, observed links and vectors come from; without vectors the linker works, without coherence.
        out: the folder; replaced when the new one is complete.
        settings: weights and thresholds to use instead of the defaults (`rwtrain.knowledge.linker_weights.SETTINGS`).

    Raises:
        DataError: no entity of the store has a name, or something else stands at `out`.
    """
    out = Path(out)
    if out.exists() and not (out / SETTINGS_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(out, "something that is not an entity linker stands there", "Give another --out, or remove it")
    char_info = character_table()
    popularity = np.log1p(store.popularity) / max(1.0, float(np.log1p(store.popularity.max(initial=0))))
    level = np.round(popularity * 127).astype(np.int32)
    people = person_rows(store)
    table = name_table(collect_names(store, people), store.popularity, level, char_info)
    if not len(table["candidate_entity"]):
        raise DataError(store.folder, "no entity has a usable name", "Import the store with labels (entity2wikidata.json)")
    table |= about_table(store, char_info)
    encoded = [store.label(row).encode() for row in range(len(store))]
    table["label_text"] = np.frombuffer(b"".join(encoded), np.uint8)
    table["label_start"] = np.concatenate([[0], np.cumsum([len(label) for label in encoded])]).astype(np.int64)
    person = np.zeros(len(store), np.int32)
    person[sorted(people)] = PERSON
    trained = (store.folder / VECTORS_FOLDER).is_dir()
    if not trained:
        logger.warning("%s has no vectors: the linker is built without coherence; run `rwtrain kg train` first to have it", store.folder)
    table |= {
        "entity_info": (level << 1 | person).astype(np.uint8),
        "char_info": char_info,
        "shape_logs": np.log(SHAPE_WEIGHTS).reshape(-1),
        "coherence": coherence_vectors(store.vectors).reshape(-1) if trained else np.zeros(0, np.int8),
    }
    with atomic_folder(out) as folder:
        save_file(table, folder / TABLE_FILE)
        if trained:
            save_file({"entity_vectors": np.ascontiguousarray(store.vectors)}, folder / VECTORS_FILE)
        for path in folder.iterdir():
            path.chmod(0o644)  # safetensors makes files that only their owner can read
        description = {
            "schema_version": SCHEMA_VERSION,
            "store_hash": store.hash,
            "entities": len(store),
            "forms": len(table["form_info"]),
            "candidates": len(table["candidate_entity"]),
            "dimension": int(store.vectors.shape[1]) if trained else None,
            "table_bytes": sum(table[name].nbytes for name in table if name.startswith(("slots", "first_", "form_", "candidate_"))),
            "settings": settings or SETTINGS,
            "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        }
        write_json(folder / SETTINGS_FILE, description)
    return description


def coherence_vectors(vectors: np.ndarray) -> np.ndarray:
    """Small integer vectors whose cosines are nearly those of the TransE vectors around their mean: the first principal components, [entities, ≤ 32] int8."""
    mean_D = vectors.mean(0, dtype=np.float64)
    width = min(COHERENCE_DIMENSIONS, vectors.shape[1])
    step = max(1, (64 << 20) // max(1, vectors[:1].nbytes))
    covariance_DD = np.zeros((vectors.shape[1], vectors.shape[1]))
    for first in range(0, len(vectors), step):
        unit_ED = _unit(vectors[first : first + step] - mean_D)
        covariance_DD += unit_ED.T @ unit_ED
    axes_DK = np.linalg.eigh(covariance_DD)[1][:, ::-1][:, :width]
    parts = [_unit((vectors[first : first + step] - mean_D) @ axes_DK) for first in range(0, len(vectors), step)]
    return np.round(np.concatenate(parts) * 127).astype(np.int8)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.sqrt((rows * rows).sum(1, keepdims=True)), 1e-12)


def name_table(names: Names, popularity: np.ndarray, level: np.ndarray, char_info: np.ndarray) -> dict[str, np.ndarray]:
    """The hash table from names to candidates, as arrays; `level` is the popularity of each entity from 0 to 127."""
    code = kernels(compiled=len(names.text) > COMPILE_FROM_NAMES and has_numba())
    codes, _, words, bounds = split_words(code, names.text, *seen(code, char_info))
    details = np.empty(len(names.text), np.int64)
    code.name_details(*seen(code, codes, words, bounds, details))
    shape, exact = (details & 3).astype(np.int32), (details >> 2).astype(np.int32)
    rows = np.flatnonzero(_usable(names, shape, words, bounds))
    hashes, key, begin = _phrase_hashes(code, words, bounds, rows)
    entity = names.entity[rows]
    weight = names.weight[rows] * (popularity[entity] + 1.0) ** POPULARITY_POWER
    order = np.lexsort((-weight, entity, key))
    first = _starts(key[order], entity[order])
    count = np.add.reduceat(names.count[rows][order], first) if len(first) else np.zeros(0, np.int64)
    rows, order = rows[order[first]], order[first]  # one row a pair of name and entity
    prior = _priors(key[order], weight[order], count)
    best = np.lexsort((-prior, key[order]))
    rank = np.arange(len(best)) - np.searchsorted(key[order][best], key[order][best])
    best = best[rank < MAX_CANDIDATES]
    rows, prior, name_key = rows[best], prior[best], key[order][best]
    form_key, form_start = np.unique(name_key, return_index=True)
    common, dates = word_lists(char_info)
    info = _form_info(names, rows, form_start, level, shape, words, bounds, common, dates)
    return {
        **_slots(code, form_key, hashes, key, begin, common),
        "form_start": np.append(form_start, len(rows)).astype(np.int32),
        "form_info": info,
        "candidate_entity": names.entity[rows].astype(np.int32),
        "candidate_prior": np.log(prior).astype(np.float32),
        "candidate_info": exact[rows] << 4 | names.kind[rows].astype(np.int32) << 2 | shape[rows],
    }


def _usable(names: Names, shape: np.ndarray, words: Words, bounds: np.ndarray) -> np.ndarray:
    """Names that can be found in text without linking everything: no single letters, no lower-case codes such as "be" or "it", no bare numbers."""
    count = np.diff(bounds)
    sums = [np.concatenate([[0], np.cumsum(values)]) for values in ((words.info & JOINED) != 0, words.end - words.start)]
    joined, letters = (total[bounds[1:]] - total[bounds[:-1]] for total in sums)
    whole = (count > 0) & (joined == count - 1)
    short_code = (shape == LOWER) & (letters <= SHORT_CODE_LETTERS) & (names.kind != LABEL)
    digits = np.array([text.replace(" ", "").isdigit() for text in names.text], bool)
    symbols = np.array([any(sign in "+#*$@%=<>~^" for sign in text) for text in names.text], bool) & (letters <= 2)
    return whole & (count <= MAX_WORDS) & (letters >= 2) & ~short_code & ~(digits & (names.kind != LABEL)) & ~symbols


def _phrase_hashes(code: Any, words: Words, bounds: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hashes of the beginnings of all names, hash of each name of `rows`, where the beginnings of each name of `rows` are)."""
    hashes, begin = np.empty(len(words.hash), np.int64), np.empty(len(bounds), np.int64)
    code.phrase_hashes(*seen(code, words, bounds, hashes, begin))
    return hashes, hashes[begin[rows + 1] - 1], np.stack([begin[rows], begin[rows + 1]])


def _starts(key: np.ndarray, entity: np.ndarray) -> np.ndarray:
    """Where each run of equal (key, entity) pairs begins."""
    return np.flatnonzero(np.append(True, (key[1:] != key[:-1]) | (entity[1:] != entity[:-1]))) if len(key) else np.zeros(0, np.int64)


def _priors(key: np.ndarray, weight: np.ndarray, count: np.ndarray) -> np.ndarray:
    """p(entity | name): observed links, smoothed by kind of name and popularity; rows are sorted by key."""
    _, form = np.unique(key, return_inverse=True)
    share = weight / np.bincount(form, weight)[form] if len(key) else weight
    seen_links = np.bincount(form, count)[form] if len(key) else weight
    return (count + ANCHOR_SMOOTHING * share) / (seen_links + ANCHOR_SMOOTHING)


def _form_info(
    names: Names,
    rows: np.ndarray,
    form_start: np.ndarray,
    level: np.ndarray,
    shape: np.ndarray,
    words: Words,
    bounds: np.ndarray,
    common: np.ndarray,
    dates: np.ndarray,
) -> np.ndarray:
    if not len(rows):
        return np.zeros(0, np.int32)
    first_word = bounds[:-1][rows]
    is_common, is_date = np.isin(words.hash, common), np.isin(words.hash, dates)
    all_common = _all_words(is_common, bounds, rows)
    any_date = is_date[first_word]
    digits = np.array([names.text[row].replace(" ", "").isdigit() for row in rows], bool)
    period = np.array([names.text[row].endswith(".") for row in rows], bool)
    info = np.bitwise_or.reduceat(
        all_common * COMMON
        | any_date * DATE
        | digits * DIGITS
        | period * WITH_PERIOD
        | (names.kind[rows] == LABEL) * HAS_LABEL
        | 1 << (SHAPES_SHIFT + shape[rows]),
        form_start,
    )
    return (info | np.maximum.reduceat(level[names.entity[rows]], form_start) << POPULARITY_SHIFT).astype(np.int32)


def _all_words(flag: np.ndarray, bounds: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Whether all words of each name have the flag."""
    total = np.concatenate([[0], np.cumsum(flag)])
    return total[bounds[rows + 1]] - total[bounds[rows]] == bounds[rows + 1] - bounds[rows]


def _slots(code: Any, form_key: np.ndarray, hashes: np.ndarray, key: np.ndarray, begin: np.ndarray, common: np.ndarray) -> dict[str, np.ndarray]:
    """The open-addressing table of names, beginnings of longer names, and everyday words; and the filter of the names' first words."""
    inner = np.zeros(len(hashes) + 1, np.int64)  # +1 at the first beginning of a used name, -1 at the whole name
    np.add.at(inner, begin[0], 1)
    np.add.at(inner, begin[1] - 1, -1)
    beginnings = np.unique(hashes[np.cumsum(inner)[:-1] > 0])
    keys = np.unique(np.concatenate([form_key, beginnings, common]))
    value = np.zeros(len(keys), np.int64)
    value[np.searchsorted(keys, form_key)] = np.arange(1, len(form_key) + 1)
    value[np.searchsorted(keys, beginnings)] |= CONTINUES
    value[np.searchsorted(keys, common)] |= COMMON_WORD
    slots = np.zeros(int(len(keys) * SLOTS_PER_KEY) + 16, np.int64)
    lost = code.insert_slots(*seen(code, keys, value, slots))
    if lost:
        logger.warning("%d of %d names have the hash of another name and cannot be found", lost, len(keys))
    first = np.unique(hashes[begin[0]])
    first_words = np.zeros(max(64, len(first) * FILTER_BITS_PER_WORD // 8), np.uint8)
    code.note_first_words(*seen(code, first, first_words))
    return {"slots": slots, "first_words": first_words}


def word_lists(char_info: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of everyday words, and of months and days."""
    parts = (resources.files("rwtrain.knowledge") / "common_words.md").read_text(encoding="utf-8").split("\n\n")
    code = kernels(compiled=False)
    dates = split_words(code, [parts[-1]], *seen(code, char_info))[2].hash
    return np.unique(split_words(code, ["\n".join(parts[1:-2])], *seen(code, char_info))[2].hash), np.unique(dates)


def about_table(store: EntityStore, char_info: np.ndarray) -> dict[str, np.ndarray]:
    """The words of each entity's label and description, weighted by rarity, as 30-bit hashes: at most 24 an entity."""
    common = word_lists(char_info)[0] & MASK_30
    texts = [f"{store.label(row) if store.has_label(row) else ''} {store.description(row)}" for row in range(len(store))]
    code = kernels(compiled=len(texts) > COMPILE_FROM_NAMES and has_numba())
    _, _, words, bounds = split_words(code, texts, *seen(code, char_info))
    owner = np.repeat(np.arange(len(texts)), np.diff(bounds))
    pairs = np.unique(owner << 30 | words.hash & MASK_30)
    owner, word = pairs >> 30, pairs & MASK_30
    keep = ~np.isin(word, common)
    owner, word = owner[keep], word[keep]
    _, place, known = np.unique(word, return_inverse=True, return_counts=True)
    rarity = np.log(len(store) / known[place]) / np.log(max(2, len(store)))
    order = np.lexsort((-rarity, owner))
    owner, word, rarity = owner[order], word[order], rarity[order]
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    keep = rank < ABOUT_WORDS
    counts = np.bincount(owner[keep], minlength=len(store))
    return {
        "about_start": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "about_word": word[keep].astype(np.int32),
        "about_weight": np.round(rarity[keep] * 255).astype(np.uint8),
    }
