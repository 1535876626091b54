"""spaCy's English tokenization as compiled loops: from characters with their properties to words.

All compiled functions stand in this file: numba's cache does not see changes in others.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from data_prep.words import HASH_START, HASH_STEP

# Bits of a character's properties.
SPACE, ALPHA, LOWER, UPPER, DIGIT, PUNCT, QUOTE, CURRENCY, ICON, SYMBOL, LETTER = (np.uint16(1 << bit) for bit in range(11))
ALONE = np.uint16(PUNCT | QUOTE | ICON)
LONGEST_UNIT = 4
LONGEST_SPLIT = 24


@njit(cache=True, nogil=True, inline="always")
def _mixed(value):
    value ^= value >> np.uint64(32)
    value *= np.uint64(0xD6E8FEB86659FD93)
    value ^= value >> np.uint64(32)
    return value | np.uint64(1)


@njit(cache=True, nogil=True, inline="always")
def hash_codes(codes, start, end):
    value = HASH_START
    for index in range(start, end):
        value = (value ^ np.uint64(codes[index])) * HASH_STEP
    return _mixed(value)


@njit(cache=True, nogil=True)
def _find_split(codes, start, end, keys):
    if end - start > LONGEST_SPLIT:
        return -1
    key = hash_codes(codes, start, end)
    mask = np.uint64(keys.size - 1)
    slot = key & mask
    while keys[slot] != 0:
        if keys[slot] == key:
            return np.int64(slot)
        slot = (slot + np.uint64(1)) & mask
    return -1


@njit(cache=True, nogil=True)
def _prefix(codes, start, end, table):
    """Length of the punctuation that a chunk begins with."""
    code = codes[start]
    kind = table[code]
    if code == 46:  # two or more full stops
        length = 1
        while start + length < end and codes[start + length] == 46:
            length += 1
        return length if length > 1 else 0
    if kind & (ALONE | CURRENCY) or code in (0xA7, 37, 61, 0x2014, 0x2013):  # § % = — –
        return 1
    if code == 43:  # a plus sign before no digit
        return 0 if start + 1 < end and table[codes[start + 1]] & DIGIT else 1
    if end - start > 1 and codes[start + 1] == 36 and (code == 67 or code == 65):  # C$ A$
        return 2
    if end - start > 2 and code == 85 and codes[start + 1] == 83 and codes[start + 2] == 36:  # US$
        return 3
    return 0


@njit(cache=True, nogil=True)
def _suffix(codes, start, end, table, units):
    """Length of the punctuation, possessive or unit that a chunk ends with."""
    last = codes[end - 1]
    kind = table[last]
    before = codes[end - 2] if end - start > 1 else np.uint32(0)
    if last == 46:
        length = 1
        while end - length - 1 >= start and codes[end - length - 1] == 46:
            length += 1
        if length > 1:
            return length
        if end - start < 2:
            return 0
        if table[before] & (DIGIT | LOWER | PUNCT | QUOTE) or before in (37, 0xB2, 45, 43, 124):  # % ² - + |
            return 1
        if end - start > 2 and table[before] & UPPER and (table[codes[end - 3]] & UPPER or codes[end - 3] == 0xB0):
            return 1
        return 0
    if last == 0x2026 and before == 0x2026:
        return 2
    if kind & ALONE or last == 0x2014 or last == 0x2013:
        return 1
    if (last == 115 or last == 83) and (before == 39 or before == 0x2019):
        return 2
    if end - start > 1 and table[before] & DIGIT and (last == 43 or kind & CURRENCY):
        return 1
    length = 1
    while length <= LONGEST_UNIT and end - length > start:
        if table[codes[end - length - 1]] & DIGIT:
            key = hash_codes(codes, end - length, end)
            place = np.searchsorted(units, key)
            return length if place < units.size and units[place] == key else 0
        length += 1
    return 0


@njit(cache=True, nogil=True)
def _is_address(codes, start, end, table):
    """Whether a chunk is a web or e-mail address: [scheme://][name@]label.label[:port][/path]."""
    dot = False
    for index in range(start, end):
        if codes[index] == 46:
            dot = True
            break
    if not dot:
        return False
    first = start
    for index in range(start, end - 2):
        if codes[index] == 58 and codes[index + 1] == 47 and codes[index + 2] == 47:
            if index - start >= 2:
                first = index + 3
            break
    for index in range(end - 1, first, -1):
        if codes[index] == 64 and _is_host(codes, index + 1, end, table):
            return True
    return _is_host(codes, first, end, table)


@njit(cache=True, nogil=True)
def _is_host(codes, start, end, table):
    position = start
    labels = 0
    numbers = 0
    top_is_name = False
    while True:
        first = position
        only_lower = True
        only_digits = True
        while position < end:
            code = codes[position]
            if code == 45 or code == 95:
                only_lower = False
                only_digits = False
            elif 48 <= code <= 57:
                only_lower = False
            elif (97 <= code <= 122) or (code >= 0xA1 and table[code] & ALPHA and not table[code] & UPPER):
                only_digits = False
            elif (65 <= code <= 90) or code >= 0xA1:
                only_lower = False
                only_digits = False
            else:
                break
            position += 1
        if position == first or codes[first] == 45 or codes[first] == 95 or codes[position - 1] == 45 or codes[position - 1] == 95:
            return False
        labels += 1
        if only_digits and position - first <= 3:
            numbers += 1
        top_is_name = only_lower and position - first >= 2
        if position < end and codes[position] == 46 and position + 1 < end:
            position += 1
            continue
        break
    if labels < 2 or not (top_is_name or (labels == 4 and numbers == 4)):
        return False
    if position < end and codes[position] == 58:
        first = position + 1
        position = first
        while position < end and 48 <= codes[position] <= 57:
            position += 1
        if position - first < 2:
            return False
    return position == end or codes[position] in (47, 63, 35)


@njit(cache=True, nogil=True)
def _infix(codes, index, start, end, table):
    """Length of what splits a chunk at `index`, 0 if nothing does."""
    code = codes[index]
    kind = table[code]
    if code == 46:
        length = 1
        while index + length < end and codes[index + length] == 46:
            length += 1
        if length > 1:
            return length
    elif code == 0x2026 or kind & ICON:
        return 1
    if index == start or index + 1 >= end:
        return 0
    before, after = table[codes[index - 1]], table[codes[index + 1]]
    if code in (43, 45, 42, 94) and before & DIGIT and (after & DIGIT or codes[index + 1] == 45):
        return 1
    if code == 46:
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if code == 44:
        return 1 if before & ALPHA and after & ALPHA else 0
    if code in (45, 0x2013, 0x2014, 126) and before & (ALPHA | DIGIT):
        if after & ALPHA:
            return 1
        length = 1
        while length < 3 and index + length < end and codes[index + length] == code and code in (45, 0x2014):
            length += 1
        if length > 1 and not (code == 0x2014 and length > 2) and index + length < end and table[codes[index + length]] & ALPHA:
            return length
        return 0
    if code in (58, 60, 62, 61, 47) and before & (ALPHA | DIGIT) and after & ALPHA:
        return 1
    return 0


@njit(cache=True, nogil=True)
def cut_words(codes, table, keys, lengths, units):
    size = codes.size
    start_of = np.empty(size + 1, np.int32)
    end_of = np.empty(size + 1, np.int32)
    hashes = np.empty(size + 1, np.uint64)
    kinds = np.empty(size + 1, np.uint8)
    mask = np.uint64(keys.size - 1)
    count = 0
    position = 0
    while position < size:
        kind = table[codes[position]]
        if kind & SPACE:
            position += 1
            continue
        # Most chunks are letters only: one pass hashes them, and one look into the table shows that no exception splits them.
        first = position
        value = HASH_START
        any_kind = np.uint16(0)
        all_kind = np.uint16(0xFFFF)
        while not kind & SPACE:
            value = (value ^ np.uint64(codes[position])) * HASH_STEP
            any_kind |= kind
            all_kind &= kind
            position += 1
            if position == size:
                break
            kind = table[codes[position]]
        if all_kind & ALPHA and not any_kind & ALONE:
            value = _mixed(value)
            slot = value & mask
            while keys[slot] != 0 and keys[slot] != value:
                slot = (slot + np.uint64(1)) & mask
            if keys[slot] == 0:
                start_of[count], end_of[count], hashes[count] = first, position, value
                kinds[count] = _kind(any_kind, all_kind)
                count += 1
                continue
        before = count
        count = _split_chunk(codes, first, position, table, keys, lengths, units, start_of, end_of, count)
        for number in range(before, count):
            hashes[number] = hash_codes(codes, start_of[number], end_of[number])
            any_kind = np.uint16(0)
            all_kind = np.uint16(0xFFFF)
            for index in range(start_of[number], end_of[number]):
                any_kind |= table[codes[index]]
                all_kind &= table[codes[index]]
            kinds[number] = _kind(any_kind, all_kind)
    letter = (kinds[:count] & 1) != 0
    symbol = (kinds[:count] & 2) != 0
    return start_of[:count].copy(), end_of[:count].copy(), hashes[:count].copy(), letter, symbol


@njit(cache=True, nogil=True, inline="always")
def _kind(any_kind, all_kind):
    return np.uint8((1 if any_kind & LETTER else 0) | (2 if all_kind & SYMBOL else 0))


@njit(cache=True, nogil=True)
def _split_chunk(codes, first, last, table, keys, lengths, units, start_of, end_of, count):
    """Words of one chunk: exceptions, then prefixes and suffixes from outside in, then addresses, then infixes; returns the new count."""
    end = last
    suffix_start = np.empty(last - first, np.int32)
    suffixes = 0
    split = -1
    while first < last:
        split = _find_split(codes, first, last, keys)
        if split >= 0:
            break
        prefix = _prefix(codes, first, last, table)
        if prefix and first + prefix < last:
            split = _find_split(codes, first + prefix, last, keys)
            if split >= 0:
                start_of[count], end_of[count] = first, first + prefix
                count += 1
                first += prefix
                break
        suffix = _suffix(codes, first + prefix, last, table, units) if first + prefix < last else 0
        if suffix and last - suffix > first:
            split = _find_split(codes, first, last - suffix, keys)
            if split >= 0:
                suffix_start[suffixes] = last - suffix
                suffixes += 1
                last -= suffix
                break
        if not prefix and not suffix:
            break
        if prefix:
            start_of[count], end_of[count] = first, first + prefix
            count += 1
            first += prefix
        if suffix and last - suffix >= first:
            suffix_start[suffixes] = last - suffix
            suffixes += 1
            last -= suffix
    if first < last:
        if split >= 0:
            piece = 0
            while piece < lengths.shape[1] and lengths[split, piece] > 0:
                start_of[count], end_of[count] = first, first + lengths[split, piece]
                first += lengths[split, piece]
                count += 1
                piece += 1
        elif _is_address(codes, first, last, table):
            start_of[count], end_of[count] = first, last
            count += 1
        else:
            count = _split_infixes(codes, first, last, table, start_of, end_of, count)
    for number in range(suffixes - 1, -1, -1):
        start_of[count] = suffix_start[number]
        end_of[count] = suffix_start[number - 1] if number > 0 else end
        count += 1
    return count


@njit(cache=True, nogil=True)
def _split_infixes(codes, first, last, table, start_of, end_of, count):
    index = first
    begin = first
    while index < last:
        length = _infix(codes, index, first, last, table)
        if length == 0:
            index += 1
            continue
        if index != begin:
            start_of[count], end_of[count] = begin, index
            start_of[count + 1], end_of[count + 1] = index, index + length
            count += 2
            begin = index + length
        index += length
    if begin < last:
        start_of[count], end_of[count] = begin, last
        count += 1
    return count
