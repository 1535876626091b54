"""The part of a page that is its text: paragraphs vote for the elements around them, as in Readability, and noise is cut out.

Every paragraph gives points to its ancestors, by its length and its commas; paragraphs inside elements whose names speak of comments,
menus or advertising count a tenth. The best element is widened until it holds most of the points of the page; then elements with such
names, and those that are mostly links, are taken out of it.
"""

from __future__ import annotations

import numpy as np

from data_prep.html.compiled import compiled
from data_prep.html.scanning import ASIDE_ROLE, COMMENTS, HIDDEN, NOISE
from data_prep.html.tags import ASIDE, BLOCKQUOTE, CLEANED_IF_NAMED, LI, LINKS, MATH, PREFORMATTED, SPAN, P

SHORTEST_PARAGRAPH, SHORTEST_OWN_TEXT = 25, 100
MOST_LINKS = 0.5
# A list, a table or a division with a larger share of link text is a list of links, a paragraph with a larger share a button or a heading of another page.
LINK_LIST, LINK_PARAGRAPH = 0.5, 0.65
NOISE_POINTS = 0.1
# An element with this share of all points is text, whatever it is called.
NEVER_NOISE = 0.4
# Readers' comments are often longer than the text; with a larger share they are the text, as in a forum.
NEVER_COMMENTS = 0.8
# The chosen element holds this share of all points.
WHOLE = 0.6
LARGEST_NOISE, LARGEST_LINK_LIST = 0.5, 0.3
# If names leave less than this share of the chosen element, they do not count.
LEAST_LEFT = 0.2
SCORE_OF_PARENT, SCORE_OF_GRANDPARENT = 0.5, 0.25
CHARACTERS, LINK_CHARACTERS, COMMAS = range(3)


@compiled
def count_text(nodes, segments):
    """Characters, characters of links and commas in each element's own text and in all its text, both [nodes, 3] int64."""
    own = np.zeros((len(nodes), 3), np.int64)
    for segment in range(len(segments)):
        node = segments[segment, 0]
        own[node, CHARACTERS] += segments[segment, 3]
        own[node, COMMAS] += segments[segment, 4]
        if segments[segment, 5]:
            own[node, LINK_CHARACTERS] += segments[segment, 3]
    inside = own.copy()
    for node in range(len(nodes) - 1, 0, -1):
        parent = nodes[node, 1]
        for column in range(3):
            inside[parent, column] += inside[node, column]
    return own, inside


@compiled
def _points(counts):
    return 1 + counts[COMMAS] + min(counts[CHARACTERS] / 100, 3)


@compiled
def _is_noise(bits, flags):
    """Whether an element's tag, names or attributes say that it is no main text."""
    return bits & ASIDE or flags & (NOISE | HIDDEN | ASIDE_ROLE)


@compiled
def _votes(nodes, flags, own, inside, properties):
    """Points that each element gives, by its own names and to whom: (points, holder), both [nodes]; no points for what does not vote."""
    points = np.zeros(len(nodes))
    holder = np.zeros(len(nodes), np.int32)
    for node in range(len(nodes)):
        tag = nodes[node, 0]
        bits = properties[tag]
        if node > 0 and (tag in (P, BLOCKQUOTE) or bits & PREFORMATTED):
            counts = inside[node]
            if counts[CHARACTERS] >= SHORTEST_PARAGRAPH and counts[LINK_CHARACTERS] <= MOST_LINKS * counts[CHARACTERS]:
                points[node] = _points(counts)
                holder[node] = nodes[node, 1]
        else:
            counts = own[node]
            if counts[CHARACTERS] - counts[LINK_CHARACTERS] >= SHORTEST_OWN_TEXT and counts[LINK_CHARACTERS] <= MOST_LINKS * counts[CHARACTERS]:
                points[node] = _points(counts)
                holder[node] = nodes[node, 1] if tag in (LI, SPAN) else node
    return points, holder


@compiled
def choose(nodes, flags, own, inside, properties):
    """The element with the most points from its nearest paragraphs, widened until it holds most of the page's points; -1 without votes."""
    size = len(nodes)
    points, holder = _votes(nodes, flags, own, inside, properties)
    raw = np.zeros(size)
    for node in range(size):
        raw[holder[node]] += points[node]
    for node in range(size - 1, 0, -1):
        raw[nodes[node, 1]] += raw[node]
    total = raw[0]
    if total == 0:
        return -1
    in_noise = np.zeros(size, np.bool_)
    for node in range(1, size):
        limit = (NEVER_COMMENTS if flags[node] & COMMENTS else NEVER_NOISE) * total
        in_noise[node] = in_noise[nodes[node, 1]] or (_is_noise(properties[nodes[node, 0]], flags[node]) and raw[node] < limit)
    score = np.zeros(size)
    held = np.zeros(size)
    for node in range(size):
        if points[node] == 0:
            continue
        value = points[node] * (NOISE_POINTS if in_noise[node] else 1.0)
        above = holder[node]
        held[above] += value
        score[above] += value
        if above > 0:
            above = nodes[above, 1]
            score[above] += SCORE_OF_PARENT * value
            if above > 0:
                score[nodes[above, 1]] += SCORE_OF_GRANDPARENT * value
    for node in range(size - 1, 0, -1):
        held[nodes[node, 1]] += held[node]
    top = 0
    for node in range(1, size):
        if score[node] > score[top] or top == 0:
            top = node
    while top > 0 and held[top] < WHOLE * held[0]:
        top = nodes[top, 1]
    return top


@compiled
def clean(top, nodes, flags, inside, properties):
    """Which elements inside the chosen one go, with all they hold, [nodes] bool."""
    gone, left = _mark(top, nodes, flags, inside, properties, True)
    if left < LEAST_LEFT * inside[top, CHARACTERS]:  # a forum's posts may all be named as comments
        gone, left = _mark(top, nodes, flags, inside, properties, False)
    return gone


@compiled
def _mark(top, nodes, flags, inside, properties, by_names):
    """What goes, judged by names also or by tags and links only, and how many characters are left."""
    gone = np.zeros(len(nodes), np.bool_)
    whole = left = inside[top, CHARACTERS]
    gone_until = 0
    node = top + 1
    while node < len(nodes) and nodes[node, 2] < nodes[top, 3]:
        bits = properties[nodes[node, 0]]
        length, links = inside[node, CHARACTERS], inside[node, LINK_CHARACTERS]
        shows_formula = node + 1 < len(nodes) and nodes[node + 1, 0] == MATH  # hidden where the page shows an image of it
        if (flags[node] & HIDDEN and not shows_formula) or flags[node] & ASIDE_ROLE or bits & ASIDE:
            gone[node] = length < LARGEST_NOISE * whole
        elif by_names and flags[node] & NOISE and bits & CLEANED_IF_NAMED:
            gone[node] = length < (NEVER_COMMENTS if flags[node] & COMMENTS else LARGEST_NOISE) * whole
        elif bits & LINKS:
            gone[node] = length < LARGEST_LINK_LIST * whole and links > (LINK_PARAGRAPH if nodes[node, 0] == P else LINK_LIST) * length
        if gone[node] and nodes[node, 2] >= gone_until:
            gone_until = nodes[node, 3]
            left -= length
        node += 1
    return gone, left
