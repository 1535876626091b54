"""Character references: `&amp;`, `&#8212;`, `&#x2014;` (HTML Living Standard, section 13.2.5.72)."""

from __future__ import annotations

from html.entities import html5

import numpy as np

from data_prep.html.compiled import part
from data_prep.html.hashes import START, STEP, hash_of, look_up, table_of

LONGEST_NAME, LONGEST_BARE_NAME = 32, 6
REPLACEMENT = 0xFFFD
# What the numbers 128 to 159 mean: windows-1252.
C1 = np.array([ord(bytes([code]).decode("cp1252", "ignore") or chr(code)) for code in range(0x80, 0xA0)], np.int64)
# Named references to one or two characters: first + second << 21. Those that may stand without a semicolon also have an entry without.
KEYS, VALUES = table_of({hash_of(name): ord(text[0]) + (ord(text[1]) << 21 if len(text) > 1 else 0) for name, text in html5.items()}, size=8192)


@part
def read_reference(data, position, end, keys, values, c1):
    """What a reference at `position` (an ampersand) stands for: (first byte after it, first character, second character or 0).

    The first byte after it is `position` if there is no reference.
    """
    index = position + 1
    if index < end and data[index] == 35:
        return _number(data, position, end, c1)
    key = START
    bare_end, bare = position, np.int64(0)
    while index < end and index - position <= LONGEST_NAME:
        byte = data[index]
        if byte == 59:
            found = look_up((key ^ np.uint64(59)) * STEP, keys, values, np.int64(0))
            if found:
                return index + 1, found & 0x1FFFFF, found >> 21
            break
        if not (48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122):
            break
        key = (key ^ np.uint64(byte)) * STEP
        index += 1
        if index - position - 1 <= LONGEST_BARE_NAME:
            found = look_up(key, keys, values, np.int64(0))
            if found:
                bare_end, bare = index, found
    return bare_end, bare & 0x1FFFFF, bare >> 21


@part
def _number(data, position, end, c1):
    index = position + 2
    is_hex = index < end and (data[index] == 120 or data[index] == 88)
    if is_hex:
        index += 1
    first = index
    code = 0
    while index < end:
        byte = int(data[index])
        if 48 <= byte <= 57:
            digit = byte - 48
        elif is_hex and 97 <= byte | 32 <= 102:
            digit = (byte | 32) - 87
        else:
            break
        code = min(code * (16 if is_hex else 10) + digit, 0x110000)
        index += 1
    if index == first:
        return position, np.int64(0), np.int64(0)
    if index < end and data[index] == 59:
        index += 1
    if 0x80 <= code < 0xA0:
        code = c1[code - 0x80]
    if code == 0 or code > 0x10FFFF or 0xD800 <= code < 0xE000:
        code = REPLACEMENT
    return index, code, np.int64(0)
