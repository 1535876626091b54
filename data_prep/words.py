"""Words of a text, found once and shared by the filters and MinHash: one compiled pass over code points."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from numba import njit

from data_prep.records import Record

OTHER, SPACE, LETTER, DIGIT, MARK, IDEOGRAPH = range(6)
CODE_POINTS = 0x110000
# Where Unicode has characters, or ever may have letters; beyond there are private ones only. Looking at all takes a start-up five times as long.
ASSIGNED = (range(0x40000), range(0xE0000, 0xE1000))
# Ranges of scripts that write words without spaces; each character counts as a word.
UNSPACED = (
    (0x2E80, 0x3005),
    (0x3007, 0x3008),
    (0x3021, 0x302A),
    (0x3040, 0x3100),
    (0x31F0, 0x3200),
    (0x3400, 0x4DC0),
    (0x4E00, 0xA000),
    (0xF900, 0xFB00),
    (0x20000, 0x32000),
    (0x0E00, 0x0E80),
    (0x1000, 0x10A0),
    (0x1780, 0x1800),
)
HASH_START = np.uint64(0xCBF29CE484222325)
HASH_STEP = np.uint64(0x100000001B3)


@dataclass(frozen=True, slots=True)
class Words:
    """Words of one text; a word is a run of letters and digits, or one other visible character (in scripts without spaces, with its marks).

    Attributes:
        start: first character of each word, [words] int32.
        end: one past the last character, [words] int32.
        hash: 64-bit hash of each word, [words] uint64.
        folded: hash of the word in lower case without accents, 0 for punctuation, [words] uint64.
        has_letter: the word has a letter, [words] bool.
    """

    start: np.ndarray
    end: np.ndarray
    hash: np.ndarray
    folded: np.ndarray
    has_letter: np.ndarray


def words_of(record: Record) -> Words:
    """The words of a record's text, computed at the first call."""
    if "words" not in record.cache:
        record.cache["words"] = split_words(record.text)
    return record.cache["words"]


def split_words(text: str) -> Words:
    """Find the words of a text."""
    return Words(*_split(code_points(text), character_classes(), folded_characters()))


def code_points(text: str) -> np.ndarray:
    """The characters of a text as numbers, [characters] uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@lru_cache(maxsize=1)
def character_classes() -> np.ndarray:
    """Class of every code point, [0x110000] uint8."""
    table = np.zeros(CODE_POINTS, np.uint8)
    for code in chain(*ASSIGNED):
        category = unicodedata.category(chr(code))
        if category[0] == "L":
            table[code] = LETTER
        elif category[0] == "N":
            table[code] = DIGIT
        elif category[0] == "M":
            table[code] = MARK
        elif category[0] == "Z" or chr(code).isspace():
            table[code] = SPACE
    for first, last in UNSPACED:
        part = table[first:last]
        part[part == LETTER] = IDEOGRAPH
    return table


@lru_cache(maxsize=1)
def folded_characters() -> np.ndarray:
    """Each code point in lower case without its accent, [0x110000] uint32."""
    table = np.arange(CODE_POINTS, dtype=np.uint32)
    for code in range(0x80, 0x3000):
        lowered = chr(code).lower()[0]
        table[code] = ord(unicodedata.normalize("NFD", lowered)[0])
    for code in (*range(0x41, 0x5B), *range(0xFF21, 0xFF3B)):
        table[code] = code + 32
    return table


@njit(cache=True, nogil=True)
def _split(codes, classes, folded_table):
    count = 0
    size = codes.size
    start = np.empty(size, np.int32)
    end = np.empty(size, np.int32)
    hashes = np.empty(size, np.uint64)
    folded = np.empty(size, np.uint64)
    letter = np.empty(size, np.bool_)
    position = 0
    while position < size:
        kind = classes[codes[position]]
        if kind == SPACE:
            position += 1
            continue
        first = position
        value = HASH_START
        fold = HASH_START
        has_letter = kind in (LETTER, IDEOGRAPH)
        value = (value ^ np.uint64(codes[position])) * HASH_STEP
        fold = (fold ^ np.uint64(folded_table[codes[position]])) * HASH_STEP
        position += 1
        if kind in (LETTER, DIGIT, MARK):
            while position < size:
                kind = classes[codes[position]]
                if kind not in (LETTER, DIGIT, MARK):
                    break
                if kind == LETTER:
                    has_letter = True
                value = (value ^ np.uint64(codes[position])) * HASH_STEP
                if kind != MARK:
                    fold = (fold ^ np.uint64(folded_table[codes[position]])) * HASH_STEP
                position += 1
            is_word = True
        else:
            is_word = kind == IDEOGRAPH
            while is_word and position < size and classes[codes[position]] == MARK:  # vowel signs and tones of Thai, Burmese, Khmer
                value = (value ^ np.uint64(codes[position])) * HASH_STEP
                fold = (fold ^ np.uint64(codes[position])) * HASH_STEP
                position += 1
        start[count] = first
        end[count] = position
        hashes[count] = _finish(value)
        folded[count] = _finish(fold) if is_word else np.uint64(0)
        letter[count] = has_letter
        count += 1
    return start[:count].copy(), end[:count].copy(), hashes[:count].copy(), folded[:count].copy(), letter[:count].copy()


@njit(cache=True, nogil=True, inline="always")
def _finish(value):
    value ^= value >> np.uint64(32)
    value *= np.uint64(0xD6E8FEB86659FD93)
    value ^= value >> np.uint64(32)
    return value | np.uint64(1)
