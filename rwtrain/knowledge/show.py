"""What a store knows about one entity, as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rwtrain.errors import RWTrainError
from rwtrain.knowledge.store import SPLITS, VECTORS_FOLDER, EntityStore
from rwtrain.knowledge.tables import ROWS_PER_PIECE

NAMES_PER_LINE = 6
LISTED_HOMONYMS = 8


def find_entities(store: EntityStore, name: str) -> list[int]:
    """Rows of the entities with that id, Wikidata id, or (whatever its case) label or alias; the most popular first, labels before aliases.

    Raises:
        RWTrainError: there is none.
    """
    try:
        return [store.row(name)]
    except KeyError:
        wanted = name.lower()
    labelled: list[int] = []
    aliased: list[int] = []
    first = 0
    for batch in store.entities.select(["label", "aliases"]).to_batches():
        labels, aliases = batch.column("label"), batch.column("aliases")
        labelled += (_equal(labels, wanted) + first).tolist()
        owners = pc.list_parent_indices(aliases).to_numpy()
        aliased += (owners[_equal(aliases.flatten(), wanted)] + first).tolist()
        first += len(batch)
    by_popularity = [sorted(set(rows), key=lambda row: -int(store.popularity[row])) for rows in (labelled, aliased)]
    rows = list(dict.fromkeys(by_popularity[0] + by_popularity[1]))
    if not rows:
        raise RWTrainError(f"{store.folder}: no entity has the id or name {name!r}. Give its id in the graph, its Wikidata id, or its label or alias in full.")
    return rows


def _equal(texts: pa.Array, wanted: str) -> np.ndarray:
    """Positions of the texts that are `wanted`, which is in lower case."""
    return np.flatnonzero(pc.fill_null(pc.equal(pc.utf8_lower(texts), wanted), False).to_numpy(zero_copy_only=False))


def triples_of(store: EntityStore, row: int) -> np.ndarray:
    """All triples that name an entity, [n, 3]."""
    found = [np.zeros((0, 3), np.int32)]
    for split in SPLITS:
        found += [piece[(piece[:, 0] == row) | (piece[:, 2] == row)] for piece in _pieces(store.triples(split))]
    return np.concatenate(found)


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(array), ROWS_PER_PIECE):
        yield np.asarray(array[start : start + ROWS_PER_PIECE])


def nearest(store: EntityStore, row: int, *, count: int) -> list[tuple[int, float]]:
    """The `count` entities nearest to `row` in vector space, as (row, distance), by the distance they were trained with."""
    order = 1 if store.vectors_manifest["norm"] == 1 else None
    distance = np.concatenate([np.linalg.norm(piece - store.vectors[row], ord=order, axis=1) for piece in _pieces(store.vectors)])
    distance[row] = np.inf
    found = np.argsort(distance, kind="stable")[: min(count, len(store) - 1)]
    return [(int(other), float(distance[other])) for other in found]


def neighbours(store: EntityStore, row: int, *, count: int) -> list[str]:
    """One line for each relation of an entity, the most frequent first: its direction, its label and the most popular entities there."""
    triples = triples_of(store, row)
    outgoing = triples[:, 0] == row
    other = np.where(outgoing, triples[:, 2], triples[:, 0])
    groups: dict[tuple[bool, int], list[int]] = {}
    for out, relation, entity in zip(outgoing.tolist(), triples[:, 1].tolist(), other.tolist(), strict=True):
        groups.setdefault((out, relation), []).append(entity)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    lines = [f"neighbours in the graph ({len(triples):,} triples, {len(groups):,} relations):"]
    for (out, relation), entities in ordered[:count]:
        names = [store.label(entity) for entity in sorted(entities, key=lambda entity: (-int(store.popularity[entity]), entity))[:NAMES_PER_LINE]]
        more = f", … ({len(entities):,})" if len(entities) > len(names) else ""
        lines.append(f"  {'→' if out else '←'} {store.relation_label(relation)}: {', '.join(names)}{more}")
    if len(ordered) > count:
        lines.append(f"  … {len(ordered) - count:,} further relations (--count)")
    return lines


def entity_card(store: EntityStore, name: str, *, count: int) -> str:
    """Names, description, neighbours in the graph by relation and, if trained, the nearest entities; of several with that name, of the most popular."""
    rows = find_entities(store, name)
    row = rows[0]
    lines = []
    if len(rows) > 1:
        lines.append(f"{len(rows):,} entities are called {name!r}; this is the most popular one by label, the others are:")
        lines += [f"  {store.external_id(other)}  {store.label(other)}: {store.description(other)}" for other in rows[1 : LISTED_HOMONYMS + 1]]
        lines += [f"  … and {len(rows) - LISTED_HOMONYMS - 1:,} more"] if len(rows) > LISTED_HOMONYMS + 1 else []
    ids = " · ".join(dict.fromkeys(filter(None, [store.external_id(row), store.wikidata_id(row)])))
    types = [_name(store, type_) for type_ in store.types(row)]
    kind = store.manifest.get("popularity", "training triples")
    lines += [
        f"{store.label(row)}  ({ids})",
        f"  {store.description(row)}",
        f"  is: {', '.join(types)}" if types else "",
        f"  also: {', '.join(store.aliases(row))}" if store.aliases(row) else "",
        f"  pages: {', '.join(f'{wiki}: {title}' for wiki, title in store.titles(row).items())}" if store.titles(row) else "",
        f"  popularity: {int(store.popularity[row]):,} {kind}",
        *neighbours(store, row, count=count),
    ]
    if (store.folder / VECTORS_FOLDER).is_dir():
        lines.append("nearest in vector space:")
        lines += [f"  {distance:6.3f}  {store.label(near_row)}" for near_row, distance in nearest(store, row, count=count)]
    else:
        lines.append(f"no vectors yet: rwtrain kg train {store.folder}")
    return "\n".join(line for line in lines if line.strip())


def _name(store: EntityStore, name: str) -> str:
    try:
        return store.label(store.row(name))
    except KeyError:
        return name
