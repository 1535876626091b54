"""A tree that is being built: its arrays, what is added to them, and which open elements end where."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data_prep.html.compiled import compiled, part
from data_prep.html.tags import (
    ADDRESS,
    BARRIER,
    BODY,
    BUTTON,
    CAPTION,
    COLGROUP,
    DD,
    DIV,
    DT,
    ENDS_P,
    FOREIGN_OBJECT,
    HEADING,
    LI,
    LINE,
    MATH,
    OL,
    PREFORMATTED,
    RP,
    RT,
    SPACED,
    SPECIAL,
    SVG,
    TABLE,
    TBODY,
    TD,
    TFOOT,
    TH,
    THEAD,
    TR,
    UL,
    UNKNOWN,
    A,
    P,
)

DEEPEST = 512
OPEN, CLOSE, TEXT, BREAK = range(4)
# Columns of the stack of open elements.
TAG, NODE_NUMBER, OWNS = range(3)
# Columns of the builder's state: counts of what is written and open, where something began (-1: nowhere), the segment that text goes on in.
DEPTH, EVENTS, DROP_AT, LINK_AT, PARAGRAPHS, PREFORMATTEDS, FOREIGN, AFTER_SPACE, SEGMENT, NODES, SEGMENTS, BYTES, MATH_SEGMENT = range(13)
BLOCK = np.uint32(LINE | SPACED)
DOLLAR = np.uint8(36)


class Builder(NamedTuple):
    """A tree that is being built: what `build_tree` returns, with room for more, and the open elements.

    Attributes:
        out: text, [bytes] uint8.
        events, nodes, flags, segments: as `build_tree` returns them.
        closed: the event at which each element closes, [nodes] int32.
        stack: tag, element, whether the element is its own, of each open element, [depth, 3] int32.
        names: hashes of their names, [depth] uint64.
        state: see the columns' names, int64.
    """

    out: np.ndarray
    events: np.ndarray
    nodes: np.ndarray
    flags: np.ndarray
    closed: np.ndarray
    segments: np.ndarray
    stack: np.ndarray
    names: np.ndarray
    state: np.ndarray


@compiled
def new_builder(data):
    size = data.size
    tags = 0
    for byte in data:
        tags += byte == 60
    builder = Builder(
        np.empty(size + size // 4 + 64, np.uint8),
        np.empty(5 * tags + 16, np.int32),
        np.empty((tags + 1, 4), np.int32),
        np.empty(tags + 1, np.uint32),
        np.empty(tags + 1, np.int32),
        np.empty((2 * tags + 4, 6), np.int32),
        np.zeros((DEEPEST, 3), np.int32),
        np.zeros(DEEPEST, np.uint64),
        np.zeros(13, np.int64),
    )
    state = builder.state
    state[DROP_AT] = state[LINK_AT] = state[SEGMENT] = -1
    state[AFTER_SPACE] = 1
    builder.stack[0, TAG], builder.stack[0, OWNS] = BODY, 1
    add_node(builder, BODY, -1, np.uint32(0))
    state[DEPTH] = 1
    return builder


@part
def add_event(builder, number, kind):
    builder.events[builder.state[EVENTS]] = number << 2 | kind
    builder.state[EVENTS] += 1


@part
def add_node(builder, tag, parent, flags):
    node = builder.state[NODES]
    builder.nodes[node, 0], builder.nodes[node, 1], builder.nodes[node, 2] = tag, parent, builder.state[EVENTS]
    builder.flags[node] = flags
    builder.state[NODES] += 1
    add_event(builder, node, OPEN)
    return node


@part
def add_segment(builder, characters, in_link):
    """Begin a run of text at the end of the text, in the innermost element."""
    state, segments = builder.state, builder.segments
    number = state[SEGMENTS]
    segments[number, 0] = builder.stack[state[DEPTH] - 1, NODE_NUMBER]
    segments[number, 1] = segments[number, 2] = state[BYTES]
    segments[number, 3], segments[number, 4], segments[number, 5] = characters, 0, in_link
    state[SEGMENTS] += 1
    add_event(builder, number, TEXT)
    return number


@part
def put(builder, byte):
    builder.out[builder.state[BYTES]] = byte
    builder.state[BYTES] += 1


@part
def pop_to(depth, builder, properties):
    """Close the open elements above `depth`."""
    stack, state = builder.stack, builder.state
    for index in range(state[DEPTH] - 1, depth - 1, -1):
        tag = stack[index, TAG]
        bits = properties[tag]
        if tag == P:
            state[PARAGRAPHS] -= 1
        elif tag in (SVG, MATH):
            state[FOREIGN] -= 1
        elif bits & PREFORMATTED:
            state[PREFORMATTEDS] -= 1
        if stack[index, OWNS]:
            node = stack[index, NODE_NUMBER]
            builder.closed[node] = state[EVENTS]
            add_event(builder, node, CLOSE)
            state[SEGMENT] = -1
            if bits & BLOCK or tag in (TD, TH):
                state[AFTER_SPACE] = 1
    state[DEPTH] = depth
    if state[DROP_AT] >= depth:
        state[DROP_AT] = -1
    if state[LINK_AT] >= depth:
        state[LINK_AT] = -1
        state[SEGMENT] = -1


@part
def find_p(stack, state, properties, floor):
    for index in range(state[DEPTH] - 1, floor - 1, -1):
        tag = stack[index, TAG]
        if tag == P:
            return index
        if properties[tag] & BARRIER or tag == BUTTON:
            break
    return -1


@part
def depth_before(tag, bits, stack, state, properties):
    """How many open elements stay open where an element begins, but for a paragraph that it ends."""
    floor = state[DROP_AT] + 1
    depth = state[DEPTH]
    if state[FOREIGN] > 0 and bits & ENDS_P:
        for index in range(depth - 1, -1, -1):
            above = stack[index, TAG]
            if above == FOREIGN_OBJECT:
                break
            if above in (SVG, MATH):
                return index
    if tag in (LI, DD, DT):
        for index in range(depth - 1, floor - 1, -1):
            above = stack[index, TAG]
            if above == tag or (tag != LI and above in (DD, DT)):
                return index
            if properties[above] & SPECIAL and above not in (ADDRESS, DIV, P):
                break
    elif tag in (TD, TH, TR, TBODY, THEAD, TFOOT, CAPTION, COLGROUP):
        for index in range(depth - 1, floor - 1, -1):
            above = stack[index, TAG]
            is_group = above in (TBODY, THEAD, TFOOT)
            if above == TABLE or (tag in (TD, TH) and (above == TR or is_group)) or (tag == TR and is_group):
                return index + 1
    elif depth > floor:
        above = stack[depth - 1, TAG]
        if (bits & HEADING and properties[above] & HEADING) or (tag in (RT, RP) and above in (RT, RP)) or (tag == A and state[LINK_AT] == depth - 1):
            return depth - 1
    return depth


@part
def depth_after(tag, key, bits, stack, names, state, properties):
    """How many open elements stay open behind an end tag."""
    depth = state[DEPTH]
    if tag == A:
        link = state[LINK_AT]
        if link >= 0:
            for index in range(depth - 1, link, -1):
                if properties[stack[index, TAG]] & SPECIAL:
                    state[LINK_AT] = -1
                    state[SEGMENT] = -1
                    return depth
            return link
    if tag == P:
        found = find_p(stack, state, properties, 0) if state[PARAGRAPHS] > 0 else -1
        return found if found >= 0 else depth
    is_part = tag in (TABLE, TBODY, THEAD, TFOOT, TR, TD, TH, CAPTION)
    for index in range(depth - 1, -1, -1):
        above = stack[index, TAG]
        above_bits = properties[above]
        if (bits & HEADING and above_bits & HEADING) or (above == tag and (tag != UNKNOWN or names[index] == key)):
            return index
        if is_part:
            if above == TABLE:
                break
        elif above_bits & BARRIER or (not bits & SPECIAL and above_bits & SPECIAL) or (tag == LI and above in (UL, OL)):
            break
    return depth
