"""The entity linker's kernels for evidence: what the text and the table of names say about a name and about each entity that it may mean.

How they are compiled or run as plain Python: `linking_kernels_refinedweb`.
"""

from __future__ import annotations

from collections import namedtuple

from .linking_words_refinedweb import (
    ALL_CAPITALS,
    CAPITALISED,
    CASED_SHIFT,
    COMBINE_A,
    COMBINE_B,
    COMMON_WORD,
    HASH_OF_THE,
    LOWER,
    MASK_31,
    MASK_32,
    OPENS,
    SPACED,
    UPPER_MASK,
    combine,
    exact_hash,
    look_up,
    mix,
    span_shape,
)

# `form_info`
COMMON, DATE, DIGITS, WITH_PERIOD, HAS_LABEL, SHAPES_SHIFT, POPULARITY_SHIFT = 1, 2, 4, 8, 16, 6, 10
# `candidate_info`: how the name is written (two bits), its kind (two bits), `exact_hash`.
ALIAS, LABEL, QUALIFIED = 0, 1, 2  # a qualified name says more than the name ("Paris, Texas"): evidence, but no mention by itself
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
RECENT_SLOTS = 8192
ABOUT_SCALE = 1.0 / 255.0
MOST_FROM_KIND = 1.0  # what a kind of entity may add before a name is looked at closely

Table = namedtuple(
    "Table",
    "char_info slots first_words form_start form_info candidate_entity candidate_info candidate_prior entity_info about_start about_word "
    "about_weight coherence dimension shape_logs mention_weights candidate_weights kind_weights",
)
Spots = namedtuple("Spots", "first last form begin features score best")
Candidates = namedtuple("Candidates", "entity kind features score")
Scratch = namedtuple("Scratch", "recent part_key part_entity part_kind stands context")


def entity_key(entity, document):
    """A hash that stands for an entity in one document."""
    return mix((entity * COMBINE_A + document) & MASK_31, (document * COMBINE_B + entity) & MASK_31)


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
