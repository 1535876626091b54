"""The linker's character tables: which characters form words, and what each looks like without case and accents."""

from __future__ import annotations

import unicodedata

import numpy as np

from rwtrain.model.linking_words_refinedweb import (
    BREAK,
    CASED_CHAR,
    GLUE_CHAR,
    KATAKANA,
    KIND_SHIFT,
    LETTER,
    OPENS_CHAR,
    SOFT,
    TABLE_CHARACTERS,
    UNSPACED,
    UPPER_CHAR,
)

OPENS_SIGNS, GLUE_SIGNS = frozenset('.!?\n:;"“”•|'), frozenset(".@/#")
SOFT_SIGNS = frozenset(" \u00a0\u2009-‐‑–'’ʼ.,&/·・•’`")
# Scripts without spaces between words, or (Hangul) with particles glued to names.
UNSPACED_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1100, 0x11FF),  # Hangul Jamo
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x309F),  # Hiragana
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),  # ideographs
    (0xAC00, 0xD7AF),  # Hangul
    (0xF900, 0xFAFF),
)
KATAKANA_RANGES = ((0x30A0, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))


def _inside(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)


def _kind(code: int, character: str, category: str) -> int:
    if character in SOFT_SIGNS:
        return SOFT
    if category[0] not in "LMN" and character != "_":
        return BREAK
    if _inside(code, KATAKANA_RANGES):
        return KATAKANA
    return UNSPACED if _inside(code, UNSPACED_RANGES) else LETTER


def _fold(character: str, category: str) -> int:
    """The character in lower case without accents; 0 for an accent that stands alone."""
    if category == "Mn" and "\u0300" <= character <= "\u036f":
        return 0
    lower = character.casefold()
    lower = lower if len(lower) == 1 else character.lower()[:1]
    base = unicodedata.normalize("NFKD", lower)
    if len(base) > 1 and all(unicodedata.combining(mark) for mark in base[1:]) and base[0] < "\u3000":
        return ord(base[0])
    return ord(base) if len(base) == 1 else ord(lower)


def character_table() -> np.ndarray:
    """`char_info` of the linker's kernels, [0x20002] int32; the last two entries are ideographs beyond the table, and the rest."""
    table = np.zeros(TABLE_CHARACTERS + 2, np.int32)
    for code in range(TABLE_CHARACTERS):
        character = chr(code)
        signs = (OPENS_CHAR if character in OPENS_SIGNS else 0) | (GLUE_CHAR if character in GLUE_SIGNS else 0)
        category = unicodedata.category(character)
        if category in ("Cn", "Co", "Cs", "Cc"):
            table[code] = signs
            continue
        table[code] = _fold(character, category) | _kind(code, character, category) << KIND_SHIFT | signs
        if character != character.lower():
            table[code] |= UPPER_CHAR | CASED_CHAR
        elif character != character.upper():
            table[code] |= CASED_CHAR
    table[TABLE_CHARACTERS] = UNSPACED << KIND_SHIFT
    return table
