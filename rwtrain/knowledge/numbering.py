"""Rows for external ids, on disk: every entity gets its row in order of first appearance over all parts, in memory that hardly grows.

The hashes of all parts are walked in slices of equal hashes (each part is sorted by hash); the first place of each id is marked in a bitmap
over all places, and a row is the number of marks before it: one bit for each entity of each part is all that stays in memory.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from rwtrain.errors import DataError
from rwtrain.files import atomic_path
from rwtrain.knowledge.parts import load_columns
from rwtrain.knowledge.store import hash_ids
from rwtrain.knowledge.tables import NpyReader, NpyWriter

SLICE_IDS = 1 << 22
FIND_BLOCK = 1 << 22


def read_summary(prefix: Path) -> dict[str, Any]:
    """The JSON file of a finished part."""
    return json.loads(prefix.with_name(f"{prefix.name}.json").read_text(encoding="utf-8"))


class RowIndex:
    """Hash of an external id -> row, in two sorted files that are read in blocks, and redirects from one id to another.

    Args:
        folder: where `number_entities` wrote them.
    """

    def __init__(self, folder: Path) -> None:
        self._hash, self._row = NpyReader(folder / "index.hash.npy"), NpyReader(folder / "index.row.npy")
        self._redirect_hash, self._redirect_row = np.load(folder / "index.redirect_hash.npy"), np.load(folder / "index.redirect_row.npy")

    def __len__(self) -> int:
        return len(self._hash)

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Rows of sorted hashes, following redirects; -1 where no entity has the id. [n] uint64 -> [n] int32."""
        rows = np.full(len(hashes), -1, np.int32)
        for start in range(0, len(self._hash), FIND_BLOCK):
            block = self._hash.read(start, FIND_BLOCK)
            first, last = np.searchsorted(hashes, block[0], "left"), np.searchsorted(hashes, block[-1], "right")
            if first == last:
                continue
            place = np.minimum(np.searchsorted(block, hashes[first:last]), len(block) - 1)
            hit = np.flatnonzero(block[place] == hashes[first:last])
            rows[first + hit] = self._row.read(start, FIND_BLOCK)[place[hit]]
        if len(self._redirect_hash):
            place = np.minimum(np.searchsorted(self._redirect_hash, hashes), len(self._redirect_hash) - 1)
            hit = (self._redirect_hash[place] == hashes) & (rows < 0)
            rows[hit] = self._redirect_row[place[hit]]
        return rows


class Places:
    """Every id of every part that makes an entity, by its place: the part's offset plus the id's number there.

    Args:
        offset: [parts + 1] int64.
        words: the bitmap; empty at first.
    """

    def __init__(self, offset: np.ndarray, words: np.ndarray | None = None) -> None:
        self.offset = offset
        self.words = np.zeros(offset[-1] // 64 + 1, np.uint64) if words is None else words
        self.before = np.zeros(0, np.int64)

    def mark(self, places: np.ndarray) -> None:
        np.bitwise_or.at(self.words, places >> 6, np.uint64(1) << (places & 63).astype(np.uint64))

    def count(self) -> int:
        """Number the marks; returns how many there are."""
        ones = np.bitwise_count(self.words).astype(np.int64)
        self.before = np.cumsum(ones) - ones
        return int(ones.sum())

    def rows(self, places: np.ndarray) -> np.ndarray:
        """How many marks stand before each place, [n] int32."""
        below = (np.uint64(1) << (places & 63).astype(np.uint64)) - np.uint64(1)
        return (self.before[places >> 6] + np.bitwise_count(self.words[places >> 6] & below)).astype(np.int32)

    def is_marked(self, places: np.ndarray) -> np.ndarray:
        return (self.words[places >> 6] >> (places & 63).astype(np.uint64) & np.uint64(1)).astype(bool)


def number_entities(prefixes: list[Path], folder: Path, *, quiet: bool) -> dict[str, int]:
    """Give every entity its row; write the index into `folder`; returns the counts of entities and of redirects that lead nowhere.

    Raises:
        DataError: two ids have the same hash.
    """
    makes = [read_summary(prefix)["makes"] for prefix in prefixes]
    places = Places(np.concatenate([[0], np.cumsum(makes)]).astype(np.int64))
    total = int(places.offset[-1])
    slices = max(1, -(-total // SLICE_IDS))
    edges = [(number << 64) // slices for number in range(slices + 1)]
    with atomic_path(folder / "winners.bin") as path, open(path, "wb") as stream:
        for first, last in tqdm(list(itertools.pairwise(edges)), desc="numbering", unit="slice", disable=quiet):
            hashes, where = _first_places(prefixes, places.offset, first, last)
            places.mark(where)
            stream.write(np.stack([hashes, where.astype(np.uint64)], 1).tobytes())
    count = places.count()
    with (
        atomic_path(folder / "index.hash.npy") as hash_path,
        atomic_path(folder / "index.row.npy") as row_path,
        open(folder / "winners.bin", "rb") as winners,
        NpyWriter(hash_path, np.uint64, (count,)) as hash_writer,
        NpyWriter(row_path, np.int32, (count,)) as row_writer,
    ):
        while chunk := winners.read(16 * SLICE_IDS):
            pairs = np.frombuffer(chunk, np.uint64).reshape(-1, 2)
            hash_writer.append(pairs[:, 0])
            row_writer.append(places.rows(pairs[:, 1].astype(np.int64)))
    (folder / "winners.bin").unlink()
    for name, values in (("offset", places.offset), ("marks", places.words)):
        with atomic_path(folder / f"index.{name}.npy") as path, open(path, "wb") as stream:
            np.save(stream, values)
    empty = np.zeros(0, np.uint64)
    _save_redirects(folder, empty, empty.astype(np.int32))
    return {"entities": count, **_resolve_redirects(prefixes, folder)}


def load_places(folder: Path) -> Places:
    """The marks that `number_entities` left."""
    places = Places(np.load(folder / "index.offset.npy"), np.load(folder / "index.marks.npy"))
    places.count()
    return places


def _first_places(prefixes: list[Path], offset: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes in [first, last) that define an entity, ascending, and the first place of each."""
    hashes: list[np.ndarray] = []
    where: list[np.ndarray] = []
    texts: list[pa.Array] = []
    for number, prefix in enumerate(prefixes):
        batch = load_columns(prefix, "ids")
        column = batch.column("hash").to_numpy()
        start = int(np.searchsorted(column, np.uint64(first)))
        stop = len(column) if last > 0xFFFFFFFFFFFFFFFF else int(np.searchsorted(column, np.uint64(last)))
        if start == stop:
            continue
        batch = batch.slice(start, stop - start)
        defines = batch.column("defines").to_numpy(zero_copy_only=False)
        hashes.append(batch.column("hash").to_numpy()[defines])
        where.append(batch.column("number").to_numpy()[defines].astype(np.int64) + offset[number])
        texts.append(batch.column("id").filter(pa.array(defines)))
    if not hashes:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    hash_, place = np.concatenate(hashes), np.concatenate(where)
    order = np.argsort(hash_, kind="stable")
    hash_, place = hash_[order], place[order]
    head = np.append(True, hash_[1:] != hash_[:-1])
    if not head.all():
        text = pa.concat_arrays(texts).take(pa.array(order))
        leader = text.take(pa.array(np.maximum.accumulate(np.where(head, np.arange(len(head)), 0))))
        different = pc.not_equal(text, leader)
        if pc.any(different).as_py():
            number = pc.index(different, True).as_py()
            raise DataError(prefixes[0].parent, f"the ids {text[number]} and {leader[number]} have the same hash", "Rename one of them in the source")
    return hash_[head], place[head]


def _resolve_redirects(prefixes: list[Path], folder: Path) -> dict[str, int]:
    ids: list[str] = []
    targets: list[str] = []
    for prefix in prefixes:
        batch = load_columns(prefix, "redirects")
        ids += batch.column("id").to_pylist()
        targets += batch.column("target").to_pylist()
    if not ids:
        return {"cyclic redirect": 0, "redirect to an entity that is not in the store": 0}
    source, final, cyclic = follow_redirects(hash_ids(ids), hash_ids(targets))
    order = np.argsort(final, kind="stable")
    row = np.full(len(final), -1, np.int32)
    row[order] = RowIndex(folder).find(final[order])
    row[cyclic] = -1
    _save_redirects(folder, source[row >= 0], row[row >= 0])
    kept = {int(hash_) for hash_ in source[row >= 0]}
    names = [name for name, hash_ in zip(ids, hash_ids(ids).tolist(), strict=True) if hash_ in kept]
    rows = dict(zip(source.tolist(), row.tolist(), strict=True))
    names = sorted(set(names))
    table = pa.table({"id": names, "entity": pa.array([rows[hash_] for hash_ in hash_ids(names).tolist()], pa.int32())})
    with atomic_path(folder / "redirects.arrow") as path, pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return {"cyclic redirect": int(cyclic.sum()), "redirect to an entity that is not in the store": int(((row < 0) & ~cyclic).sum())}


def follow_redirects(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where chains of redirects end.

    Args:
        source: [n] uint64 hashes of the names that redirect; of repeated ones the first counts.
        target: [n] uint64 hashes of the names they redirect to.

    Returns:
        the distinct sources, ascending; the last name of each one's chain; whether the chain never ends (such a redirect is to be cut).
    """
    source, first = np.unique(source, return_index=True)
    target = target[first]
    size = len(source)
    place = np.minimum(np.searchsorted(source, target), max(size - 1, 0))
    ends = np.append(np.where(source[place] == target, place, size), size) if size else np.array([0])
    # Pointer doubling: after k rounds `step` is 2^k redirects further; a chain that has not ended after `size` redirects is a circle.
    step, last = ends, np.arange(size + 1)
    last = np.where(ends == size, last, ends)
    for _ in range(max(1, int(size).bit_length())):
        last = last[last]
        step = step[step]
    cyclic = step[:size] != size
    return source, target[last[:size]] if size else target, cyclic


def _save_redirects(folder: Path, source: np.ndarray, row: np.ndarray) -> None:
    for name, values in (("hash", source), ("row", row)):
        with atomic_path(folder / f"index.redirect_{name}.npy") as path, open(path, "wb") as stream:
            np.save(stream, values)
