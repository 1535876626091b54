"""Where personal data may be: one compiled pass over the bytes of a text, so that patterns are tried at few places."""

from __future__ import annotations

import numpy as np
from numba import njit

# Kinds of places.
AT, SPELLED_AT, NUMBER, COLONS, IBAN = range(5)
OTHER, DIGIT, SEPARATOR, UPPER, LOWER = range(5)
MIN_DIGITS = 7
IBAN_CHARACTERS = 44


def _byte_classes() -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for characters, kind in ((b"0123456789", DIGIT), (b" ()./:+-", SEPARATOR), (bytes(range(65, 91)), UPPER), (bytes(range(97, 123)), LOWER)):
        table[list(characters)] = kind
    return table


BYTE_CLASSES = _byte_classes()


def places(text: str) -> list[tuple[int, int, int]]:
    """(Kind, first character, one past the last) of every place worth a look, by kind and position.

    `AT`: an @. `SPELLED_AT`: an "at" in brackets. `NUMBER`: digits and what may stand between them, with at least seven digits,
    or four and three dots. `COLONS`: hexadecimal digits with at least two colons. `IBAN`: two capitals and two digits.
    """
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    found = _places(data, BYTE_CLASSES)
    return [(int(kind), int(start), int(stop)) for kind, start, stop in found]


@njit(cache=True, nogil=True)
def _grown(table):
    larger = np.empty((2 * table.shape[0], 3), np.int64)
    larger[: table.shape[0]] = table
    return larger


@njit(cache=True, nogil=True)
def _is_hex(byte):
    return (48 <= byte <= 57) or (97 <= byte <= 102) or (65 <= byte <= 70)


@njit(cache=True, nogil=True)
def _places(data, classes):
    found = np.empty((16, 3), np.int64)
    count = 0
    size = data.size
    character = -1
    start = last = -1  # of the run of digits and separators, in characters
    digits = dots = 0
    hex_start = -1  # of the run of hexadecimal digits and colons
    colons = 0
    previous = np.uint8(32)
    for position in range(size + 1):
        byte = data[position] if position < size else np.uint8(10)
        if byte & 0xC0 != 0x80:
            character += 1
        if count + 4 > found.shape[0]:
            found = _grown(found)
        kind = classes[byte]
        # A run of digits; a no-break space (C2 A0) goes on with it, two blanks in a row end it.
        if kind == DIGIT:
            if start < 0:
                start, digits, dots = character, 0, 0
            digits += 1
            last = character + 1
        elif start >= 0:
            goes_on = kind == SEPARATOR and not (byte == 32 and previous == 32)
            goes_on = goes_on or (byte == 0xC2 and position + 1 < size and data[position + 1] == 0xA0) or (byte == 0xA0 and previous == 0xC2)
            if byte == 46:
                dots += 1
            if not goes_on:
                if digits >= MIN_DIGITS or (dots >= 3 and digits >= 4):
                    found[count, 0], found[count, 1], found[count, 2] = NUMBER, start, last
                    count += 1
                start = -1
        # A run of hexadecimal digits and colons that begins a word.
        if _is_hex(byte) or byte == 58:
            if hex_start < 0 and byte != 58 and classes[previous] not in (DIGIT, UPPER, LOWER) and previous != 58 and previous < 0x80 and previous != 95:
                hex_start, colons = character, 0
            if byte == 58:
                colons += 1
        elif hex_start >= 0:
            if colons >= 2:
                found[count, 0], found[count, 1], found[count, 2] = COLONS, hex_start, character
                count += 1
            hex_start = -1
        if byte == 64:
            found[count, 0], found[count, 1], found[count, 2] = AT, character, character + 1
            count += 1
        elif (byte == 91 or byte == 40) and _at_in_brackets(data, position):
            found[count, 0], found[count, 1], found[count, 2] = SPELLED_AT, character, character + 1
            count += 1
        elif kind == UPPER and (classes[previous] == OTHER or classes[previous] == SEPARATOR) and _begins_iban(data, position, classes):
            found[count, 0], found[count, 1], found[count, 2] = IBAN, character, character + IBAN_CHARACTERS
            count += 1
        previous = byte
    return found[:count]


@njit(cache=True, nogil=True)
def _at_in_brackets(data, position):
    """Whether `[at]`, `(at)`, `( AT )` and the like begin here."""
    place = position + 1
    for letter in (97, 116):
        if letter == 97 and place < data.size and data[place] == 32:
            place += 1
        if place >= data.size or data[place] | 32 != letter:
            return False
        place += 1
    if place < data.size and data[place] == 32:
        place += 1
    return place < data.size and (data[place] == 93 or data[place] == 41)


@njit(cache=True, nogil=True)
def _begins_iban(data, position, classes):
    """Whether two capitals and two digits begin here."""
    if position + 4 >= data.size or classes[data[position + 1]] != UPPER:
        return False
    return classes[data[position + 2]] == DIGIT and classes[data[position + 3]] == DIGIT
