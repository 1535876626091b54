"""The entity linker's kernels for decisions: from the names in a text to scored spots, and to the mentions among them.

How they are compiled or run as plain Python: `linking_kernels_refinedweb`.
"""

from __future__ import annotations

import math

from .linking_features_refinedweb import (
    C_COHERENCE,
    C_NAMED,
    C_OVERLAP,
    CANDIDATE_WIDTH,
    COHERENCE,
    KIND,
    MENTION_WIDTH,
    NAMED,
    OVERLAP,
    QUALIFIED,
    SHARE,
    WINDOW_WORDS,
    WITH_PERIOD,
    add_candidates,
    describe_name,
    near_words,
    recall_part,
    remember_name,
    remember_word,
    text_shape,
)
from .linking_words_refinedweb import GLUED, MASK_30, PERIOD, UPPER_MASK, combine

WINDOW_MENTIONS = 8  # on each side, for coherence
STANDS_SCORE, NAMED_SCORE, LINKED_SCORE = 0.3, 0.5, 0.5
LEAST_LOGIT = -1e300  # no spot is below it


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


def add_spot(codes, table, words, spots, candidates, scratch, number, total, first, last, form, meant, document, word_begin, seen_end, stand_count, least):
    """Write a spot of the words first to last with its candidates, from place `total` on, and score it with what stands to its left.

    Returns the place behind the last candidate, or -1 if the mention logit cannot reach `least`.
    """
    features = spots.features
    shape = text_shape(words, word_begin, seen_end, first, last)
    describe_name(table, words, word_begin, seen_end, first, last, form, shape, features, number * MENTION_WIDTH)
    if meant < 0 and dot(table.mention_weights, features, number * MENTION_WIDTH, MENTION_WIDTH) < least:
        return -1
    spots.first[number] = first
    spots.last[number] = last
    spots.form[number] = form
    total = add_candidates(codes, table, words, scratch, spots, candidates, number, total, shape, meant, document, word_begin)
    if table.dimension and stand_count:
        add_coherence(table, spots, candidates, scratch, number, stand_count - 1, -1, -1)
    score_spot(table, spots, candidates, number)
    return total


def remember_spots(table, words, spots, candidates, scratch, begin, end, document, left_context, spot_begin):
    """Note whom the spots begin to end name by several words."""
    firsts, lasts = spots.first, spots.last
    for number in range(begin, end):
        if lasts[number] > firsts[number] and spots.score[number] >= NAMED_SCORE:
            best = spots.best[number]
            remember_name(table, words, scratch, document, firsts[number], lasts[number], candidates.entity[best], candidates.kind[best])
            if not left_context:
                support_parts(table, spots, candidates, number, spot_begin)


def collect_spots(codes, table, words, word_bounds, names, name_bounds, spots, spot_bounds, candidates, scratch, left_context, floor):
    """From known names to scored spots, one document after the other, each from left to right; returns the number of spots.

    Matches whose mention logit cannot reach `floor` are left out, unless `names.forced` says otherwise; they influence no other spot.
    With `left_context` the scores are final: they depend on nothing behind a spot's last word (and a period that belongs to it).
    """
    infos, hashes, starts, ends, scores, stands, recent = words.info, words.hash, words.start, words.end, spots.score, scratch.stands, scratch.recent
    name_firsts, name_lasts, name_forms, name_forced = names.first, names.last, names.form, names.forced
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
                meant, least = part if first == word else -1, LEAST_LOGIT if forced else floor
                place = add_spot(
                    codes, table, words, spots, candidates, scratch, count, total, first, word, form, meant, document, word_begin, seen_end, stand_count, least
                )
                if place >= 0:
                    total = place
                    count += 1
            if count > begin:
                remember_spots(table, words, spots, candidates, scratch, begin, count, document, left_context, spot_bounds[document])
                if scores[begin] >= STANDS_SCORE:
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
