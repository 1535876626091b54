"""The entity store: who the entities are, how they relate, and (after training) their TransE vectors.

A store is a folder of memory-mapped Arrow and NumPy files and a `manifest.json` that is written last:

    entities.arrow     one row an entity: id, wikidata_id, label, label_language, description; lists of aliases with their languages and
                       whether they are labels, of types (ids), and of Wikipedia pages (wiki, title)
    relations.arrow    id, label; one row a relation
    redirects.arrow    other ids of entities (id, row); only where the source has such
    train.npy …        [triples, 3] int32 of (head row, relation row, tail row); also valid.npy and test.npy
    popularity.npy     [entities] int64: how many training triples name the entity, or how many wikis have a page about it
    id_hash.npy, id_row.npy         external id -> row: sorted 64-bit hashes and their rows
    title_hash.npy, title_row.npy   "enwiki:Title" -> row, likewise
    anchors.arrow      what links in a Wikipedia dump are called (surface, entity, count); written by `rwtrain kg anchors`
    rejects.jsonl      records of the source that could not be used, with the reason
    transe/            entity_vectors.npy, relation_vectors.npy, their own manifest.json and the training curve
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash

from rwtrain.errors import DataError
from rwtrain.files import content_hash

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
VECTORS_FOLDER = "transe"
ANCHORS = "anchors.arrow"
SPLITS = ("train", "valid", "test")
FULL_CHECK_BYTES = 1 << 30

ENTITY_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "wikidata_id": pa.string(),
        "label": pa.string(),
        "label_language": pa.string(),
        "description": pa.string(),
        "aliases": pa.list_(pa.string()),
        "alias_languages": pa.list_(pa.string()),
        "alias_labels": pa.list_(pa.bool_()),
        "types": pa.list_(pa.string()),
        "wikis": pa.list_(pa.string()),
        "titles": pa.list_(pa.string()),
    }
)
RELATION_SCHEMA = pa.schema({"id": pa.string(), "label": pa.string()})


class Name(NamedTuple):
    """A name of an entity: its text, its language ("" if the source does not say), and whether it is the label in that language."""

    text: str
    language: str
    is_label: bool


def normal_title(title: str) -> str:
    """A page title as Wikipedia stores it: spaces for underscores, a capital first letter, no section."""
    title = " ".join(title.partition("#")[0].replace("_", " ").split())
    return title[:1].upper() + title[1:]


def hash_ids(ids: list[str]) -> np.ndarray:
    """XXH3-64 of each external id, [ids] uint64."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(text.encode()) for text in ids), np.uint64, len(ids))


def read_manifest(folder: Path, *, made_by: str) -> dict[str, Any]:
    """Read and check a manifest; `made_by` is the command that writes such a folder.

    Raises:
        DataError: the manifest is missing, unreadable, or of another schema version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(folder, "nothing finished here (manifest.json is missing)", f"Run `{made_by}` to the end, or correct the path")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
        manifest["files"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(path, f"not a manifest ({error})", f"Write the folder again with `{made_by}`") from error
    if version != SCHEMA_VERSION:
        raise DataError(path, f"schema version {version}, this release reads {SCHEMA_VERSION}", f"Write the folder again with `{made_by}`")
    return manifest


def check_files(folder: Path, files: dict[str, dict[str, Any]], *, made_by: str, verify: bool) -> None:
    """Compare sizes, and with `verify` checksums, with the manifest's list; raise `DataError` on the first difference."""
    for name, entry in files.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise DataError(path, "the file is missing", f"Copy it again, or write the folder again with `{made_by}`")
        if path.stat().st_size != entry["bytes"]:
            problem = f"{path.stat().st_size} bytes, the manifest says {entry['bytes']}"
            raise DataError(path, problem, f"It is truncated or was changed: copy it again, or write the folder again with `{made_by}`")
        if verify and (found := content_hash(path)) != entry["hash"]:
            raise DataError(path, f"checksum {found}, the manifest says {entry['hash']}", f"It is corrupt: copy it again, or run `{made_by}` again")


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and checksum of every file of a folder, for its manifest."""
    return {path.name: {"bytes": path.stat().st_size, "hash": content_hash(path)} for path in sorted(folder.iterdir()) if path.is_file()}


class EntityStore:
    """Read access to a store; everything is memory-mapped, so opening is cheap whatever its size. Use `EntityStore.open`."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self._entities = self._table("entities.arrow")
        self._relations = self._table("relations.arrow")

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = False) -> EntityStore:
        """Open a folder written by `rwtrain kg import`.

        Args:
            folder: the store.
            verify: compare every file's checksum with the manifest (reads all bytes once); sizes are always compared.

        Raises:
            DataError: there is no finished store, or a file is missing, truncated or corrupt.
        """
        folder = Path(folder)
        manifest = read_manifest(folder, made_by="rwtrain kg import")
        check_files(folder, manifest["files"], made_by="rwtrain kg import", verify=verify)
        return cls(folder, manifest)

    def __len__(self) -> int:
        return int(self.manifest["entities"])

    @property
    def hash(self) -> str:
        """Identity of the rows: XXH3-128 over the external ids in row order. Training vectors does not change it."""
        return str(self.manifest["hash"])

    @property
    def relation_count(self) -> int:
        return int(self.manifest["relations"])

    def external_id(self, row: int) -> str:
        """The entity's id in the imported graph, for example the Freebase id "/m/02mjmr"."""
        return self._entities.column("id")[row].as_py()

    def wikidata_id(self, row: int) -> str | None:
        """The entity's Wikidata id ("Q76"), if known."""
        return self._entities.column("wikidata_id")[row].as_py() or None

    def label(self, row: int) -> str:
        """The entity's name; its external id where the source gives no name."""
        return self._entities.column("label")[row].as_py() or self.external_id(row)

    def has_label(self, row: int) -> bool:
        return bool(self._entities.column("label")[row].as_py())

    def description(self, row: int) -> str:
        """One line that says what the entity is; "" if unknown."""
        return self._entities.column("description")[row].as_py() or ""

    def aliases(self, row: int) -> list[str]:
        """Other names of the entity in all languages, without the label and without repetitions."""
        names = dict.fromkeys(self._entities.column("aliases")[row].as_py() or [])
        names.pop(self.label(row), None)
        return list(names)

    def names(self, row: int) -> list[Name]:
        """All names with their languages: the label first (if there is one), then labels in other languages, then aliases."""
        texts, languages, labels = (self._entities.column(name)[row].as_py() or [] for name in ("aliases", "alias_languages", "alias_labels"))
        own = [Name(self.label(row), self._entities.column("label_language")[row].as_py() or "", True)] if self.has_label(row) else []
        missing = len(texts)
        return own + [Name(*each) for each in zip(texts, languages or [""] * missing, labels or [False] * missing, strict=True)]

    def types(self, row: int) -> list[str]:
        """Ids of the classes the entity is an instance of, if the source says so (they need not be entities of the store)."""
        return self._entities.column("types")[row].as_py() or []

    def titles(self, row: int) -> dict[str, str]:
        """Titles of the pages about the entity, by wiki ("enwiki")."""
        wikis, titles = (self._entities.column(name)[row].as_py() or [] for name in ("wikis", "titles"))
        return dict(zip(wikis, titles, strict=True))

    @property
    def entities(self) -> pa.Table:
        """The entities' columns (`ENTITY_SCHEMA`), memory-mapped, for work on all of them; lists may be null."""
        return self._entities

    @property
    def languages(self) -> list[str]:
        """Languages of names that were imported, the preferred one first."""
        return list(self.manifest["provenance"].get("languages", []))

    def relation_id(self, row: int) -> str:
        return self._relations.column("id")[row].as_py()

    def relation_label(self, row: int) -> str:
        """The relation in words; its id where the source gives none."""
        return self._relations.column("label")[row].as_py() or self.relation_id(row)

    def row(self, external_id: str) -> int:
        """The row of an entity, by its id in the graph, its Wikidata id, or an id that redirects to it.

        Raises:
            KeyError: no entity has that id.
        """
        for row in _found(self._id_hash, self._id_row, external_id):
            if external_id in (self.external_id(row), self.wikidata_id(row)) or self._redirects.get(external_id) == row:
                return row
        raise KeyError(external_id)

    def by_title(self, wiki: str, title: str) -> int:
        """The row of the entity that a Wikipedia page is about, for example by_title("enwiki", "New_York_City").

        Raises:
            KeyError: no entity has that page.
        """
        title = normal_title(title)
        for row in _found(self._title_hash, self._title_row, f"{wiki}:{title}"):
            if self.titles(row).get(wiki) == title:
                return row
        raise KeyError(f"{wiki}:{title}")

    @cached_property
    def anchors(self) -> pa.Table | None:
        """What links in Wikipedia dumps are called: surface, entity (row), count; sorted by surface, the most frequent entity first.

        None where `rwtrain kg anchors` was not run.
        """
        return self._table(ANCHORS) if ANCHORS in self.manifest["files"] else None

    @cached_property
    def popularity(self) -> np.ndarray:
        """[entities] int64: how many training triples name each entity, or how many wikis have a page about it (the manifest says which)."""
        return self._array("popularity.npy")

    def triples(self, split: str) -> np.ndarray:
        """[triples, 3] int32 (head, relation, tail) rows of the split "train", "valid" or "test"."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
        return self._array(f"{split}.npy")

    @cached_property
    def vectors_manifest(self) -> dict[str, Any]:
        """How the vectors were trained, and how good they are.

        Raises:
            DataError: there are no vectors, or they belong to other entities.
        """
        folder = self.folder / VECTORS_FOLDER
        if not folder.is_dir():
            raise DataError(self.folder, "the entities have no vectors yet", f"Train them with `rwtrain kg train {self.folder}`")
        manifest = read_manifest(folder, made_by="rwtrain kg train")
        check_files(folder, manifest["files"], made_by="rwtrain kg train", verify=False)
        if manifest["store_hash"] != self.hash:
            raise DataError(folder, "the vectors were trained for other entities", f"Train them again with `rwtrain kg train {self.folder}`")
        return manifest

    @cached_property
    def vectors(self) -> np.ndarray:
        """TransE vectors of the entities, [entities, dimension] float32, memory-mapped.

        Raises:
            DataError: TransE was not trained, or the file has the wrong shape or values that are not finite.
        """
        return self._vectors("entity_vectors.npy", len(self))

    @property
    def vectors_hash(self) -> str:
        """Checksum of the entity vectors; raises as `vectors` does."""
        return self.vectors_manifest["files"]["entity_vectors.npy"]["hash"]

    @cached_property
    def relation_vectors(self) -> np.ndarray:
        """TransE vectors of the relations, [relations, dimension] float32, memory-mapped; raises as `vectors` does."""
        return self._vectors("relation_vectors.npy", self.relation_count)

    def _vectors(self, name: str, rows: int) -> np.ndarray:
        dimension = self.vectors_manifest["dimension"]
        path = self.folder / VECTORS_FOLDER / name
        remedy = f"Train them again with `rwtrain kg train {self.folder}`"
        array = load_array(path, remedy=remedy)
        if array.dtype != np.float32 or array.shape != (rows, dimension):
            raise DataError(path, f"{array.dtype} of shape {list(array.shape)}, expected float32 of [{rows}, {dimension}]", remedy)
        bad = first_bad_row(array)
        if bad is not None:
            raise DataError(path, "the vector holds values that are not finite", remedy, record=bad)
        return array

    @property
    def has_titles(self) -> bool:
        """Whether any entity has a Wikipedia page."""
        return len(self._title_hash) > 0

    def rows_of_title_hashes(self, hashes: np.ndarray) -> np.ndarray:
        """Rows of pages by the hashes of "wiki:title", -1 where no entity has the page. [n] uint64 -> [n] int64."""
        place = np.searchsorted(self._title_hash, hashes)
        found = np.full(len(hashes), -1, np.int64)
        inside = np.flatnonzero(place < len(self._title_hash))
        hit = inside[self._title_hash[place[inside]] == hashes[inside]]
        found[hit] = self._title_row[place[hit]]
        return found

    @cached_property
    def _id_hash(self) -> np.ndarray:
        return self._array("id_hash.npy")

    @cached_property
    def _id_row(self) -> np.ndarray:
        return self._array("id_row.npy")

    @cached_property
    def _title_hash(self) -> np.ndarray:
        return self._array("title_hash.npy")

    @cached_property
    def _title_row(self) -> np.ndarray:
        return self._array("title_row.npy")

    @cached_property
    def _redirects(self) -> dict[str, int]:
        if "redirects.arrow" not in self.manifest["files"]:
            return {}
        table = self._table("redirects.arrow")
        return dict(zip(table.column("id").to_pylist(), table.column("entity").to_pylist(), strict=True))

    def _array(self, name: str) -> np.ndarray:
        return load_array(self.folder / name, remedy="Write the store again with `rwtrain kg import`")

    def _table(self, name: str) -> pa.Table:
        path = self.folder / name
        try:
            return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(path, f"not a readable Arrow file ({error})", "Write the store again with `rwtrain kg import`") from error


def _found(hashes: np.ndarray, rows: np.ndarray, text: str) -> list[int]:
    """Rows under the hash of a text."""
    wanted = hash_ids([text])[0]
    return [int(row) for row in rows[np.searchsorted(hashes, wanted, "left") : np.searchsorted(hashes, wanted, "right")]]


def load_array(path: Path, *, remedy: str) -> np.ndarray:
    """Memory-map an .npy file; raise `DataError` if it is missing, truncated or not an array."""
    try:
        array = np.load(path, allow_pickle=False) if path.stat().st_size < 4096 else np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(path, f"not a readable array ({error})", remedy) from error
    return array


def first_bad_row(array: np.ndarray) -> int | None:
    """The first row with NaN or infinity, or None. Arrays over 1 GiB are sampled (every k-th row), as reading all would take minutes."""
    stride = max(1, array.nbytes // FULL_CHECK_BYTES)
    rows_per_chunk = max(1, (64 << 20) // max(1, array[:1].nbytes))
    sampled = array[::stride]
    for start in range(0, len(sampled), rows_per_chunk):
        bad = np.flatnonzero(~np.isfinite(sampled[start : start + rows_per_chunk]).all(1))
        if bad.size:
            return int(start + bad[0]) * stride
    return None
