"""Arrays on disk that are written and read in pieces, so that memory does not grow with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rwtrain.knowledge.store import hash_ids

SPILL_ENTRIES = 1 << 22
SLICE_BITS = 8
ROWS_PER_PIECE = 1 << 20


class NpyWriter:
    """Writes an .npy file of known shape piece by piece."""

    def __init__(self, path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
        self._stream, self._dtype, self._left = open(path, "wb"), np.dtype(dtype), int(np.prod(shape))  # noqa: SIM115
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def append(self, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values, self._dtype)
        self._left -= values.size
        self._stream.write(values.tobytes())

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stream.close()
        assert kind is not None or self._left == 0, "an array of another length than announced"


class NpyReader:
    """Reads rows of an .npy file with plain reads: unlike a memory map, its pages never count as this process's memory."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as stream:
            np.lib.format.read_magic(stream)
            self._shape, _, self._dtype = np.lib.format.read_array_header_1_0(stream)
            self._begin = stream.tell()
        self._path = path

    def __len__(self) -> int:
        return int(self._shape[0])

    def read(self, start: int, count: int) -> np.ndarray:
        """Rows [start, start + count), fewer at the end."""
        width = int(np.prod(self._shape[1:]))
        count = max(0, min(count, len(self) - start))
        values = np.fromfile(self._path, self._dtype, count * width, offset=self._begin + start * width * self._dtype.itemsize)
        return values.reshape(count, *self._shape[1:])


class HashTableWriter:
    """Writes `NAME_hash.npy` (sorted 64-bit hashes of texts) and `NAME_row.npy`: an external sort.

    Entries are sorted and spilled by the four million; each spill remembers where each of 256 slices of hashes begins, and the slices are
    merged one after the other.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._hashes: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._held = 0
        self._edges: list[np.ndarray] = []

    def add(self, texts: list[str], rows: np.ndarray) -> None:
        """Texts that lead to rows."""
        self._hashes.append(hash_ids(texts))
        self._rows.append(rows.astype(np.int32))
        self._held += len(texts)
        if self._held >= SPILL_ENTRIES:
            self._spill()

    def finish(self) -> None:
        """Merge what was added; of equal hashes the one added first comes first."""
        self._spill()
        spills = [(NpyReader(self._path(number, "hash")), NpyReader(self._path(number, "row"))) for number in range(len(self._edges))]
        total = (sum(len(hashes) for hashes, _ in spills),)
        hash_path, row_path = (self._folder / f"{self._name}_{kind}.npy" for kind in ("hash", "row"))
        with NpyWriter(hash_path, np.uint64, total) as hash_writer, NpyWriter(row_path, np.int32, total) as row_writer:
            for piece in range(1 << SLICE_BITS):
                ranges = [(int(edges[piece]), int(edges[piece + 1] - edges[piece])) for edges in self._edges]
                hashes = np.concatenate([spill.read(*where) for (spill, _), where in zip(spills, ranges, strict=True)])
                rows = np.concatenate([spill.read(*where) for (_, spill), where in zip(spills, ranges, strict=True)])
                order = np.argsort(hashes, kind="stable")
                hash_writer.append(hashes[order])
                row_writer.append(rows[order])
        for number in range(len(self._edges)):
            self._path(number, "hash").unlink()
            self._path(number, "row").unlink()

    def _path(self, number: int, kind: str) -> Path:
        return self._folder / f"{self._name}_{kind}.{number}.npy"

    def _spill(self) -> None:
        hashes = np.concatenate([np.zeros(0, np.uint64), *self._hashes])
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        np.save(self._path(len(self._edges), "hash"), hashes)
        np.save(self._path(len(self._edges), "row"), np.concatenate([np.zeros(0, np.int32), *self._rows])[order])
        starts = np.arange(1 << SLICE_BITS, dtype=np.uint64) << np.uint64(64 - SLICE_BITS)
        self._edges.append(np.append(np.searchsorted(hashes, starts), len(hashes)))
        self._hashes, self._rows, self._held = [], [], 0
