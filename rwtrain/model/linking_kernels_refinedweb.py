"""The entity linker's inner loops: one scalar implementation, compiled by numba where it is installed, plain Python otherwise.

Every function works on integers below 2^63 and float64, so that both ways give equal bits: hashes are made of 31-bit products, and vectors are
small integers. `kernels(compiled=True)` returns the functions over NumPy arrays; `kernels(compiled=False)` the same functions,
to be called with memoryviews (see `views`), whose items are Python numbers. Self-contained: exported model folders carry a copy.
"""

from __future__ import annotations

import math
from collections import namedtuple
from functools import lru_cache
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np

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

# `form_info`
COMMON, DATE, DIGITS, WITH_PERIOD, HAS_LABEL, SHAPES_SHIFT, POPULARITY_SHIFT = 1, 2, 4, 8, 16, 6, 10
# `candidate_info`: how the name is written (two bits), its kind (two bits), 24 bits of the hash of its exact spelling.
LOWER, CAPITALISED, ALL_CAPITALS, UNCASED = 0, 1, 2, 3
ALIAS, LABEL, QUALIFIED = 0, 1, 2  # a qualified name says more than the name ("Paris, Texas"): evidence, but no mention by itself
EXACT_MASK = (1 << 24) - 1
PERSON = 1  # `entity_info`, bit 0; popularity in the other seven

MENTION_FEATURES = (
    "bias", "shape", "exact", "label", "popularity", "several_words", "length", "lower", "acronym", "common", "opens_sentence", "beside_capital",
    "digits", "date", "ambiguity", "named", "overlap", "coherence", "last_name", "first_name", "name_part", "several_lower", "after_article", "share", "kind",
)  # fmt: skip
CANDIDATE_FEATURES = ("prior", "shape", "exact", "label", "popularity", "named", "overlap", "coherence", "part", "qualified")
MENTION_WIDTH, CANDIDATE_WIDTH = len(MENTION_FEATURES), len(CANDIDATE_FEATURES)
SHARE, OVERLAP, COHERENCE, NAMED, KIND = 23, 16, 17, 15, 24  # places in MENTION_FEATURES
C_NAMED, C_OVERLAP, C_COHERENCE = 5, 6, 7  # places in CANDIDATE_FEATURES
LAST_NAME, FIRST_NAME, NAME_PART, ENTITY_NAMED = 0, 1, 2, 3
PART_PRIOR = -2.0  # log prior of an entity that is meant by a part of its name

WINDOW_WORDS = 50  # on each side, for words about an entity
WINDOW_MENTIONS = 8  # on each side, for coherence
RECENT_SLOTS = 8192
STANDS_SCORE, NAMED_SCORE, LINKED_SCORE = 0.3, 0.5, 0.5
ABOUT_SCALE = 1.0 / 255.0
MOST_FROM_KIND = 1.0  # what a kind of entity may add before a name is looked at closely

Table = namedtuple(
    "Table",
    "char_info slots first_words form_start form_info candidate_entity candidate_info candidate_prior entity_info about_start about_word "
    "about_weight coherence dimension shape_logs mention_weights candidate_weights kind_weights",
)
Words = namedtuple("Words", "start end hash info")
Names = namedtuple("Names", "first last form forced")
Spots = namedtuple("Spots", "first last form begin features score best")
Candidates = namedtuple("Candidates", "entity kind features score")
Scratch = namedtuple("Scratch", "recent part_key part_entity part_kind stands context")


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


def entity_key(entity, document):
    """A hash that stands for an entity in one document."""
    return mix((entity * COMBINE_A + document) & MASK_31, (document * COMBINE_B + entity) & MASK_31)


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


def dot(weights, features, base, width):
    """Weighted sum of one row of features."""
    total = 0.0
    for place in range(width):
        total += weights[place] * features[base + place]
    return total


def sigmoid(value):
    """1 / (1 + e^-value) without overflow."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    power = math.exp(value)
    return power / (1.0 + power)


def remember_word(recent, short, word):
    """Note where a word (30 bits of its hash) stood last; another word may take its slot."""
    recent[short & (RECENT_SLOTS - 1)] = short << 32 | word


def near_words(table, entity, recent, low, high):
    """Weight of the words about an entity that stand in the words low to high, as last noted."""
    starts, abouts, weights = table.about_start, table.about_word, table.about_weight
    total = 0
    for place in range(starts[entity], starts[entity + 1]):
        short = abouts[place]
        entry = recent[short & (RECENT_SLOTS - 1)]
        if entry >> 32 == short and low <= entry & MASK_32 < high:
            total += weights[place]
    return total * ABOUT_SCALE


def remember_part(scratch, key, entity, kind):
    """Note which entity a hash (of a part of a name, or of an entity) stands for from now on."""
    keys = scratch.part_key
    size = len(keys)
    place = ((key >> 31) * size) >> 31
    while keys[place] != 0 and keys[place] != key:
        place = place + 1 if place + 1 < size else 0
    keys[place] = key
    scratch.part_entity[place] = entity
    scratch.part_kind[place] = kind


def recall_part(scratch, key):
    """The place of what `remember_part` noted, or -1."""
    keys = scratch.part_key
    size = len(keys)
    place = ((key >> 31) * size) >> 31
    while keys[place] != 0:
        if keys[place] == key:
            return place
        place = place + 1 if place + 1 < size else 0
    return -1


def part_of_name(words, word, slots):
    """Whether a word may stand for a name that it begins or ends: capitalised, of three letters or more, and no everyday word."""
    if words.info[word] & UPPER_MASK == 0 or words.end[word] - words.start[word] < 3:
        return False
    return look_up(words.hash[word], slots) & COMMON_WORD == 0


def remember_name(table, words, scratch, document, first, last, entity, kind):
    """Note that an entity was named by several words: it may be called by the first or the last one from now on."""
    remember_part(scratch, entity_key(entity, document), entity, ENTITY_NAMED)
    if kind == QUALIFIED:
        return
    person = table.entity_info[entity] & PERSON
    if part_of_name(words, first, table.slots):
        remember_part(scratch, combine(words.hash[first], document), entity, FIRST_NAME if person else NAME_PART)
    if part_of_name(words, last, table.slots):
        remember_part(scratch, combine(words.hash[last], document), entity, LAST_NAME if person else NAME_PART)


def text_shape(words, word_begin, word_end, first, last):
    """How the text writes a name; capitals among capitals ("PARIS TALKS FAIL") say no more than one capital does."""
    infos = words.info
    shape = span_shape(words, first, last)
    if shape == ALL_CAPITALS:
        for word in (first - 1, last + 1):
            if word_begin <= word < word_end:
                info = infos[word]
                if info & UPPER_MASK > 2 and info & UPPER_MASK == (info >> CASED_SHIFT) & 255:
                    return CAPITALISED
    return shape


def beside_capital(words, word_begin, word_end, first, last):
    """Whether a name may be part of a longer, unknown one ("Paul" in "Paul Newton"): a capitalised word stands beside it."""
    infos = words.info
    if first > word_begin and infos[first] & SPACED and infos[first - 1] & UPPER_MASK and infos[first - 1] & OPENS == 0:
        return True
    return last + 1 < word_end and infos[last + 1] & SPACED != 0 and infos[last + 1] & UPPER_MASK != 0


def describe_name(table, words, word_begin, word_end, first, last, form, shape, features, base):
    """Fill what is known of a match before its candidates are looked at; the rest as favourable as it can be."""
    infos, hashes, form_info, shape_logs, form_start = words.info, words.hash, table.form_info, table.shape_logs, table.form_start
    for place in range(MENTION_WIDTH):
        features[base + place] = 0.0
    info = form_info[form] if form >= 0 else 0
    several = last > first
    best = 0.0 if form < 0 else -10.0
    for written in range(4):
        if form >= 0 and info >> (SHAPES_SHIFT + written) & 1:
            best = max(best, shape_logs[several * 16 + written * 4 + shape])
    opens = infos[first] & OPENS != 0
    features[base] = 1.0
    features[base + 1] = best
    features[base + 2] = 1.0
    features[base + 3] = (info & HAS_LABEL) != 0
    features[base + 4] = (info >> POPULARITY_SHIFT) / 127.0
    features[base + 5] = several
    features[base + 6] = (min(words.end[last] - words.start[first], 12) - 6) / 6.0
    features[base + 7] = shape == LOWER and not several
    features[base + 8] = shape == ALL_CAPITALS
    features[base + 9] = (info & COMMON) != 0 and shape != ALL_CAPITALS
    features[base + 10] = opens and not several and shape == CAPITALISED
    features[base + 11] = shape == CAPITALISED and beside_capital(words, word_begin, word_end, first, last)
    features[base + 12] = (info & DIGITS) != 0
    features[base + 13] = (info & DATE) != 0
    candidates = form_start[form + 1] - form_start[form] if form >= 0 else 1
    features[base + 14] = (candidates - 1) / (candidates + 1.0)
    features[base + OVERLAP] = 1.0
    features[base + 21] = shape == LOWER and several
    features[base + 22] = first > word_begin and infos[first] & OPENS == 0 and hashes[first - 1] == HASH_OF_THE
    features[base + SHARE] = 1.0
    features[base + KIND] = MOST_FROM_KIND if len(table.kind_weights) else 0.0


def add_candidate(table, scratch, candidates, place, entity, kind, prior, compatible, exact, part, document, low, high):
    """Write one candidate with its features; the words and mentions after it are added later."""
    features, entity_info = candidates.features, table.entity_info
    base = place * CANDIDATE_WIDTH
    candidates.entity[place] = entity
    candidates.kind[place] = kind
    features[base] = prior
    features[base + 1] = compatible
    features[base + 2] = exact
    features[base + 3] = kind == LABEL
    features[base + 4] = (entity_info[entity] >> 1) / 127.0
    features[base + C_NAMED] = recall_part(scratch, entity_key(entity, document)) >= 0
    features[base + C_OVERLAP] = near_words(table, entity, scratch.recent, low, high)
    features[base + C_COHERENCE] = 0.0
    features[base + 8] = part
    features[base + 9] = kind == QUALIFIED


def add_candidates(codes, table, words, scratch, spots, candidates, number, total, shape, part, document, word_begin):
    """Write the candidates of a spot from place `total` on; return the place behind the last."""
    entities, infos, priors, shape_logs, candidate_features, features, form_start = (
        table.candidate_entity,
        table.candidate_info,
        table.candidate_prior,
        table.shape_logs,
        candidates.features,
        spots.features,
        table.form_start,
    )
    first, last, form = spots.first[number], spots.last[number], spots.form[number]
    low, several = max(first - WINDOW_WORDS, word_begin), last > first
    spelled = exact_hash(codes, words, first, last)
    base = number * MENTION_WIDTH
    exact, named, meant, begin = False, False, -1, total
    if part >= 0:
        meant = scratch.part_entity[part]
        features_of_part = 18 if scratch.part_kind[part] == LAST_NAME else 19 if scratch.part_kind[part] == FIRST_NAME else 20
        features[base + features_of_part] = 1.0
    if form >= 0:
        for place in range(form_start[form], form_start[form + 1]):
            entity, info = entities[place], infos[place]
            same = info >> 4 == spelled
            compatible = shape_logs[several * 16 + (info & 3) * 4 + shape]
            add_candidate(table, scratch, candidates, total, entity, info >> 2 & 3, priors[place], compatible, same, entity == meant, document, low, first)
            exact = exact or same
            named = named or candidate_features[total * CANDIDATE_WIDTH + C_NAMED] > 0
            if entity == meant:
                meant = -1
            total += 1
    if meant >= 0:
        add_candidate(table, scratch, candidates, total, meant, ALIAS, PART_PRIOR, 0.0, True, True, document, low, first)
        exact, named, total = True, True, total + 1
    features[base + 2] = exact
    features[base + 8] = features[base + 8] * exact
    features[base + NAMED] = named
    spots.begin[number] = begin
    spots.begin[number + 1] = total
    return total


def score_spot(table, spots, candidates, number):
    """Fill a spot's score: the probability that it is a mention at all, times the best candidate's share among the candidates."""
    scores, features, candidate_features, kind_weights, coherence, candidate_weights = (
        candidates.score,
        spots.features,
        candidates.features,
        table.kind_weights,
        table.coherence,
        table.candidate_weights,
    )
    begin, end = spots.begin[number], spots.begin[number + 1]
    best, highest, total = begin, -1e300, 0.0
    for place in range(begin, end):
        logit = dot(candidate_weights, candidate_features, place * CANDIDATE_WIDTH, CANDIDATE_WIDTH)
        scores[place] = logit
        if logit > highest:
            best, highest = place, logit
    for place in range(begin, end):
        scores[place] = math.exp(scores[place] - highest)
        total += scores[place]
    base = number * MENTION_WIDTH
    features[base + OVERLAP] = min(candidate_features[best * CANDIDATE_WIDTH + C_OVERLAP], 3.0)
    features[base + COHERENCE] = candidate_features[best * CANDIDATE_WIDTH + C_COHERENCE]
    features[base + SHARE] = scores[best] / total
    kind, row = 0.0, candidates.entity[best] * table.dimension
    for place in range(len(kind_weights)):
        kind += kind_weights[place] * coherence[row + place]
    features[base + KIND] = kind
    mention = sigmoid(dot(table.mention_weights, features, base, MENTION_WIDTH))
    for place in range(begin, end):
        scores[place] = mention * scores[place] / total
    spots.best[number] = best
    spots.score[number] = scores[best]


def add_coherence(table, spots, candidates, scratch, number, stand, stop, step):
    """Add to the candidates' coherence: the cosine of their vectors with the sum of up to eight neighbouring mentions' vectors.

    The neighbours are the stands from place `stand` to before `stop`, those that overlap the spot left out.
    """
    coherence, stands, entities, firsts, lasts, bests, features = (
        table.coherence,
        scratch.stands,
        candidates.entity,
        spots.first,
        spots.last,
        spots.best,
        candidates.features,
    )
    width, context, taken = table.dimension, scratch.context, 0
    for place in range(width):
        context[place] = 0
    while stand != stop and taken < WINDOW_MENTIONS:
        other = stands[stand]
        if (step < 0 and lasts[other] < firsts[number]) or (step > 0 and firsts[other] > lasts[number]):
            row = entities[bests[other]] * width
            vector = coherence[row : row + width]
            for place in range(width):
                context[place] += vector[place]
            taken += 1
        stand += step
    if taken == 0:
        return
    size = 0
    for place in range(width):
        size += context[place] * context[place]
    scale = 1.0 / (127.0 * (math.sqrt(size) + 64.0))  # little context counts little
    for candidate in range(spots.begin[number], spots.begin[number + 1]):
        row, product = entities[candidate] * width, 0
        vector = coherence[row : row + width]
        for place in range(width):
            product += context[place] * vector[place]
        features[candidate * CANDIDATE_WIDTH + C_COHERENCE] += product * scale


def support_parts(table, spots, candidates, number, spot_begin):
    """A qualified name ("Paris, Texas") says who is meant by the name inside it."""
    best = spots.best[number]
    if candidates.kind[best] != QUALIFIED or spots.score[number] < NAMED_SCORE:
        return
    other = number - 1
    while other >= spot_begin and spots.last[other] >= spots.first[number]:
        for place in range(spots.begin[other], spots.begin[other + 1]):
            if candidates.entity[place] == candidates.entity[best] and spots.first[other] >= spots.first[number]:
                candidates.features[place * CANDIDATE_WIDTH + C_NAMED] = 1.0
                spots.features[other * MENTION_WIDTH + NAMED] = 1.0
        other -= 1


def collect_spots(codes, table, words, word_bounds, names, name_bounds, spots, spot_bounds, candidates, scratch, left_context, floor):
    """From known names to scored spots, one document after the other, each from left to right; returns the number of spots.

    Matches whose mention logit cannot reach `floor` are left out, unless `names.forced` says otherwise; they influence no other spot.
    With `left_context` the scores are final: they depend on nothing behind a spot's last word (and a period that belongs to it).
    """
    (
        infos,
        hashes,
        starts,
        ends,
        name_firsts,
        name_lasts,
        name_forms,
        name_forced,
        firsts,
        lasts,
        scores,
        features,
        bests,
        stands,
        recent,
        entities,
        kinds,
        mention_weights,
    ) = (
        words.info,
        words.hash,
        words.start,
        words.end,
        names.first,
        names.last,
        names.form,
        names.forced,
        spots.first,
        spots.last,
        spots.score,
        spots.features,
        spots.best,
        scratch.stands,
        scratch.recent,
        candidates.entity,
        candidates.kind,
        table.mention_weights,
    )
    count, total = 0, 0
    for document in range(len(word_bounds) - 1):
        spot_bounds[document] = count
        word_begin, word_end = word_bounds[document], word_bounds[document + 1]
        name, name_end, stand_count = name_bounds[document], name_bounds[document + 1], 0
        for word in range(word_begin, word_end):
            seen_end = word + 1 if left_context else word_end
            part = -1
            if infos[word] & UPPER_MASK and ends[word] - starts[word] >= 3:
                part = recall_part(scratch, combine(hashes[word], document))
            begin, alone = count, False
            while True:
                if name < name_end and name_lasts[name] == word:
                    first, form, forced = name_firsts[name], name_forms[name], name_forced[name] != 0
                    name += 1
                elif part >= 0 and not alone:
                    first, form, forced = word, -1, False
                else:
                    break
                alone = alone or first == word
                if (infos[first] & GLUED or (word + 1 < seen_end and infos[word + 1] & GLUED)) and not forced:
                    continue
                shape = text_shape(words, word_begin, seen_end, first, word)
                describe_name(table, words, word_begin, seen_end, first, word, form, shape, features, count * MENTION_WIDTH)
                meant = part if first == word else -1
                if meant < 0 and not forced and dot(mention_weights, features, count * MENTION_WIDTH, MENTION_WIDTH) < floor:
                    continue
                firsts[count] = first
                lasts[count] = word
                spots.form[count] = form
                total = add_candidates(codes, table, words, scratch, spots, candidates, count, total, shape, meant, document, word_begin)
                if table.dimension and stand_count:
                    add_coherence(table, spots, candidates, scratch, count, stand_count - 1, -1, -1)
                score_spot(table, spots, candidates, count)
                count += 1
            for number in range(begin, count):
                if lasts[number] > firsts[number] and scores[number] >= NAMED_SCORE:
                    best = bests[number]
                    remember_name(table, words, scratch, document, firsts[number], word, entities[best], kinds[best])
                    if not left_context:
                        support_parts(table, spots, candidates, number, spot_bounds[document])
            if count > begin and scores[begin] >= STANDS_SCORE:
                stands[stand_count] = begin
                stand_count += 1
            remember_word(recent, hashes[word] & MASK_30, word)
        if not left_context:
            look_right(table, words, word_end, spots, spot_bounds[document], count, candidates, scratch, stand_count)
    spot_bounds[len(word_bounds) - 1] = count
    return count


def look_right(table, words, word_end, spots, begin, end, candidates, scratch, stand_count):
    """Add what stands to the right of the spots begin to end, and score them again."""
    features, entities, lasts, begins, hashes, recent, stands = (
        candidates.features,
        candidates.entity,
        spots.last,
        spots.begin,
        words.hash,
        scratch.recent,
        scratch.stands,
    )
    word, stand = word_end - 1, stand_count
    for number in range(end - 1, begin - 1, -1):
        last = lasts[number]
        while word > last:
            remember_word(recent, hashes[word] & MASK_30, word)
            word -= 1
        for place in range(begins[number], begins[number + 1]):
            near = near_words(table, entities[place], recent, last + 1, last + 1 + WINDOW_WORDS)
            features[place * CANDIDATE_WIDTH + C_OVERLAP] += near
        if table.dimension:
            while stand > 0 and lasts[stands[stand - 1]] > last:
                stand -= 1
            if stand < stand_count:
                add_coherence(table, spots, candidates, scratch, number, stand, stand_count, 1)
    for number in range(begin, end):
        score_spot(table, spots, candidates, number)


def choose_spots(words, word_bounds, spots, spot_bounds, candidates, left_context, longest, chosen, chosen_word):
    """Which spots are mentions, not overlapping; returns their number, `chosen` the spots and `chosen_word` their first words.

    With both sides read: leftmost, then longest; a name that is no mention gives way to a shorter one. With `left_context`: at every word, the
    longest name that ends there; its span begins after the mention before. A qualified name is no mention, the name inside it may be.
    """
    count = 0
    for document in range(len(spot_bounds) - 1):
        free = word_bounds[document]
        for number in range(spot_bounds[document], spot_bounds[document + 1]):
            if spots.score[number] < LINKED_SCORE or candidates.kind[spots.best[number]] == QUALIFIED:
                continue
            if not left_context:
                longest[spots.first[number]] = number + 1
            elif spots.last[number] >= free:
                chosen[count] = number
                chosen_word[count] = max(spots.first[number], free)
                count += 1
                free = spots.last[number] + 1
        word = free
        while not left_context and word < word_bounds[document + 1]:
            number = longest[word] - 1
            if number >= 0:
                chosen[count] = number
                chosen_word[count] = word
                count += 1
                word = spots.last[number]
            word += 1
    return count


def span_ends(codes, bounds, table, words, spots, spot_bounds, ends):
    """Where each spot ends; "U.S" and "Inc" take the period that follows them, if a name is written so."""
    for document in range(len(spot_bounds) - 1):
        for number in range(spot_bounds[document], spot_bounds[document + 1]):
            end, form = words.end[spots.last[number]], spots.form[number]
            period = form >= 0 and table.form_info[form] & WITH_PERIOD != 0
            ends[number] = end + 1 if period and end < bounds[document + 1] and codes[end] == PERIOD else end


FUNCTIONS = (
    fold_index, mix, combine, entity_key, scan_words, scan_documents, look_up, may_begin_name, note_first_words, insert_slots, find_names, phrase_hashes,
    shape_of, span_shape, exact_hash, name_details, dot, sigmoid, remember_word, near_words, remember_part, recall_part, part_of_name, remember_name,
    text_shape, beside_capital, describe_name, add_candidate, add_candidates, score_spot, add_coherence, support_parts, look_right, collect_spots,
    choose_spots, span_ends,
)  # fmt: skip

# Compiled into their callers, as passing many arrays costs more than what these do.
INLINED = (
    remember_word, near_words, remember_part, recall_part, part_of_name, remember_name, text_shape, beside_capital, describe_name, add_candidate,
    add_candidates, score_spot, add_coherence, support_parts, look_right,
)  # fmt: skip


@lru_cache(maxsize=2)
def kernels(*, compiled: bool) -> Any:
    """The functions of this file as attributes; `compiled` needs numba and raises `ImportError` without it."""
    if not compiled:
        return SimpleNamespace(compiled=False, **{function.__name__: function for function in FUNCTIONS})
    import numba

    def machine_code(function: Any, inline: str) -> Any:
        # These functions make no arrays, so numba need not count references to those they are given, which would take half of the time.
        njit: Any = numba.njit
        options = {"nogil": True, "cache": True, "inline": inline}
        try:
            return njit(_nrt=False, **options)(function)
        except KeyError:  # a numba without this option
            return njit(**options)(function)

    # Copies, so that the functions of this module stay plain Python: a function finds the ones it calls in its globals.
    namespace = dict(globals())
    for function in FUNCTIONS:
        copy = FunctionType(function.__code__, namespace, function.__name__, function.__defaults__)
        copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
        namespace[function.__name__] = machine_code(copy, "always" if function in INLINED else "never")
    return SimpleNamespace(compiled=True, **{function.__name__: namespace[function.__name__] for function in FUNCTIONS})


def views(arrays: Any) -> Any:
    """A named tuple of arrays, or one array, as memoryviews: plain Python reads and writes their items several times faster."""
    if isinstance(arrays, np.ndarray):
        buffer: Any = np.ascontiguousarray(arrays)
        return memoryview(buffer)
    if isinstance(arrays, tuple):
        return type(arrays)(*(views(entry) for entry in arrays))
    return arrays
