"""Import a graph of tab-separated triples: a folder with train, valid and test files, in the layout of FB15k-237.

Files of the folder, each also as .gz: `train.tsv` (or .txt), and optionally `valid`, `test`; `entity2wikidata.json`
({"id": {"label", "alternatives", "description", "wikidata_id"}}); `relation2text.tsv` (relation, words).
"""

from __future__ import annotations

import bz2
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rwtrain.errors import DataError
from rwtrain.files import content_hash
from rwtrain.knowledge.store import SPLITS
from rwtrain.knowledge.writing import BATCH_ROWS, Rejects, entity_batch, write_store

OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}


def find(folder: Path, *names: str) -> Path | None:
    """The first of `names` that exists in `folder`, plain or with .gz."""
    return next((path for name in names for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_lines(path: Path, rejects: Rejects) -> Iterator[tuple[int, str]]:
    """(line number, text) of a plain, gzip or bzip2 text file; lines that are not UTF-8 are set aside.

    Raises:
        DataError: the file cannot be read, or the compressed stream is truncated or corrupt.
    """
    number = 0
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    yield number, line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    rejects.add(path.name, number, "not UTF-8", repr(line))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(path, f"cannot be read past this line ({error})", "The file is truncated or corrupt: copy it again", record=number) from error


def import_tsv(source: str | Path, out: str | Path) -> dict[str, Any]:
    """Import the folder `source` into the store `out`; return the store's manifest.

    Rows are numbered in order of first appearance in train, valid, test, so the same files always give the same store. Lines that
    are not three non-empty columns, repeated triples, and triples of valid or test that already stand in train are counted and set aside.

    Raises:
        DataError: there is no train file, or a file is unreadable.
    """
    source, rejects = Path(source), Rejects()
    if not source.is_dir():
        raise DataError(source, "not a folder", "Give the folder that holds train.tsv (or .txt, .gz)")
    entity_rows: dict[str, int] = {}
    relation_rows: dict[str, int] = {}
    triples: dict[str, np.ndarray] = {}
    files: list[Path] = []
    seen: set[tuple[int, int, int]] = set()
    for split in SPLITS:
        path = find(source, f"{split}.tsv", f"{split}.txt")
        if path is None:
            if split == "train":
                raise DataError(source, "no train.tsv, train.txt or .gz of them", "Give the folder that holds the triples")
            continue
        files.append(path)
        triples[split] = _read_triples(path, entity_rows, relation_rows, seen, rejects)
    names, names_file = _read_names(source, rejects)
    texts, texts_file = _read_relation_texts(source, rejects)
    files += [path for path in (names_file, texts_file) if path]
    ids = list(entity_rows)
    batches = (entity_batch([_entity(id_, names.get(id_)) for id_ in ids[start : start + BATCH_ROWS]]) for start in range(0, len(ids), BATCH_ROWS))
    provenance = {
        "importer": "tsv",
        "sources": [{"file": path.name, "hash": content_hash(path)} for path in files],
        "named_entities": sum(id_ in names for id_ in ids),
    }
    return write_store(
        out, entities=batches, relations=[(id_, texts.get(id_, "")) for id_ in relation_rows], triples=triples, rejects=rejects, provenance=provenance
    )


def _read_triples(path: Path, entity_rows: dict[str, int], relation_rows: dict[str, int], seen: set[tuple[int, int, int]], rejects: Rejects) -> np.ndarray:
    found: list[tuple[int, int, int]] = []
    for number, line in read_lines(path, rejects):
        parts = line.split("\t")
        if len(parts) != 3 or not all(parts):
            rejects.add(path.name, number, "not three tab-separated columns", line)
            continue
        head, relation, tail = parts
        triple = (
            entity_rows.setdefault(head, len(entity_rows)),
            relation_rows.setdefault(relation, len(relation_rows)),
            entity_rows.setdefault(tail, len(entity_rows)),
        )
        if triple in seen:
            rejects.add(path.name, number, "repeated triple", line)
            continue
        seen.add(triple)
        found.append(triple)
    return np.array(found, np.int32).reshape(-1, 3)


def _entity(id_: str, names: dict[str, Any] | None) -> dict[str, Any]:
    if names is None:
        return {"id": id_, "wikidata_id": id_ if id_[:1] == "Q" and id_[1:].isdigit() else "", "label": "", "description": "", "aliases": []}
    label = names.get("label") or ""
    aliases = [alias for alias in dict.fromkeys(names.get("alternatives") or []) if alias and alias != label]
    return {"id": id_, "wikidata_id": names.get("wikidata_id") or "", "label": label, "description": names.get("description") or "", "aliases": aliases}


def _read_names(folder: Path, rejects: Rejects) -> tuple[dict[str, dict[str, Any]], Path | None]:
    path = find(folder, "entity2wikidata.json")
    if path is None:
        return {}, None
    try:
        names = json.loads("\n".join(line for _, line in read_lines(path, rejects)))
    except ValueError as error:
        raise DataError(path, f"not valid JSON ({error})", "Download the file again") from error
    if not isinstance(names, dict):
        raise DataError(
            path, "not a JSON object of entity id to names", 'Write it as {"id": {"label": …, "alternatives": […], "description": …, "wikidata_id": …}}'
        )
    for id_ in [id_ for id_, entry in names.items() if not isinstance(entry, dict)]:
        rejects.add(path.name, id_, "entity names are not a JSON object", str(names.pop(id_)))
    return names, path


def _read_relation_texts(folder: Path, rejects: Rejects) -> tuple[dict[str, str], Path | None]:
    path = find(folder, "relation2text.tsv", "relation2text.txt")
    if path is None:
        return {}, None
    texts: dict[str, str] = {}
    for number, line in read_lines(path, rejects):
        relation, separator, text = line.partition("\t")
        if not separator or not relation:
            rejects.add(path.name, number, "not two tab-separated columns", line)
            continue
        texts[relation] = text.strip()
    return texts, path
