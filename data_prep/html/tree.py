"""The elements of a page and its text, found in one pass over its bytes.

A tree builder that follows the standard (HTML Living Standard, section 13.2) in what decides where text belongs: void and raw-text
elements, omitted and misplaced end tags, tables, scopes. Inline elements are not kept, unless their names matter; elements nested more
than 512 deep are taken for part of the element around them, as browsers do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data_prep.html.builder import (
    AFTER_SPACE,
    BLOCK,
    BREAK,
    BYTES,
    DEEPEST,
    DEPTH,
    DOLLAR,
    DROP_AT,
    EVENTS,
    FOREIGN,
    LINK_AT,
    MATH_SEGMENT,
    NODE_NUMBER,
    NODES,
    OWNS,
    PARAGRAPHS,
    PREFORMATTEDS,
    SEGMENT,
    SEGMENTS,
    TAG,
    add_event,
    add_node,
    add_segment,
    depth_after,
    depth_before,
    find_p,
    new_builder,
    pop_to,
    put,
)
from data_prep.html.compiled import compiled, part
from data_prep.html.hashes import look_up
from data_prep.html.noise import ENDS, STEPS
from data_prep.html.references import C1, KEYS, VALUES
from data_prep.html.scanning import (
    ASIDE_ROLE,
    HIDDEN,
    KINDS,
    LINKED,
    MAIN_ROLE,
    NOISE,
    NOISE_ID,
    SECTION_CLASS,
    SELF_CLOSING,
    TEX,
    copy_text,
    find_raw_end,
    is_letter,
    read_attributes,
    read_name,
    skip_declaration,
)
from data_prep.html.tags import (
    ANNOTATION,
    BODY,
    BR,
    DROPPED,
    ENDS_P,
    FRAMESET,
    HEAD,
    HEADING,
    HR,
    HTML,
    MATH,
    NODE,
    PREFORMATTED,
    PROPERTIES,
    RAW,
    SCRIPT,
    SECTION,
    SVG,
    TAG_KEYS,
    TAG_VALUES,
    TD,
    TH,
    UNKNOWN,
    VOID,
    A,
    P,
)


class Tables(NamedTuple):
    """The tables of this package's modules."""

    tag_keys: np.ndarray
    tag_values: np.ndarray
    properties: np.ndarray
    steps: np.ndarray
    ends: np.ndarray
    kinds: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    c1: np.ndarray


TABLES = Tables(TAG_KEYS, TAG_VALUES, PROPERTIES, STEPS, ENDS, KINDS, KEYS, VALUES, C1)


@part
def _read_text(position, data, builder, tables):
    """Take in text up to the next tag; return where that is."""
    state = builder.state
    first = state[BYTES]
    position, count, after_space, characters, commas = copy_text(
        data, position, data.size, builder.out, first, state[AFTER_SPACE] == 1, state[PREFORMATTEDS] > 0, tables.kinds, tables.keys, tables.values, tables.c1
    )
    if state[DROP_AT] >= 0 or count == first:
        return position
    state[AFTER_SPACE] = 1 if after_space else 0
    if state[SEGMENT] < 0:
        state[SEGMENT] = add_segment(builder, 0, 1 if state[LINK_AT] >= 0 else 0)
    state[BYTES] = count
    segment = state[SEGMENT]
    builder.segments[segment, 2] = count
    builder.segments[segment, 3] += characters
    builder.segments[segment, 4] += commas
    return position


@part
def _end_tag(tag, key, bits, builder, tables):
    state = builder.state
    is_tex = tag == ANNOTATION and state[DROP_AT] < 0 and builder.stack[state[DEPTH] - 1, TAG] == ANNOTATION
    if is_tex and state[SEGMENT] >= 0:
        put(builder, DOLLAR)
        builder.segments[state[SEGMENT], 2] = state[BYTES]
        builder.segments[state[SEGMENT], 3] += 1
        state[AFTER_SPACE] = 0
    depth = depth_after(tag, key, bits, builder.stack, builder.names, state, tables.properties)
    if depth < state[DEPTH]:
        pop_to(depth, builder, tables.properties)


@part
def _close_before(tag, bits, builder, properties):
    """Close what ends where an element begins."""
    state = builder.state
    depth = depth_before(tag, bits, builder.stack, state, properties)
    if depth < state[DEPTH]:
        pop_to(depth, builder, properties)
    if bits & ENDS_P and state[PARAGRAPHS] > 0:
        depth = find_p(builder.stack, state, properties, state[DROP_AT] + 1)
        if depth >= 0:
            pop_to(depth, builder, properties)


@part
def _add_break(tag, builder):
    if builder.state[DROP_AT] < 0:
        add_event(builder, 1 if tag == HR else 0, BREAK)
        builder.state[SEGMENT] = -1
        builder.state[AFTER_SPACE] = 1


@part
def _add_script(position, end, data, builder):
    """A formula in TeX, in a script, as text."""
    segment = add_segment(builder, end - position + 2, 0)
    put(builder, DOLLAR)
    for index in range(position, end):
        put(builder, max(data[index], np.uint8(32)))
    put(builder, DOLLAR)
    builder.segments[segment, 2] = builder.state[BYTES]
    builder.state[SEGMENT] = -1
    builder.state[AFTER_SPACE] = 0


@part
def _push(tag, key, bits, position, data, builder):
    """Put an element on the stack; return where its content begins: the first line break of preformatted text does not count."""
    stack, state = builder.stack, builder.state
    depth = state[DEPTH]
    state[DEPTH] += 1
    stack[depth, TAG], stack[depth, NODE_NUMBER], stack[depth, OWNS] = tag, stack[depth - 1, NODE_NUMBER], 0
    builder.names[depth] = key
    if tag == P:
        state[PARAGRAPHS] += 1
    elif tag == SVG:
        state[FOREIGN] += 1
    elif tag == MATH:
        state[FOREIGN] += 1
        state[MATH_SEGMENT] = state[SEGMENTS]
    elif bits & PREFORMATTED:
        state[PREFORMATTEDS] += 1
        if position < data.size and data[position] == 10:
            position += 1
        elif position + 1 < data.size and data[position] == 13 and data[position + 1] == 10:
            position += 2
    return position


@part
def _open_element(tag, bits, flags, builder):
    """What an element on the stack that is not inside a dropped one means for text."""
    stack, state = builder.stack, builder.state
    depth = state[DEPTH] - 1
    is_tex = tag == ANNOTATION and flags & TEX and state[FOREIGN] > 0
    if bits & DROPPED and not is_tex:
        state[DROP_AT] = depth
        return
    if tag == A and flags & LINKED:
        state[LINK_AT] = depth
        state[SEGMENT] = -1
    if flags & NOISE_ID and not flags & SECTION_CLASS and tag != SECTION and not bits & HEADING:
        flags |= NOISE
    if bits & NODE or flags & (NOISE | HIDDEN | MAIN_ROLE | ASIDE_ROLE):
        stack[depth, NODE_NUMBER], stack[depth, OWNS] = add_node(builder, tag, stack[depth, NODE_NUMBER], flags), 1
        state[SEGMENT] = -1
        if bits & BLOCK or tag in (TD, TH):
            state[AFTER_SPACE] = 1
    if is_tex:
        # The formula in TeX stands for its glyphs.
        for segment in range(state[MATH_SEGMENT], state[SEGMENTS]):
            builder.segments[segment, 2] = builder.segments[segment, 1]
            builder.segments[segment, 3] = builder.segments[segment, 4] = 0
        state[SEGMENT] = add_segment(builder, 1, 0)
        put(builder, DOLLAR)
        builder.segments[state[SEGMENT], 2] = state[BYTES]
        state[AFTER_SPACE] = 1


@part
def _start_tag(tag, key, bits, flags, name, position, data, words, builder, tables):
    """Take in a start tag, whose name stands at `name`; return where to go on behind it."""
    state = builder.state
    _close_before(tag, bits, builder, tables.properties)
    is_dropped = state[DROP_AT] >= 0
    if tag in (BR, HR):
        _add_break(tag, builder)
        return position
    if bits & VOID or (flags & SELF_CLOSING and (state[FOREIGN] > 0 or tag in (SVG, MATH))):
        return position
    if bits & RAW and state[FOREIGN] == 0:
        end = find_raw_end(data, words, position, data.size, name[0], name[1])
        if tag == SCRIPT and flags & TEX and not is_dropped and end > position:
            _add_script(position, end, data, builder)
        return end
    if state[DEPTH] == DEEPEST:
        return position
    position = _push(tag, key, bits, position, data, builder)
    if not is_dropped:
        _open_element(tag, bits, flags, builder)
    return position


@part
def _skip(position, data, builder):
    """Behind a declaration, comment or processing instruction; the content of a CDATA section is text."""
    if builder.state[FOREIGN] > 0 and position + 8 < data.size and data[position + 2] == 91 and data[position + 3] == 67:
        return position + 9
    return skip_declaration(data, position, data.size)


@compiled
def build_tree(data, words, tables):
    """The tree of a page.

    Args:
        data: the page in UTF-8, [bytes] uint8.
        words: the same, eight bytes at a time, [bytes // 8] uint64.
        tables: `TABLES`.

    Returns:
        text: all text of the page, white space collapsed, [bytes] uint8.
        events: number << 2 | kind in the order of the page: an element opens or closes, a run of text, a break, [events] int32.
        nodes: tag, parent, first event, last event of each element, [nodes, 4] int32; the first is the body.
        flags: what each element's attributes say, [nodes] uint32.
        segments: element, first byte, end, characters, commas, whether it is inside a link, of each run of text, [segments, 6] int32.
    """
    size = data.size
    builder = new_builder(data)
    position = 3 if size >= 3 and data[0] == 0xEF and data[1] == 0xBB and data[2] == 0xBF else 0
    while position < size:
        markup = data[position] == 60 and position + 1 < size
        after = data[position + 1] if markup else np.uint8(0)
        is_end = after == 47
        if not markup or not (is_letter(after) or is_end or after == 33 or after == 63):
            position = _read_text(position, data, builder, tables)
            continue
        if after == 33 or after == 63 or (is_end and (position + 2 >= size or not is_letter(data[position + 2]))):
            position = _skip(position, data, builder)
            continue
        name_start = position + 1 + is_end
        name_end, key = read_name(data, name_start, size)
        tag = look_up(key, tables.tag_keys, tables.tag_values, np.int64(UNKNOWN))
        bits = tables.properties[tag]
        position, flags = read_attributes(data, name_end, size, tables.steps, tables.ends)
        if position > size:
            break
        if tag in (HTML, HEAD, BODY, FRAMESET):
            continue
        if is_end and tag != BR:
            _end_tag(tag, key, bits, builder, tables)
        else:
            position = _start_tag(tag, key, bits, flags, (name_start, name_end), position, data, words, builder, tables)
    pop_to(0, builder, tables.properties)
    state = builder.state
    nodes = builder.nodes[: state[NODES]]
    nodes[:, 3] = builder.closed[: state[NODES]]
    return builder.out[: state[BYTES]], builder.events[: state[EVENTS]], nodes, builder.flags[: state[NODES]], builder.segments[: state[SEGMENTS]]


def tree_of(page: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The tree of a page in UTF-8: see `build_tree`."""
    return build_tree(np.frombuffer(page, np.uint8), np.frombuffer(page, np.uint64, len(page) // 8), TABLES)
