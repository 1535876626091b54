"""Pieces of the tokenizer: tags with the attributes that matter, comments, raw text, and runs of text."""

from __future__ import annotations

import numpy as np

from data_prep.html.compiled import compiled, part
from data_prep.html.hashes import START, STEP, hash_of
from data_prep.html.noise import find_word
from data_prep.html.references import read_reference

# What the attributes of an element say, as bits.
NOISE = np.uint32(1)  # class speaks of something that is no main text
HIDDEN = np.uint32(2)  # hidden, aria-hidden="true", style="display: none"
LINKED = np.uint32(4)  # href
TEX = np.uint32(8)  # type or encoding names TeX
MAIN_ROLE = np.uint32(16)  # role="main" or "article", itemprop="articleBody"
ASIDE_ROLE = np.uint32(32)  # role of navigation, search, banner and the like
SELF_CLOSING = np.uint32(64)
NOISE_ID = np.uint32(128)  # the id speaks of noise; in documentation a section's id is its heading's words
SECTION_CLASS = np.uint32(256)
COMMENTS = np.uint32(512)  # the class or id speaks of readers' comments
NAMES_OF = np.array([0, NOISE, NOISE | COMMENTS], np.uint32)
IDS_OF = np.array([0, NOISE_ID, NOISE_ID | COMMENTS], np.uint32)

CLASS, ID, ROLE, IS_HIDDEN, STYLE, ARIA_HIDDEN, HREF, TYPE, ENCODING, ITEMPROP, HIDDEN_UNTIL_FOUND = (
    np.uint64(hash_of(name)) for name in ("class", "id", "role", "hidden", "style", "aria-hidden", "href", "type", "encoding", "itemprop", "until-found")
)
TRUE, MAIN_NAME, ARTICLE_NAME, BODY_NAME = (np.uint64(hash_of(name)) for name in ("true", "main", "article", "articlebody"))
ASIDE_ROLES = np.array(
    [hash_of(name) for name in ("navigation", "search", "banner", "contentinfo", "complementary", "menu", "menubar", "dialog", "alertdialog", "toolbar")],
    np.uint64,
)
DISPLAY, NONE, TEX_NAME, SECT, SECTION_NAME = (np.frombuffer(text, np.uint8) for text in (b"display", b"none", b"tex", b"sect", b"section"))

LOWEST_BITS, HIGHEST_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
LESS_EVERYWHERE = LOWEST_BITS * np.uint64(60)

# Kinds of bytes in text.
PLAIN, BLANK, AMPERSAND, LESS, NUL, NO_BREAK, CONTINUATION, COMMA = range(8)
# What stands instead of a character.
TAG, NOTHING = np.int64(-1), np.int64(-2)
KINDS = np.zeros(256, np.uint8)
KINDS[[9, 10, 12, 13, 32]] = BLANK
KINDS[[38, 60, 0, 0xC2, 44]] = AMPERSAND, LESS, NUL, NO_BREAK, COMMA
KINDS[0x80:0xC0] = CONTINUATION


@part
def is_letter(byte):
    return 97 <= byte | 32 <= 122


@part
def _is_blank(byte):
    return byte == 32 or (9 <= byte <= 13 and byte != 11)


@compiled
def count_replacements(data):
    """How many times U+FFFD stands in UTF-8."""
    count = 0
    for index in range(data.size - 2):
        count += (data[index] == 0xEF) & (data[index + 1] == 0xBF) & (data[index + 2] == 0xBD)
    return count


@part
def read_name(data, position, size):
    """(first byte after a tag's name, hash of the name in small letters)."""
    key = START
    while position < size:
        byte = data[position]
        if byte == 62 or byte == 47 or _is_blank(byte):
            break
        key = (key ^ np.uint64(byte | 32 if 65 <= byte <= 90 else byte)) * STEP
        position += 1
    return position, key


@part
def read_attributes(data, position, size, steps, ends):
    """(first byte after the tag, bits of what its attributes say); the first is `size` + 1 if the page ends inside the tag."""
    flags = np.uint32(0)
    while True:
        while position < size and (data[position] == 47 or _is_blank(data[position])):
            position += 1
        if position >= size:
            return size + 1, flags
        if data[position] == 62:
            return position + 1, flags | (SELF_CLOSING if data[position - 1] == 47 else np.uint32(0))
        key = START
        first = position
        while position < size:
            byte = data[position]
            if byte == 62 or byte == 47 or _is_blank(byte) or (byte == 61 and position > first):
                break
            key = (key ^ np.uint64(byte | 32 if 65 <= byte <= 90 else byte)) * STEP
            position += 1
        while position < size and _is_blank(data[position]):
            position += 1
        start = end = position
        if position < size and data[position] == 61:
            position += 1
            while position < size and _is_blank(data[position]):
                position += 1
            if position >= size:
                return size + 1, flags
            quote = data[position]
            if quote == 34 or quote == 39:
                position += 1
                start = position
                while position < size and data[position] != quote:
                    position += 1
                if position >= size:
                    return size + 1, flags
                end = position
                position += 1
            else:
                start = position
                while position < size and data[position] != 62 and not _is_blank(data[position]):
                    position += 1
                end = position
        flags |= _meaning(data, key, start, end, steps, ends)


@part
def _meaning(data, key, start, end, steps, ends):
    if key == CLASS:
        if _is_section(data, start, end):
            return SECTION_CLASS
        return NAMES_OF[find_word(data, start, end, steps, ends)]
    if key == ID:
        return IDS_OF[find_word(data, start, end, steps, ends)]
    if key == HREF:
        return LINKED
    if key == STYLE:
        return HIDDEN if _hides(data, start, end) else np.uint32(0)
    if key == IS_HIDDEN:
        return np.uint32(0) if _value(data, start, end) == HIDDEN_UNTIL_FOUND else HIDDEN
    if key == ARIA_HIDDEN:
        return HIDDEN if _value(data, start, end) == TRUE else np.uint32(0)
    if key in (ROLE, ITEMPROP):
        value = _value(data, start, end)
        if value in (MAIN_NAME, ARTICLE_NAME, BODY_NAME):
            return MAIN_ROLE
        for role in ASIDE_ROLES:
            if value == role:
                return ASIDE_ROLE
    if key in (TYPE, ENCODING):
        place = _find(data, start, end, TEX_NAME) + TEX_NAME.size  # math/tex; mode=display, application/x-tex, but not text/javascript
        return TEX if place <= end and (place == end or not is_letter(data[place])) else np.uint32(0)
    return np.uint32(0)


@part
def _is_section(data, start, end):
    """Whether a class is `section` (Sphinx) or `sect1` to `sect5` (DocBook)."""
    length = end - start
    return length in (5, 7) and _find(data, start, start + 4, SECT) == start and (length == 5 or _find(data, start, end, SECTION_NAME) == start)


@part
def _value(data, start, end):
    key = START
    for index in range(start, end):
        byte = data[index]
        key = (key ^ np.uint64(byte | 32 if 65 <= byte <= 90 else byte)) * STEP
    return key


@part
def _find(data, start, end, word):
    """Where a word in small letters stands first, `end` if nowhere."""
    for first in range(start, end - word.size + 1):
        length = 0
        while length < word.size and (data[first + length] | 32) == word[length]:
            length += 1
        if length == word.size:
            return first
    return end


@part
def _hides(data, start, end):
    """Whether a style says `display: none`."""
    position = _find(data, start, end, DISPLAY) + DISPLAY.size
    while position < end and (data[position] == 58 or _is_blank(data[position])):
        position += 1
    return position < end and _find(data, position, min(position + NONE.size, end), NONE) == position


@part
def skip_declaration(data, position, size):
    """First byte after what begins with `<!`, `<?` or `</` and is no tag: a comment, a document type, a processing instruction."""
    if position + 3 < size and data[position + 1] == 33 and data[position + 2] == 45 and data[position + 3] == 45:
        index = position + 4
        if index < size and data[index] == 62:
            return index + 1
        if index + 1 < size and data[index] == 45 and data[index + 1] == 62:
            return index + 2
        while index < size:
            if data[index] == 62 and data[index - 1] == 45 and data[index - 2] == 45 and index - 2 >= position + 4:
                return index + 1
            if data[index] == 62 and data[index - 1] == 33 and data[index - 2] == 45 and data[index - 3] == 45 and index - 3 >= position + 4:
                return index + 1
            index += 1
        return size
    index = position + 1
    while index < size and data[index] != 62:
        index += 1
    return min(index + 1, size)


@part
def _find_less(data, words, position, size):
    """The next `<` at or after a position, `size` if there is none; `words` are the same bytes, eight at a time, as far as they go."""
    while position < size and position & 7:
        if data[position] == 60:
            return position
        position += 1
    index = position >> 3
    while index < words.size:
        differing = words[index] ^ LESS_EVERYWHERE  # a byte of 0 where there is one
        if (differing - LOWEST_BITS) & ~differing & HIGHEST_BITS:
            break
        index += 1
    position = index << 3
    while position < size and data[position] != 60:
        position += 1
    return position


@part
def find_raw_end(data, words, position, size, name_start, name_end):
    """Where the end tag of an element with raw text begins, `size` if it has none; the element's name stands at `name_start`."""
    length = name_end - name_start
    last = size - length - 2
    while position <= last:
        position = _find_less(data, words, position, size)
        if position > last:
            break
        if data[position + 1] != 47:
            position += 1
            continue
        index = 0
        while index < length and (data[position + 2 + index] | 32) == (data[name_start + index] | 32):
            index += 1
        after = position + 2 + length
        if index == length and (after == size or data[after] == 62 or data[after] == 47 or _is_blank(data[after])):
            return position
        position += 2
    return size


@part
def _put(out, count, code):
    if code < 0x80:
        out[count] = code
        return count + 1
    if code < 0x800:
        out[count] = 0xC0 | code >> 6
        out[count + 1] = 0x80 | code & 63
        return count + 2
    if code < 0x10000:
        out[count] = 0xE0 | code >> 12
        out[count + 1] = 0x80 | code >> 6 & 63
        out[count + 2] = 0x80 | code & 63
        return count + 3
    out[count] = 0xF0 | code >> 18
    out[count + 1] = 0x80 | code >> 12 & 63
    out[count + 2] = 0x80 | code >> 6 & 63
    out[count + 3] = 0x80 | code & 63
    return count + 4


@part
def _read_character(data, position, size, kind, preformatted, keys, values, c1):
    """(First byte behind it, character, second character or 0) of what is no plain text; the character may be `TAG` or `NOTHING`."""
    none = np.int64(0)
    if kind == LESS:
        if position + 1 < size:
            after = data[position + 1]
            if is_letter(after) or after == 47 or after == 33 or after == 63:
                return position, TAG, none
        return position + 1, np.int64(60), none
    if kind == BLANK:
        byte = np.int64(data[position])
        if not preformatted:
            return position + 1, np.int64(32), none
        if byte != 13:
            return position + 1, byte, none
        return position + 1, NOTHING if position + 1 < size and data[position + 1] == 10 else np.int64(10), none
    if kind == NUL:
        return position + 1, NOTHING, none
    if kind == NO_BREAK:
        return position + 2, np.int64(32), none
    behind, code, second = read_reference(data, position, size, keys, values, c1)
    if behind == position:
        return position + 1, np.int64(38), none
    if code == 0xA0 or ((code == 9 or code == 10 or code == 12 or code == 13) and not preformatted):
        code = np.int64(32)
    return behind, code, second


@part
def copy_text(data, position, size, out, count, after_space, preformatted, kinds, keys, values, c1):
    """Copy text up to the next tag or comment, references resolved, white space collapsed unless it is preformatted.

    Returns (first byte not copied, bytes in `out`, whether it ends in white space, characters copied, commas among them).
    """
    characters, commas = 0, 0
    while position < size:
        byte = data[position]
        kind = kinds[byte]
        if kind == NO_BREAK and (position + 1 == size or data[position + 1] != 0xA0):
            kind = np.uint8(PLAIN)
        if kind in (PLAIN, COMMA):
            out[count] = byte
            count += 1
            characters += 1
            commas += kind == COMMA
            position += 1
            after_space = False
            continue
        if kind == CONTINUATION:
            out[count] = byte
            count += 1
            position += 1
            # The commas of Chinese, of Japanese and of Arabic.
            if (byte == 0x8C and (data[position - 2] == 0xBC or data[position - 2] == 0xD8)) or (byte == 0x81 and data[position - 2] == 0x80):
                commas += 1
            continue
        position, code, second = _read_character(data, position, size, kind, preformatted, keys, values, c1)
        if code == TAG:
            break
        if code == NOTHING or (code == 32 and after_space and not preformatted):
            continue
        after_space = code == 32 and not (preformatted and kind == BLANK)
        count = _put(out, count, code)
        characters += 1
        if second:
            count = _put(out, count, second)
            characters += 1
    return position, count, after_space, characters, commas
