"""What a store knows about one entity, as text for the terminal."""

from __future__ import annotations

import numpy as np

from rwtrain.errors import RWTrainError
from rwtrain.knowledge.store import SPLITS, VECTORS_FOLDER, EntityStore


def find_entity(store: EntityStore, name: str) -> int:
    """The row of the entity with that id, Wikidata id, or label (of several with that label, the most popular).

    Raises:
        RWTrainError: there is none.
    """
    try:
        return store.row(name)
    except KeyError:
        wanted = name.casefold()
        rows = [row for row in range(len(store)) if store.label(row).casefold() == wanted]
    if not rows:
        raise RWTrainError(f"{store.folder}: no entity has the id or name {name!r}. Give its id in the graph, its Wikidata id or its exact name.")
    return max(rows, key=lambda row: int(store.popularity[row]))


def nearest(store: EntityStore, row: int, *, count: int) -> list[tuple[int, float]]:
    """The `count` entities nearest to `row` in vector space, as (row, distance), by the distance they were trained with."""
    order = 1 if store.vectors_manifest["norm"] == 1 else None
    distance = np.linalg.norm(store.vectors - store.vectors[row], ord=order, axis=1)
    distance[row] = np.inf
    found = np.argsort(distance, kind="stable")[: min(count, len(store) - 1)]
    return [(int(other), float(distance[other])) for other in found]


def entity_card(store: EntityStore, name: str, *, count: int) -> str:
    """Names, description, the most popular neighbours in the graph and, if trained, the nearest entities."""
    row = find_entity(store, name)
    ids = " · ".join(filter(None, [store.external_id(row), store.wikidata_id(row)]))
    lines = [
        f"{store.label(row)}  ({ids})",
        f"  {store.description(row)}" if store.description(row) else "",
        f"  also: {', '.join(store.aliases(row))}" if store.aliases(row) else "",
    ]
    triples = np.concatenate([store.triples(split) for split in SPLITS])
    near = triples[(triples[:, 0] == row) | (triples[:, 2] == row)]
    lines.append(f"neighbours in the graph ({len(near):,}):")
    other = np.where(near[:, 0] == row, near[:, 2], near[:, 0])
    for place in np.argsort(-store.popularity[other], kind="stable")[:count]:
        head, relation, _ = (int(value) for value in near[place])
        arrow = "→" if head == row else "←"
        lines.append(f"  {arrow} {store.relation_label(relation)}: {store.label(int(other[place]))}")
    if (store.folder / VECTORS_FOLDER).is_dir():
        lines.append("nearest in vector space:")
        lines += [f"  {distance:6.3f}  {store.label(near_row)}" for near_row, distance in nearest(store, row, count=count)]
    else:
        lines.append(f"no vectors yet: rwtrain kg train {store.folder}")
    return "\n".join(line for line in lines if line)
