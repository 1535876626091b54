"""A store with a million names that are made like a real graph's: each of its names with one word exchanged for one that stands at such a place
in another name ("Oberlin University", "United States Brewery"); one-word names get a made-up ending."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from rwtrain.knowledge.store import EntityStore
from rwtrain.knowledge.writing import Rejects, entity_batch, write_store, write_vectors

BATCH = 50_000
DIMENSION = 32
SYLLABLES = ("ba", "co", "du", "fe", "gi", "ha", "jo", "ku", "le", "mi", "na", "po", "ri", "so", "tu", "ve")


def grown_store(store: EntityStore, out: Path, *, names: int) -> EntityStore:
    """The entities of `store` with their names and descriptions, and as many more, of one made-up name each, that there are `names`; vectors are random."""
    real = [
        {
            "id": store.external_id(row),
            "wikidata_id": store.wikidata_id(row),
            "label": store.label(row),
            "description": store.description(row),
            "aliases": store.aliases(row),
        }
        for row in range(len(store))
    ]
    patterns = [name.split() for record in real for name in (record["label"], *record["aliases"]) if name.strip()]
    more = max(0, names - len(patterns))
    batches = _batches(real, patterns, more)
    write_store(out, entities=batches, relations=[("related", "")], triples={"train": store.triples("train") * [1, 0, 1]}, rejects=Rejects(), provenance={})
    grown, draw = EntityStore.open(out), np.random.default_rng(1)
    vectors = draw.standard_normal((len(grown), DIMENSION), np.float32)
    write_vectors(grown, entity_vectors=vectors, relation_vectors=vectors[:1], details={"norm": 2})
    return EntityStore.open(out)


def _batches(real: list[dict], patterns: list[list[str]], more: int) -> Iterator[pa.RecordBatch]:
    yield entity_batch(real)
    draw = np.random.default_rng(0)
    for start in range(0, more, BATCH):
        count = min(BATCH, more - start)
        chosen, other = draw.integers(0, len(patterns), (2, count)).tolist()
        made = (_mixed(patterns[one], patterns[two], start + number) for number, (one, two) in enumerate(zip(chosen, other, strict=True)))
        yield entity_batch(
            [{"id": f"E{start + number}", "wikidata_id": "", "label": name, "description": "", "aliases": []} for number, name in enumerate(made)]
        )


def _mixed(name: list[str], other: list[str], number: int) -> str:
    """A name with one word of another one at the same place, counted from the nearer end."""
    if len(name) == 1:
        return name[0] + "".join(SYLLABLES[number >> shift & 15] for shift in (0, 4, 8))
    place = number % len(name)
    word = other[-1] if place == len(name) - 1 else other[min(place, max(0, len(other) - 2))]
    return " ".join([*name[:place], word, *name[place + 1 :]])
