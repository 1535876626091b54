"""Gopher's repetition rules (Rae et al. 2021, arXiv 2112.11446, Table A1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from data_prep.english_words import filter_words
from data_prep.plan import RepetitionNode
from data_prep.records import Record, Removed

BASE = np.uint64(0x9E3779B97F4A7C15)


class Repetition:
    """Remove documents that repeat their lines, paragraphs or n-grams of words too much."""

    name = "repetition"

    def __init__(self, config: RepetitionNode) -> None:
        self.config = config
        self.others = {language: Repetition(limits) for language, limits in config.by_language().items()}
        self.top_n, self.top_limits = _arrays(config.top_ngram_characters)
        self.repeated_n, self.repeated_limits = _arrays(config.duplicate_ngram_characters)
        self.ngram_reasons = [f"most frequent {n}-gram" for n in config.top_ngram_characters] + [
            f"repeated {n}-grams" for n in config.duplicate_ngram_characters
        ]

    def __call__(self, records: list[Record]) -> list[Record | Removed]:
        return [Removed(reason) if (reason := self.reason(record)) else record for record in records]

    def reason(self, record: Record) -> str | None:
        """Why this document has to go, None if it may stay."""
        if (other := self.others.get(record.language)) is not None:
            return other.reason(record)
        config, text = self.config, record.text
        count, characters, total = count_repeated([part for raw in text.strip().split("\n\n") if (part := raw.lstrip("\n"))])
        if count > config.duplicate_paragraph_fraction * total:
            return "repeated paragraphs"
        if characters > config.duplicate_paragraph_characters * len(text):
            return "characters in repeated paragraphs"
        count, characters, total = count_repeated([line for line in text.split("\n") if line])
        if count > config.duplicate_line_fraction * total:
            return "repeated lines"
        if characters > config.duplicate_line_characters * len(text):
            return "characters in repeated lines"
        words = filter_words(record)
        rule = first_ngram_rule(words.hash, words.end - words.start, len(text), self.top_n, self.top_limits, self.repeated_n, self.repeated_limits)
        return self.ngram_reasons[rule] if rule >= 0 else None


def count_repeated(parts: Sequence[str]) -> tuple[int, int, int]:
    """(Parts that repeat an earlier one, their characters, all parts)."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        else:
            seen.add(part)
    return count, characters, len(parts)


def _arrays(limits: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(list(limits.keys()), np.int64), np.array(list(limits.values()), np.float64)


@njit(cache=True, nogil=True)
def first_ngram_rule(hashes, lengths, characters, top_n, top_limits, repeated_n, repeated_limits):
    """Number of the first rule that the text breaks: top n-grams, then repeated n-grams; -1 if it breaks none."""
    running = running_hashes(hashes)
    size = 16
    while size < 2 * hashes.size:
        size *= 2
    keys = np.zeros(size, np.uint64)
    counts = np.zeros(size, np.int32)
    firsts = np.zeros(size, np.int32)
    for rule in range(top_n.size):
        if top_ngram_characters(running, lengths, top_n[rule], keys, counts, firsts) > top_limits[rule] * characters:
            return rule
    for rule in range(repeated_n.size):
        if repeated_ngram_characters(running, lengths, repeated_n[rule], keys) > repeated_limits[rule] * characters:
            return top_n.size + rule
    return -1


@njit(cache=True, nogil=True)
def running_hashes(hashes):
    """Polynomial hashes of all beginnings of the text, [words + 1] uint64: the hash of any run of words is a difference of two."""
    running = np.zeros(hashes.size + 1, np.uint64)
    for index in range(hashes.size):
        running[index + 1] = running[index] * BASE + hashes[index]
    return running


@njit(cache=True, nogil=True, inline="always")
def _ngram(running, first, n, power):
    value = running[first + n] - running[first] * power
    value ^= value >> np.uint64(32)
    value *= np.uint64(0xD6E8FEB86659FD93)
    value ^= value >> np.uint64(32)
    return value | np.uint64(1)


@njit(cache=True, nogil=True)
def _power(n):
    power = np.uint64(1)
    for _ in range(n):
        power *= BASE
    return power


@njit(cache=True, nogil=True)
def top_ngram_characters(running, lengths, n, keys, counts, firsts):
    """Characters of the most frequent n-gram with single spaces, times its count; the first one wins a tie.

    `keys`, `counts` and `firsts` are tables of a power of two entries, at least twice the words; their content is lost.
    """
    total = lengths.size - n + 1
    if total <= 0:
        return 0
    power = _power(n)
    mask = np.uint64(keys.size - 1)
    keys[:] = 0
    best = 0
    for index in range(total):
        key = _ngram(running, index, n, power)
        slot = key & mask
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == 0:
            keys[slot] = key
            firsts[slot] = index
            counts[slot] = 1
        else:
            counts[slot] += 1
        best = max(best, counts[slot])
    best_first = total
    for slot in range(keys.size):
        if keys[slot] != 0 and counts[slot] == best and firsts[slot] < best_first:
            best_first = firsts[slot]
    characters = n - 1
    for index in range(best_first, best_first + n):
        characters += lengths[index]
    return characters * best


@njit(cache=True, nogil=True)
def repeated_ngram_characters(running, lengths, n, keys):
    """Characters in n-grams that repeat an earlier one; after a repeated n-gram the search goes on behind it.

    `keys` is a table of a power of two entries, at least twice the words; its content is lost.
    """
    total = lengths.size - n + 1
    if total <= 0:
        return 0
    power = _power(n)
    mask = np.uint64(keys.size - 1)
    keys[:] = 0
    repeated = 0
    index = 0
    while index < total:
        key = _ngram(running, index, n, power)
        slot = key & mask
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == 0:
            keys[slot] = key
            index += 1
        else:
            for inside in range(index, index + n):
                repeated += lengths[inside]
            index += n
    return repeated
