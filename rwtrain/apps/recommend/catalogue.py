"""What can be recommended, and what was chosen: plain files in, arrays out."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwtrain.errors import DataError
from rwtrain.knowledge.store import EntityStore


def refuse(error: DataError) -> None:
    """What is done with a bad record unless the caller wants to set it aside."""
    raise error


@dataclass(frozen=True)
class Item:
    """Something that can be recommended: `entity` is its row in the entity store, −1 for none."""

    id: str
    text: str
    entity: int = -1


def read_items(path: str | Path, *, store: EntityStore | None = None, bad: Callable[[DataError], None] = refuse) -> list[Item]:
    """Items of a .jsonl file (also .gz): objects with `id`, `text` and, if known, `entity` (its id in the store, or its Wikidata id).

    An entity that the store does not have is none. Without a store `entity` may be a row.

    Args:
        bad: is given the error of each record that is not of this form or whose id came before; if it returns, the record is left out.

    Raises:
        DataError: there are no items; or as `bad` raises it, which the default does.
    """
    path, items, seen = Path(path), [], set()
    for number, line in enumerate(_lines(path), 1):
        try:
            record = json.loads(line)
            identifier, text, entity = str(record["id"]), record["text"], record.get("entity", -1)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            bad(DataError(path, f"not an object with `id` and `text` ({error})", "Correct or remove the line", record=number))
            continue
        if not isinstance(text, str) or identifier in seen:
            bad(DataError(path, f"`text` is no string, or the id {identifier!r} comes twice", "Correct or remove the line", record=number))
            continue
        seen.add(identifier)
        items.append(Item(identifier, text, _row(store, entity)))
    if not items:
        raise DataError(path, "no items", "Give at least one")
    return items


def _row(store: EntityStore | None, entity: object) -> int:
    if store is None:
        return entity if isinstance(entity, int) else -1
    try:
        return store.row(str(entity))
    except KeyError:
        return -1


def read_histories(path: str | Path, items: Sequence[Item], *, bad: Callable[[DataError], None] = refuse) -> tuple[list[str], list[np.ndarray]]:
    """(users, for each the numbers of the items chosen, in order of time) of a CSV file with the columns user, item and time (also .gz).

    Args:
        bad: is given the error of each row that names an unknown item or a time that is no finite number; if it returns, the row is left out.

    Raises:
        DataError: a column is missing; or as `bad` raises it, which the default does.
    """
    path = Path(path)
    numbers = {item.id: number for number, item in enumerate(items)}
    rows: dict[str, list[tuple[float, int]]] = {}
    reader = csv.DictReader(_lines(path))
    if missing := {"user", "item", "time"} - set(reader.fieldnames or ()):
        raise DataError(path, f"the columns {', '.join(sorted(missing))} are missing", "Give a CSV file with the columns user, item and time")
    for line, record in enumerate(reader, 2):
        try:
            when, item = float(record["time"]), numbers[record["item"]]
            if not math.isfinite(when):
                raise ValueError(f"time {record['time']!r}")
        except (KeyError, ValueError, TypeError) as error:
            bad(DataError(path, f"an unknown item or no time ({error})", "Correct or remove the line", record=line))
            continue
        rows.setdefault(record["user"], []).append((when, item))
    users = sorted(rows)
    return users, [np.array([item for _, item in sorted(rows[user], key=lambda pair: pair[0])], np.int64) for user in users]


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") if path.suffix == ".gz" else path.open(encoding="utf-8", newline="") as stream:
            yield from stream
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(path, f"not readable ({error})", "Correct the path or the file") from error
