"""The elements of a page and its text, found in one pass over its bytes.

A tree builder that follows the standard (HTML Living Standard, section 13.2) in what decides where text belongs: void and raw-text
elements, omitted and misplaced end tags, tables, scopes. Inline elements are not kept, unless their names matter; elements nested more
than 512 deep are taken for part of the element around them, as browsers do.
"""

from __future__ import annotations

import numpy as np

from data_prep.html.compiled import compiled
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
    ADDRESS,
    ANNOTATION,
    BARRIER,
    BODY,
    BR,
    BUTTON,
    CAPTION,
    COLGROUP,
    DD,
    DIV,
    DROPPED,
    DT,
    ENDS_P,
    FOREIGN_OBJECT,
    FRAMESET,
    HEAD,
    HEADING,
    HR,
    HTML,
    LI,
    LINE,
    MATH,
    NODE,
    OL,
    PREFORMATTED,
    PROPERTIES,
    RAW,
    RP,
    RT,
    SCRIPT,
    SECTION,
    SPACED,
    SPECIAL,
    SVG,
    TABLE,
    TAG_KEYS,
    TAG_VALUES,
    TBODY,
    TD,
    TFOOT,
    TH,
    THEAD,
    TR,
    UL,
    UNKNOWN,
    VOID,
    A,
    P,
)

DEEPEST = 512
OPEN, CLOSE, TEXT, BREAK = range(4)
# Columns of the stack of open elements.
TAG, NODE_NUMBER, OWNS = range(3)
# Columns of the builder's state.
DEPTH, EVENTS, DROP_AT, LINK_AT, PARAGRAPHS, PREFORMATTEDS, FOREIGN, AFTER_SPACE, SEGMENT = range(9)
BLOCK = np.uint32(LINE | SPACED)


@compiled
def _set_segment(segments, number, node, first, end, characters, in_link):
    segments[number, 0], segments[number, 1], segments[number, 2] = node, first, end
    segments[number, 3], segments[number, 4], segments[number, 5] = characters, 0, in_link


@compiled
def _set_node(nodes, number, tag, parent, event):
    nodes[number, 0], nodes[number, 1], nodes[number, 2] = tag, parent, event


@compiled
def _pop_to(depth, stack, state, events, closed, properties):
    """Close the open elements above `depth`."""
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
            events[state[EVENTS]] = node << 2 | CLOSE
            closed[node] = state[EVENTS]
            state[EVENTS] += 1
            state[SEGMENT] = -1
            if bits & BLOCK or tag in (TD, TH):
                state[AFTER_SPACE] = 1
    state[DEPTH] = depth
    if state[DROP_AT] >= depth:
        state[DROP_AT] = -1
    if state[LINK_AT] >= depth:
        state[LINK_AT] = -1
        state[SEGMENT] = -1


@compiled
def _find_p(stack, state, properties, floor):
    for index in range(state[DEPTH] - 1, floor - 1, -1):
        tag = stack[index, TAG]
        if tag == P:
            return index
        if properties[tag] & BARRIER or tag == BUTTON:
            break
    return -1


@compiled
def _depth_before(tag, bits, stack, state, properties):
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


@compiled
def _depth_after(tag, key, bits, stack, names, state, properties):
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
        found = _find_p(stack, state, properties, 0) if state[PARAGRAPHS] > 0 else -1
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


@compiled
def build_tree(data, words, tag_keys, tag_values, properties, steps, ends, kinds, keys, values, c1):
    """The tree of a page.

    Args:
        data: the page in UTF-8, [bytes] uint8.
        words: the same, eight bytes at a time, [bytes // 8] uint64.
        tag_keys: and the following: the tables of this package's modules.

    Returns:
        text: all text of the page, white space collapsed, [bytes] uint8.
        events: number << 2 | kind in the order of the page: an element opens or closes, a run of text, a break, [events] int32.
        nodes: tag, parent, first event, last event of each element, [nodes, 4] int32; the first is the body.
        flags: what each element's attributes say, [nodes] uint32.
        segments: element, first byte, end, characters, commas, whether it is inside a link, of each run of text, [segments, 6] int32.
    """
    size = data.size
    tags = 0
    for byte in data:
        tags += byte == 60
    out = np.empty(size + size // 4 + 64, np.uint8)
    events = np.empty(5 * tags + 16, np.int32)
    nodes = np.empty((tags + 1, 4), np.int32)
    flags_of = np.empty(tags + 1, np.uint32)
    closed = np.empty(tags + 1, np.int32)
    segments = np.empty((2 * tags + 4, 6), np.int32)
    stack = np.zeros((DEEPEST, 3), np.int32)
    names = np.zeros(DEEPEST, np.uint64)
    state = np.zeros(9, np.int64)
    state[DROP_AT] = state[LINK_AT] = state[SEGMENT] = -1
    state[AFTER_SPACE] = 1
    stack[0, TAG], stack[0, OWNS] = BODY, 1
    _set_node(nodes, 0, BODY, -1, 0)
    flags_of[0] = 0
    events[0] = OPEN
    state[DEPTH] = state[EVENTS] = 1
    node_count, segment_count, count = 1, 0, 0
    math_segment = 0
    position = 0
    if size >= 3 and data[0] == 0xEF and data[1] == 0xBB and data[2] == 0xBF:
        position = 3
    while position < size:
        markup = data[position] == 60 and position + 1 < size
        after = data[position + 1] if markup else np.uint8(0)
        if not markup or not (is_letter(after) or after == 47 or after == 33 or after == 63):
            first = count
            position, count, after_space, characters, commas = copy_text(
                data, position, size, out, count, state[AFTER_SPACE] == 1, state[PREFORMATTEDS] > 0, kinds, keys, values, c1
            )
            if state[DROP_AT] >= 0:
                count = first
            elif count > first:
                state[AFTER_SPACE] = 1 if after_space else 0
                segment = state[SEGMENT]
                if segment < 0:
                    segment = segment_count
                    segment_count += 1
                    _set_segment(segments, segment, stack[state[DEPTH] - 1, NODE_NUMBER], first, count, 0, 1 if state[LINK_AT] >= 0 else 0)
                    events[state[EVENTS]] = segment << 2 | TEXT
                    state[EVENTS] += 1
                    state[SEGMENT] = segment
                segments[segment, 2] = count
                segments[segment, 3] += characters
                segments[segment, 4] += commas
            continue
        is_end = after == 47
        if after == 33 or after == 63 or (is_end and (position + 2 >= size or not is_letter(data[position + 2]))):
            if state[FOREIGN] > 0 and position + 8 < size and data[position + 2] == 91 and data[position + 3] == 67:  # <![CDATA[
                position += 9
            else:
                position = skip_declaration(data, position, size)
            continue
        name_start = position + 1 + is_end
        name_end, key = read_name(data, name_start, size)
        tag = look_up(key, tag_keys, tag_values, np.int64(UNKNOWN))
        bits = properties[tag]
        position, flags = read_attributes(data, name_end, size, steps, ends)
        if position > size:
            break
        if tag in (HTML, HEAD, BODY, FRAMESET):
            continue
        if is_end and tag != BR:
            was_annotation = tag == ANNOTATION and state[DROP_AT] < 0 and stack[state[DEPTH] - 1, TAG] == ANNOTATION
            if was_annotation and state[SEGMENT] >= 0:
                out[count] = 36
                count += 1
                segments[state[SEGMENT], 2] = count
                segments[state[SEGMENT], 3] += 1
                state[AFTER_SPACE] = 0
            depth = _depth_after(tag, key, bits, stack, names, state, properties)
            if depth < state[DEPTH]:
                _pop_to(depth, stack, state, events, closed, properties)
            continue
        depth = _depth_before(tag, bits, stack, state, properties)
        if depth < state[DEPTH]:
            _pop_to(depth, stack, state, events, closed, properties)
        if bits & ENDS_P and state[PARAGRAPHS] > 0:
            depth = _find_p(stack, state, properties, state[DROP_AT] + 1)
            if depth >= 0:
                _pop_to(depth, stack, state, events, closed, properties)
        is_dropped = state[DROP_AT] >= 0
        if tag in (BR, HR):
            if not is_dropped:
                events[state[EVENTS]] = (1 if tag == HR else 0) << 2 | BREAK
                state[EVENTS] += 1
                state[SEGMENT] = -1
                state[AFTER_SPACE] = 1
            continue
        if bits & VOID or (flags & SELF_CLOSING and (state[FOREIGN] > 0 or tag in (SVG, MATH))):
            continue
        if bits & RAW and state[FOREIGN] == 0:
            raw_end = find_raw_end(data, words, position, size, name_start, name_end)
            if tag == SCRIPT and flags & TEX and not is_dropped and raw_end > position:
                _set_segment(segments, segment_count, stack[state[DEPTH] - 1, NODE_NUMBER], count, count, raw_end - position + 2, 0)
                events[state[EVENTS]] = segment_count << 2 | TEXT
                state[EVENTS] += 1
                out[count] = 36
                count += 1
                for index in range(position, raw_end):
                    out[count] = data[index] if data[index] >= 32 else np.uint8(32)
                    count += 1
                out[count] = 36
                count += 1
                segments[segment_count, 2] = count
                segment_count += 1
                state[SEGMENT] = -1
                state[AFTER_SPACE] = 0
            position = raw_end
            continue
        if state[DEPTH] == DEEPEST:
            continue
        depth = state[DEPTH]
        state[DEPTH] += 1
        stack[depth, TAG] = tag
        stack[depth, OWNS] = 0
        names[depth] = key
        parent = stack[depth - 1, NODE_NUMBER]
        stack[depth, NODE_NUMBER] = parent
        if tag == P:
            state[PARAGRAPHS] += 1
        elif tag == SVG:
            state[FOREIGN] += 1
        elif tag == MATH:
            state[FOREIGN] += 1
            math_segment = segment_count
        elif bits & PREFORMATTED:
            state[PREFORMATTEDS] += 1
            if position < size and data[position] == 10:
                position += 1
            elif position + 1 < size and data[position] == 13 and data[position + 1] == 10:
                position += 2
        if is_dropped:
            continue
        is_tex = tag == ANNOTATION and flags & TEX and state[FOREIGN] > 0
        if bits & DROPPED and not is_tex:
            state[DROP_AT] = depth
            continue
        if tag == A and flags & LINKED:
            state[LINK_AT] = depth
            state[SEGMENT] = -1
        if flags & NOISE_ID and not flags & SECTION_CLASS and tag != SECTION and not bits & HEADING:
            flags |= NOISE
        if bits & NODE or flags & (NOISE | HIDDEN | MAIN_ROLE | ASIDE_ROLE):
            node = node_count
            node_count += 1
            _set_node(nodes, node, tag, parent, state[EVENTS])
            flags_of[node] = flags
            events[state[EVENTS]] = node << 2 | OPEN
            state[EVENTS] += 1
            stack[depth, NODE_NUMBER], stack[depth, OWNS] = node, 1
            state[SEGMENT] = -1
            if bits & BLOCK or tag in (TD, TH):
                state[AFTER_SPACE] = 1
        if is_tex:
            # The formula in TeX stands for its glyphs.
            for segment in range(math_segment, segment_count):
                segments[segment, 2] = segments[segment, 1]
                segments[segment, 3] = segments[segment, 4] = 0
            _set_segment(segments, segment_count, stack[depth, NODE_NUMBER], count, count + 1, 1, 0)
            out[count] = 36
            count += 1
            events[state[EVENTS]] = segment_count << 2 | TEXT
            state[EVENTS] += 1
            state[SEGMENT] = segment_count
            segment_count += 1
            state[AFTER_SPACE] = 1
    _pop_to(0, stack, state, events, closed, properties)
    for node in range(node_count):
        nodes[node, 3] = closed[node]
    return out[:count], events[: state[EVENTS]], nodes[:node_count], flags_of[:node_count], segments[:segment_count]


def tree_of(page: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The tree of a page in UTF-8: see `build_tree`."""
    words = np.frombuffer(page, np.uint64, len(page) // 8)
    return build_tree(np.frombuffer(page, np.uint8), words, TAG_KEYS, TAG_VALUES, PROPERTIES, STEPS, ENDS, KINDS, KEYS, VALUES, C1)
