"""A page's elements as plain text: paragraphs apart, lists with bullets or numbers, table cells behind tabs, code as it is."""

from __future__ import annotations

import numpy as np

from data_prep.html.builder import BREAK, CLOSE, OPEN
from data_prep.html.compiled import compiled, part
from data_prep.html.tags import LI, LINE, MENU, OL, PREFORMATTED, SPACED, TD, TH, UL

NOTHING, TAB, NEW_LINE, EMPTY_LINE = range(4)
DEEPEST_LIST = 8
BULLET = np.frombuffer("• ".encode(), np.uint8)


@compiled
def lay_out(top, gone, text, events, nodes, segments, properties):
    """The text of the element `top` without those that are `gone`, [bytes] uint8."""
    out = np.empty(text.size + 12 * len(events) + 64, np.uint8)  # an event adds a bullet with its indentation, or line breaks
    count = 0
    pending = NOTHING
    numbers = np.zeros(DEEPEST_LIST, np.int64)  # the number of the last item of each open list, -1 where bullets are used
    lists = 0
    preformatted = 0
    item = False  # a bullet or a number is to be written before the next text
    event = nodes[top, 2]
    last = nodes[top, 3]
    while event <= last:
        kind, number = events[event] & 3, events[event] >> 2
        event += 1
        if kind == BREAK:
            pending = max(pending, EMPTY_LINE if number else NEW_LINE)
            continue
        if kind in (OPEN, CLOSE):
            if kind == OPEN and gone[number]:
                event = nodes[number, 3] + 1
                continue
            tag = nodes[number, 0]
            bits = properties[tag]
            step = 1 if kind == OPEN else -1
            if tag in (UL, OL, MENU):
                if step > 0 and lists < DEEPEST_LIST:
                    numbers[lists] = 0 if tag == OL else -1
                lists += step
                pending = max(pending, EMPTY_LINE if lists + (step < 0) == 1 else NEW_LINE)
            elif tag == LI:
                pending = max(pending, NEW_LINE)
                item = step > 0
                if item and 0 < lists <= DEEPEST_LIST and numbers[lists - 1] >= 0:
                    numbers[lists - 1] += 1
            elif tag in (TD, TH):
                pending = max(pending, TAB)
            elif bits & SPACED:
                pending = max(pending, NEW_LINE if item or lists else EMPTY_LINE)
            elif bits & LINE:
                pending = max(pending, NEW_LINE)
            if bits & PREFORMATTED:
                preformatted += step
            continue
        first, end = segments[number, 1], segments[number, 2]
        if not preformatted:
            while first < end and text[first] == 32 and (pending or count == 0 or out[count - 1] == 32):
                first += 1
        if first == end:
            continue
        if pending:
            count = _separate(out, count, pending)
            pending = NOTHING
        if item:
            item = False
            count = _bullet(out, count, lists, numbers)
        for index in range(first, end):
            out[count] = text[index]
            count += 1
    return out[: _trimmed(out, count)]


@part
def _trimmed(out, count):
    """The count without blanks, tabs and line breaks at the end."""
    while count > 0 and (out[count - 1] == 32 or out[count - 1] == 10 or out[count - 1] == 9):
        count -= 1
    return count


@part
def _separate(out, count, pending):
    """Write what stands between the text before and the text after; nothing at the beginning."""
    count = _trimmed(out, count)
    if count > 0:
        out[count] = 9 if pending == TAB else 10
        count += 1
        if pending == EMPTY_LINE:
            out[count] = 10
            count += 1
    return count


@compiled
def _bullet(out, count, lists, numbers):
    """Indentation by the depth of the list, then a bullet or a number."""
    for _ in range(2 * (min(max(lists, 1), DEEPEST_LIST) - 1)):
        out[count] = 32
        count += 1
    number = numbers[min(lists, DEEPEST_LIST) - 1] if lists > 0 else -1
    if number < 0:
        for byte in BULLET:
            out[count] = byte
            count += 1
        return count
    digits = 1
    while 10**digits <= number:
        digits += 1
    for digit in range(digits - 1, -1, -1):
        out[count] = 48 + number // 10**digit % 10
        count += 1
    out[count], out[count + 1] = 46, 32
    return count + 2
