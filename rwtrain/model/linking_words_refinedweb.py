"""The entity linker's kernels for words: characters into words, hashes of words and phrases, and the table of known names.

How they are compiled or run as plain Python: `linking_kernels_refinedweb`.
"""

from __future__ import annotations

from collections import namedtuple

# `char_info`: the folded character in the low 21 bits, its kind in three, then flags. Kinds from LETTER on make up words.
BREAK, SOFT, LETTER, UNSPACED, KATAKANA = 0, 1, 2, 3, 4
FOLD_MASK, KIND_SHIFT, KIND_MASK = (1 << 21) - 1, 21, 7
UPPER_CHAR, CASED_CHAR, OPENS_CHAR, GLUE_CHAR = 1 << 24, 1 << 25, 1 << 26, 1 << 27
TABLE_CHARACTERS = 0x20000  # beyond: two entries, for ideographs and for everything else
IDEOGRAPHS_END = 0x32000

# `info` of a word: how many capitals and cased letters it has (255 at most), and what stands between it and the word before.
UPPER_MASK, CASED_SHIFT = 255, 8
JOINED, OPENS, SPACED, GLUED = 1 << 16, 1 << 17, 1 << 18, 1 << 19
MAX_WORDS = 24
MAX_HASHED_CHARACTERS = 40
MAX_JOIN_CHARACTERS = 3
LONGEST_ABBREVIATION = 4  # "Gov. Smith" is one name, "the river. Smith" is not
PERIOD, SPACE = ord("."), ord(" ")

# A slot: 31 bits of the hash, whether longer names begin so, whether it is an everyday word, number of the name + 1. An empty slot is 0.
SLOT_SHIFT, CONTINUES, COMMON_WORD, FORM_MASK = 31, 1 << 30, 1 << 29, (1 << 29) - 1
# A hash has two lanes of 31 bits: no product reaches 2^63, so that nothing overflows in compiled code.
MASK_30, MASK_31, MASK_32 = (1 << 30) - 1, (1 << 31) - 1, (1 << 32) - 1
START_A, START_B, PRIME_A, PRIME_B = 0x4BF29CE4, 0x04222325, 0x010001B3, 0x5C4D1A35
MIX_A, MIX_B, COMBINE_A, COMBINE_B = 0x56E8FEB9, 0x2C1B3C6D, 0x1E3779B9, 0x7F4A7C15

# How a name is written, and 24 bits of the hash of its exact spelling.
LOWER, CAPITALISED, ALL_CAPITALS, UNCASED = 0, 1, 2, 3
EXACT_MASK = (1 << 24) - 1

Words = namedtuple("Words", "start end hash info")
Names = namedtuple("Names", "first last form forced")


def fold_index(code):
    """The place of a character in `char_info`."""
    if code < TABLE_CHARACTERS:
        return code
    return TABLE_CHARACTERS if code < IDEOGRAPHS_END else TABLE_CHARACTERS + 1


def mix(high, low):
    """Spread the bits of two lanes, and join them into a hash of 62 bits."""
    high = ((high ^ (high >> 15)) * MIX_A) & MASK_31
    low = ((low ^ (low >> 15) ^ (high >> 3)) * MIX_B) & MASK_31
    return (high ^ (low >> 13)) << 31 | low


def combine(phrase, word):
    """The hash of a phrase extended by one word."""
    high = ((phrase >> 31) * COMBINE_A + (word >> 31)) & MASK_31
    return mix(high, ((phrase & MASK_31) * COMBINE_B + (word & MASK_31)) & MASK_31)


def _hash_of(word):
    high, low = START_A, START_B
    for character in word:
        high, low = ((high ^ ord(character)) * PRIME_A) & MASK_31, ((low + ord(character)) * PRIME_B) & MASK_31
    return mix(high, low)


HASH_OF_THE = _hash_of("the")


def scan_words(codes, begin, end, char_info, words, count):
    """Split the characters begin to end into words, written from place `count` on; return the count behind the last.

    A word is a run of letters and digits, or one character of a script written without spaces. Its hash is made like FNV-1a's from its first 40
    characters without case and accents.
    """
    starts, ends, hashes, infos = words.start, words.end, words.hash, words.info
    first, place, soft, signs, gap_start, glue = count, begin, True, 0, begin, 0
    while place < end:
        code = codes[place]
        info = char_info[fold_index(code)]
        kind = (info >> KIND_SHIFT) & KIND_MASK
        if kind < LETTER:
            soft = soft and kind == SOFT
            signs |= info
            glue = info
            place += 1
            continue
        start, high, low, upper, cased = place, START_A, START_B, 0, 0
        while True:
            folded = code if code >= TABLE_CHARACTERS else info & FOLD_MASK
            if folded != 0 and place - start < MAX_HASHED_CHARACTERS:
                high = ((high ^ folded) * PRIME_A) & MASK_31
                low = ((low + folded) * PRIME_B) & MASK_31
            upper += (info & UPPER_CHAR) != 0
            cased += (info & CASED_CHAR) != 0
            place += 1
            if place == end or kind == UNSPACED:
                break
            code = codes[place]
            info = char_info[fold_index(code)]
            if (info >> KIND_SHIFT) & KIND_MASK != kind:
                break
        flags = min(upper, 255) | min(cased, 255) << CASED_SHIFT
        if count == first:
            flags |= OPENS
        else:
            gap = start - gap_start
            if signs & OPENS_CHAR:
                flags |= OPENS
            if gap == 1:
                flags |= SPACED if codes[gap_start] == SPACE else 0
                flags |= GLUED if glue & GLUE_CHAR else 0
            if soft and gap <= MAX_JOIN_CHARACTERS:
                sentence_end = gap > 1 and codes[gap_start] == PERIOD
                if sentence_end:  # unless it is an abbreviation
                    sentence_end = ends[count - 1] - starts[count - 1] > LONGEST_ABBREVIATION or infos[count - 1] & UPPER_MASK == 0
                flags |= 0 if sentence_end else JOINED
        starts[count] = start
        ends[count] = place
        hashes[count] = mix(high, low)
        infos[count] = flags
        count += 1
        soft, signs, gap_start, glue = True, 0, place, 0
    return count


def scan_documents(codes, bounds, char_info, words, word_bounds):
    """`scan_words` for every document; document d has the characters bounds[d] to bounds[d + 1] and gets the words word_bounds[d] to [d + 1]."""
    count = 0
    for document in range(len(bounds) - 1):
        word_bounds[document] = count
        count = scan_words(codes, bounds[document], bounds[document + 1], char_info, words, count)
    word_bounds[len(bounds) - 1] = count
    return count


def look_up(phrase, slots):
    """The slot of a hash, 0 where it is absent; linear probing."""
    size = len(slots)
    place = ((phrase >> 31) * size) >> 31
    wanted = phrase & MASK_31
    slot = slots[place]
    while slot != 0:
        if slot >> SLOT_SHIFT == wanted:
            return slot
        place += 1
        if place == size:
            place = 0
        slot = slots[place]
    return slot


def may_begin_name(word, first_words):
    """Whether a hash is among those that `note_first_words` noted; one bit each, so some others pass as well."""
    place = ((word >> 31) * (len(first_words) << 3)) >> 31
    return first_words[place >> 3] >> (place & 7) & 1


def note_first_words(words, first_words):
    """Fill the filter that keeps most words of a text from being looked up in the table, which is too large for a processor's cache."""
    for number in range(len(words)):
        place = ((words[number] >> 31) * (len(first_words) << 3)) >> 31
        first_words[place >> 3] |= 1 << (place & 7)


def insert_slots(keys, values, slots):
    """Fill an empty table; return how many keys it cannot tell from an earlier one (about one in 2^31)."""
    size, lost = len(slots), 0
    for number in range(len(keys)):
        key = keys[number]
        if look_up(key, slots) != 0:
            lost += 1
            continue
        place = ((key >> 31) * size) >> 31
        while slots[place] != 0:
            place = place + 1 if place + 1 < size else 0
        slots[place] = (key & MASK_31) << SLOT_SHIFT | values[number]
    return lost


def find_names(words, word_bounds, slots, first_words, names, name_bounds):
    """Every run of words that is a known name, by last word, the longest first.

    Returns the number of matches; if that is more than there is room for, the arrays hold nothing of use.
    """
    firsts, lasts, forms, hashes, infos = names.first, names.last, names.form, words.hash, words.info
    count, room = 0, len(firsts)
    for document in range(len(word_bounds) - 1):
        name_bounds[document] = count
        end = word_bounds[document + 1]
        for first in range(word_bounds[document], end):
            phrase, last = hashes[first], first
            if not may_begin_name(phrase, first_words):
                continue
            while True:
                slot = look_up(phrase, slots)
                if slot == 0:
                    break
                if slot & FORM_MASK:
                    if count < room:
                        place = count
                        while place > name_bounds[document] and lasts[place - 1] > last:
                            firsts[place] = firsts[place - 1]
                            lasts[place] = lasts[place - 1]
                            forms[place] = forms[place - 1]
                            place -= 1
                        firsts[place] = first
                        lasts[place] = last
                        forms[place] = (slot & FORM_MASK) - 1
                    count += 1
                last += 1
                if slot & CONTINUES == 0 or last == end or last - first == MAX_WORDS or infos[last] & JOINED == 0:
                    break
                phrase = combine(phrase, hashes[last])
    name_bounds[len(word_bounds) - 1] = count
    return count


def phrase_hashes(words, word_bounds, hashes, bounds):
    """The hashes of the beginnings of each name, bounds[n] to bounds[n + 1]; the last one is the whole name's."""
    count = 0
    for name in range(len(word_bounds) - 1):
        bounds[name] = count
        phrase = 0
        for word in range(word_bounds[name], word_bounds[name + 1]):
            phrase = combine(phrase, words.hash[word]) if word > word_bounds[name] else words.hash[word]
            hashes[count] = phrase
            count += 1
    bounds[len(word_bounds) - 1] = count


def shape_of(upper, cased):
    """How a name is written, from its counts of capitals and of letters that have case."""
    if cased == 0:
        return UNCASED
    if upper == 0:
        return LOWER
    return ALL_CAPITALS if upper == cased and cased > 1 else CAPITALISED


def span_shape(words, first, last):
    """`shape_of` the words first to last."""
    infos = words.info
    upper, cased = 0, 0
    for word in range(first, last + 1):
        upper += infos[word] & UPPER_MASK
        cased += (infos[word] >> CASED_SHIFT) & 255
    return shape_of(upper, cased)


def exact_hash(codes, words, first, last):
    """24 bits that tell spellings of the same words apart: case and accents, not the signs between the words."""
    starts, ends = words.start, words.end
    high, low = START_A, START_B
    for word in range(first, last + 1):
        for place in range(starts[word], ends[word]):
            high, low = ((high ^ codes[place]) * PRIME_A) & MASK_31, ((low + codes[place]) * PRIME_B) & MASK_31
        high = ((high ^ SPACE) * PRIME_A) & MASK_31
    return mix(high, low) & EXACT_MASK


def name_details(codes, words, word_bounds, details):
    """For each name, one number: `exact_hash` above `shape_of`."""
    for name in range(len(word_bounds) - 1):
        first, last = word_bounds[name], word_bounds[name + 1] - 1
        details[name] = exact_hash(codes, words, first, last) << 2 | span_shape(words, first, last) if last >= first else 0
