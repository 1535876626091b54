"""The main text of an HTML page, and all of its text."""

from __future__ import annotations

from data_prep.html.layout import lay_out
from data_prep.html.scanning import HIDDEN
from data_prep.html.tags import PROPERTIES
from data_prep.html.tree import tree_of
from data_prep.html.votes import choose, clean, count_text


def main_text(page: bytes) -> str:
    """The text of the element that the page's paragraphs vote for, without noise (`data_prep.html.votes`).

    A page without any paragraph keeps all its text but menus and other lists of links.

    Args:
        page: HTML in UTF-8.
    """
    text, events, nodes, flags, segments = tree_of(page)
    own, inside = count_text(nodes, segments)
    top = max(choose(nodes, flags, own, inside, PROPERTIES), 0)
    gone = clean(top, nodes, flags, inside, PROPERTIES)
    return lay_out(top, gone, text, events, nodes, segments, PROPERTIES).tobytes().decode("utf-8", "replace")


def whole_text(page: bytes) -> str:
    """All text of a page that is shown; the page is HTML in UTF-8."""
    text, events, nodes, flags, segments = tree_of(page)
    return lay_out(0, (flags & HIDDEN) != 0, text, events, nodes, segments, PROPERTIES).tobytes().decode("utf-8", "replace")
