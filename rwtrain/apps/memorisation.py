"""Does a model repeat its training data? Every span of 50 training tokens is remembered as a 64-bit hash; what is written is looked up.

The index is 8 bytes for each training token, in sorted, memory-mapped files. Two different spans share a hash with a chance of
one in 2⁶⁴ for each span of the index: 10⁹ training tokens give a false warning once in 2 · 10¹⁰ written tokens.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import BOS_ID, EOS_ID
from rwtrain.errors import DataError
from rwtrain.files import atomic_folder, write_json
from rwtrain.knowledge.store import load_array

SPAN_TOKENS = 50
BASE = 0x9E3779B97F4A7C15  # odd, so that products modulo 2⁶⁴ lose nothing
MASK = (1 << 64) - 1
MANIFEST = "manifest.json"
PIECE_TOKENS = 1 << 24  # tokens hashed at once: bounds the memory, not the result


def window_hashes(tokens: np.ndarray, span: int = SPAN_TOKENS) -> np.ndarray:
    """Σ_j (t_j + 1) · B^(span − 1 − j) modulo 2⁶⁴ of every window of `span` tokens, mixed; [tokens − span + 1] uint64.

    Windows of twice the length are made from two of the single length, so the work grows with log(span).
    """
    if len(tokens) < span:
        return np.zeros(0, np.uint64)
    power = tokens.astype(np.uint64) + np.uint64(1)  # hashes of windows of `length` tokens
    length, result, done = 1, np.zeros(len(tokens), np.uint64), 0
    rest = span
    while rest:
        if rest & 1:
            shifted = power[done:]
            result = result[: len(shifted)] * np.uint64(pow(BASE, length, 1 << 64)) + shifted
            done += length
        rest >>= 1
        if rest:
            power = power[: len(power) - length] * np.uint64(pow(BASE, length, 1 << 64)) + power[length:]
            length *= 2
    return _mix(result[: len(tokens) - span + 1])


def _mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's last steps, so that sums of small tokens spread over all bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def build_index(shards: str | Path, out: str | Path, *, progress: bool = False) -> dict[str, Any]:
    """Remember every span of `SPAN_TOKENS` tokens of a dataset's documents; return the index's manifest.

    Args:
        shards: folder of text shards, as a run trained on them.
        out: folder to write; appears when it is whole.

    Raises:
        DataError: the shards cannot be read.
    """
    dataset = ShardDataset(shards)
    manifest: dict[str, Any] = {"span_tokens": SPAN_TOKENS, "tokenizer_hash": dataset.manifest["tokenizer_hash"], "files": [], "spans": 0}
    with atomic_folder(out) as folder, tqdm(total=dataset.manifest["tokens"], desc="training tokens", unit="token", disable=not progress) as bar:
        for first in dataset.shard_starts[:-1]:
            tokens = dataset.locate(int(first))[0].tokens
            for start in range(0, len(tokens), PIECE_TOKENS):
                found = np.unique(spans_of_documents(tokens[start : start + PIECE_TOKENS + SPAN_TOKENS - 1]))
                name = f"spans-{len(manifest['files']):05d}.npy"
                np.save(folder / name, found)
                manifest["files"].append(name)
                manifest["spans"] += len(found)
                bar.update(min(PIECE_TOKENS, len(tokens) - start))
        write_json(folder / MANIFEST, manifest)
    return manifest


def spans_of_documents(tokens: np.ndarray) -> np.ndarray:
    """Hashes of the windows that hold no begin or end mark, so that lie within one document."""
    marks = np.cumsum(np.concatenate(([0], (tokens == BOS_ID) | (tokens == EOS_ID))))
    return window_hashes(tokens)[marks[SPAN_TOKENS:] == marks[:-SPAN_TOKENS]] if len(tokens) >= SPAN_TOKENS else np.zeros(0, np.uint64)


class MemorisationIndex:
    """Looks spans of tokens up. Use `MemorisationIndex.open`."""

    def __init__(self, manifest: dict[str, Any], files: list[np.ndarray]) -> None:
        self.manifest, self.files = manifest, files

    @classmethod
    def open(cls, folder: str | Path, *, tokenizer_hash: str | None = None) -> MemorisationIndex:
        """Open a folder written by `build_index`.

        Raises:
            DataError: it is missing, damaged or of another release, or another tokenizer made it than `tokenizer_hash`.
        """
        folder = Path(folder)
        remedy = "Make it again with `rwtrain write remember SHARDS --out FOLDER`"
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            files = [load_array(folder / Path(name).name, remedy=remedy) for name in manifest["files"]]
            made_by, span_tokens = manifest["tokenizer_hash"], manifest["span_tokens"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(folder, f"no readable index of training spans ({error})", remedy) from error
        if span_tokens != SPAN_TOKENS or any(file.dtype != np.uint64 or file.ndim != 1 for file in files):
            raise DataError(folder, f"spans of {span_tokens} tokens, or of another form than this release writes", remedy)
        if tokenizer_hash is not None and made_by != tokenizer_hash:
            raise DataError(folder, f"made from shards of tokenizer {made_by}, the model has {tokenizer_hash}", remedy)
        return cls(manifest, files)

    def __contains__(self, value: np.uint64) -> bool:
        for hashes in self.files:
            place = int(np.searchsorted(hashes, value))
            if place < len(hashes) and hashes[place] == value:
                return True
        return False


@dataclass
class Repeated:
    """A run of written tokens that stands in the training data: tokens `start` to `end` of what was written."""

    start: int
    end: int


class MemorisationCheck:
    """Follows one writing, token by token, in constant time for each."""

    def __init__(self, index: MemorisationIndex) -> None:
        self.index = index
        self.repeated: list[Repeated] = []
        self._recent: deque[int] = deque(maxlen=SPAN_TOKENS)
        self._sum, self._written = 0, 0
        self._oldest = pow(BASE, SPAN_TOKENS, 1 << 64)

    def add(self, token: int) -> bool:
        """Note one more written token; True if the last `SPAN_TOKENS` of them stand in the training data."""
        leaving = self._recent[0] + 1 if len(self._recent) == SPAN_TOKENS else 0
        self._sum = (self._sum * BASE + token + 1 - leaving * self._oldest) & MASK
        self._recent.append(token)
        self._written += 1
        if len(self._recent) < SPAN_TOKENS or _mix(np.array([self._sum], np.uint64))[0] not in self.index:
            return False
        start = self._written - SPAN_TOKENS
        if self.repeated and self.repeated[-1].end >= start:
            self.repeated[-1].end = self._written
        else:
            self.repeated.append(Repeated(start, self._written))
        return True
