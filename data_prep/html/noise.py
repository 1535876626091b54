"""Names of classes, ids and roles that speak of something that is no main text."""

from __future__ import annotations

import numpy as np

from data_prep.html.compiled import part

# A word counts wherever it stands in a name; `^` asks for its beginning and `$` for its end to be those of a part of the name
# (at a hyphen, underscore or space, or where small letters turn into capitals). A `?` makes the character before it optional.
WORDS = (
    *("^rating$", "^ratings$", "^related$", "recommend", "^popular", "^trending", "most-?read"),
    *("read-?more", "read-?next", "^more-", "^teaser", "outbrain", "taboola", "^ad$", "^ads$", "^advert", "sponsor", "^partner", "^promo", "banner"),
    *("^share$", "^sharing$", "^sharedaddy$", "^social-share", "^social-sharing", "^social-link", "^social-icon", "^social-media", "^social-button"),
    *("^social-bar", "^social-follow", "^follow", "newsletter", "^subscri", "^sign-?up", "paywall", "^login", "^donat", "cookie", "^gdpr$", "disclaimer"),
    *("sidebar", "footer", "^masthead", "navbar", "^nav$", "navigation", "^menu", "menu$", "breadcrumb", "toolbar", "paginat", "^pager$", "^toc$", "^skip"),
    *("^jump", "widget", "^modal", "^overlay", "popup", "^hidden", "^rss$", "^print$", "noprint", "gallery", "slideshow", "^caption", "^credit"),
    *("byline", "^author", "^bio$", "dateline", "timestamp", "^meta$", "metadata", "^tag$", "^tags$", "^correction", "copyright", "^attribution$"),
    *("infobox", "^reference$", "^remark", "^lineno", "^linenos$", "^gutter$", "^editsection$", "^headerlink$"),
)
COMMENT_WORDS = ("comment", "disqus", "^reply", "^replies$", "^respond$")
ANYWHERE, AT_START, AT_END, WHOLE = 1, 2, 4, 8
OF_COMMENTS = 16  # beside one of these: the word speaks of readers' comments
LETTERS = 28


def spellings(word: str) -> list[str]:
    """`sign-?up` -> [`sign-up`, `signup`]."""
    place = word.find("?")
    if place < 0:
        return [word]
    return spellings(word[:place] + word[place + 1 :]) + spellings(word[: place - 1] + word[place + 1 :])


def compile_words(words: tuple[str, ...], comment_words: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A trie: the next state by state and letter, [states, 28] int16, and how a word may end there, [states] uint8."""
    steps, ends = [[0] * LETTERS], [0]
    for word in [spelling for each in (*words, *comment_words) for spelling in spellings(each)]:
        state = 0
        for letter in word.strip("^$"):
            number = 26 if letter == "-" else ord(letter) - 97
            if not steps[state][number]:
                steps[state][number] = len(steps)
                steps.append([0] * LETTERS)
                ends.append(0)
            state = steps[state][number]
        ends[state] |= {(False, False): ANYWHERE, (True, False): AT_START, (False, True): AT_END, (True, True): WHOLE}[word[0] == "^", word[-1] == "$"]
        ends[state] |= OF_COMMENTS if word in comment_words else 0
    return np.array(steps, np.int16), np.array(ends, np.uint8)


STEPS, ENDS = compile_words(WORDS, COMMENT_WORDS)


@part
def _letter(byte):
    if 97 <= byte <= 122:
        return byte - 97
    if 65 <= byte <= 90:
        return byte - 65
    return 26 if byte == 45 or byte == 95 else 27


@part
def find_word(data, start, end, steps, ends):
    """0 if none of the words stands in a name, 1 if one does, 2 if it is one of comments; case does not count, and `_` is taken for `-`."""
    found = 0
    for first in range(start, end):
        state = steps[0, _letter(data[first])]
        index = first + 1
        while state:
            how = ends[state]
            if how:
                begins = first == start or _is_edge(data[first - 1], data[first])
                finishes = index == end or _is_edge(data[index - 1], data[index])
                if how & ANYWHERE or (how & AT_START and begins) or (how & AT_END and finishes) or (how & WHOLE and begins and finishes):
                    if how & OF_COMMENTS:
                        return 2
                    found = 1
            if index == end:
                break
            state = steps[state, _letter(data[index])]
            index += 1
    return found


@part
def _is_edge(before, after):
    """Whether a part of a name ends between two bytes."""
    one, other = _letter(before), _letter(after)
    return one >= 26 or other >= 26 or (before >= 97 and after <= 90)
