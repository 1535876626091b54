"""Links of a wiki page as hints at its entities: where they stand in the text, through every change of the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rwtrain.knowledge.store import normal_title

# Characters on either side, within the line, by which a link is found again.
CONTEXT = 16
LEAST_CONTEXT = 4
# Searches through the text may read this many times its length in all; what is not found then is given up.
SEARCHES = 64


class Link(NamedTuple):
    """A link in a text.

    Attributes:
        start: first character of its text.
        end: one past the last.
        page: the page that it leads to, "enwiki:New York City".
    """

    start: int
    end: int
    page: str


def wiki_of(language: str) -> str:
    """The edition in a language, as entity stores name it."""
    return f"{language.replace('-', '_')}wiki"


def wiki_page(language: str, title: str) -> str:
    """A page of the edition in a language, as `Link.page` and an entity store name it."""
    return f"{wiki_of(language)}:{normal_title(title)}"


def realign(old: str, new: str, links: Sequence[Link]) -> list[Link]:
    """The links of `old` in `new`, which was made from it by cutting and replacing; those whose text or surroundings are gone are left out.

    A link is the same if its text and what stands around it in its line is, or, where one side was changed, the other.
    """
    if not links or old == new:
        return list(links)
    old, new = f"\n{old}\n", f"\n{new}\n"  # so that the first and the last line have edges like the others
    around = [(old[link.start + 1 : link.end + 1], _before(old, link.start + 1), _after(old, link.end + 1)) for link in links]
    search = _Search(new)
    places = [-1] * len(links)  # where in `new` each link is
    shift, position = 0, 0
    for number, (link, (text, before, after)) in enumerate(zip(links, around, strict=True)):
        place = link.start + 1 + shift
        if place < position or not new.startswith(f"{before}{text}{after}", place - len(before)):
            place = search.first(text, _both_sides(before, after), position, len(new))
        if place >= 0:
            places[number], shift, position = place, place - link.start - 1, place + len(text)
    # What one side only speaks for has to lie between its neighbours.
    limits = [len(new)] * (len(links) + 1)
    for number in range(len(links) - 1, -1, -1):
        limits[number] = places[number] if places[number] >= 0 else limits[number + 1]
    position = 0
    for number, (text, before, after) in enumerate(around):
        if places[number] < 0:
            places[number] = search.first(text, [(before, ""), ("", after)], position, limits[number])
        if places[number] >= 0:
            position = places[number] + len(text)
    return [Link(place - 1, place - 1 + link.end - link.start, link.page) for link, place in zip(links, places, strict=True) if place >= 0]


class _Search:
    """Searches in a text, up to a limit of work."""

    def __init__(self, text: str) -> None:
        self.text, self.budget = text, SEARCHES * len(text)

    def first(self, text: str, surroundings: Sequence[tuple[str, str]], start: int, stop: int) -> int:
        """Where `text` with the first of these surroundings that is found stands between two places, -1 if nowhere."""
        for left, right in surroundings:
            if self.budget > 0 and len(left) + len(right) >= (1 if left.startswith("\n") else LEAST_CONTEXT):
                self.budget -= stop - start
                place = self.text.find(f"{left}{text}{right}", max(start - len(left), 0), stop + len(right))
                if place >= 0:
                    return place + len(left)
        return -1


def _both_sides(before: str, after: str) -> list[tuple[str, str]]:
    """What may stand around a link in the changed text; it may also be alone in its line, with the mark of a list."""
    return [(before, after)] if before or after else [("\n", "\n"), ("\n- ", "\n")]


def _before(text: str, start: int) -> str:
    """What stands before a place in its line, without the mark of a list and white space at the line's edge."""
    piece = text[max(start - CONTEXT, 0) : start]
    line = piece.rfind("\n")
    return piece if line < 0 else piece[line + 1 :].lstrip("- \t")


def _after(text: str, end: int) -> str:
    piece = text[end : end + CONTEXT]
    line = piece.find("\n")
    return piece if line < 0 else piece[:line].rstrip()
