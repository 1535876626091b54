"""Wikitext to plain text and its links. Templates, references and tables go first, by one linear scan, so that the parser sees prose only."""

from __future__ import annotations

import html
import itertools
import re

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Tag, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

from data_prep.links import Link, realign

COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
REFERENCE = re.compile(r"<ref\b[^>/]*/>|<ref\b[^>]*>.*?</ref\s*>", re.DOTALL | re.IGNORECASE)
DROPPED_ELEMENT = re.compile(r"<(gallery|timeline|imagemap|score|hiero|syntaxhighlight|references)\b[^>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
BRACKET = re.compile(r"\{\{|\}\}|\{\||\|\}(?!\})")
BEHAVIOUR_SWITCH = re.compile(r"__[A-Z]+__")
BLANK_LINES = re.compile(r"\n{3,}")
LIST_ITEM = re.compile(r"^-\s+|^-$")
# Letters right after a link belong to its text, as MediaWiki shows it.
LINK_TRAIL = re.compile(r"[a-z\u00df-\u00f6\u00f8-\u00ff]*")
EMPTY_BRACKETS = re.compile(r"[ \t]*\(\s*[,;]?\s*\)")
# Link targets that are not prose, in the prefixes that every edition understands.
NOT_PROSE = ("file:", "image:", "category:", "media:")
INTERLANGUAGE = re.compile(r"^[a-z]{2,3}(-[a-z-]+)?:")
# Sections that hold lists of references and links.
END_SECTIONS = {"references", "external links", "see also", "further reading", "notes", "bibliography", "sources", "footnotes"}
VOID_TAGS = {"br", "hr"}
DROPPED_TAGS = {"table", "ref", "gallery", "math", "code"}
KEPT_VERBATIM = {"math", "code", "nowiki", "pre", "source"}


def wikitext_to_text(wikitext: str) -> tuple[str, list[Link]]:
    """Prose of an article, and its links to other pages (by title as it is written there).

    Link texts, headings and list items stay; templates, tables, references, files and end matter go.
    """
    wikitext = COMMENT.sub("", wikitext)
    wikitext = DROPPED_ELEMENT.sub("", REFERENCE.sub("", wikitext))
    wikitext = BEHAVIOUR_SWITCH.sub("", drop_brackets(wikitext))
    prose = _Prose()
    prose.append(mwparserfromhell.parse(wikitext, skip_style_tags=False))
    raw, links = prose.joined()
    text = _tidy(raw)
    return text, realign(raw, text, links)


def drop_brackets(wikitext: str) -> str:
    """Remove `{{templates}}` and `{| tables |}`, nested to any depth, in linear time.

    A closing mark closes the nearest opening one of its kind, with everything left open inside; the others stay as they are.
    """
    stack: list[tuple[str, int]] = []
    opened = {"{{": 0, "{|": 0}
    ranges: list[tuple[int, int]] = []
    for match in BRACKET.finditer(wikitext):
        mark = match[0]
        if mark in opened:
            stack.append((mark, match.start()))
            opened[mark] += 1
            continue
        opening = "{{" if mark == "}}" else "{|"
        if not opened[opening]:
            continue
        found, start = "", 0
        while found != opening:
            found, start = stack.pop()
            opened[found] -= 1
        while ranges and ranges[-1][0] > start:
            ranges.pop()
        ranges.append((start, match.end()))
    parts, position = [], 0
    for start, stop in ranges:
        parts.append(wikitext[position:start])
        position = stop
    parts.append(wikitext[position:])
    return "".join(parts)


class _Prose:
    """The text of parsed wikitext, piece by piece."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.links: list[tuple[int, int, str]] = []  # (first part, one past the last, title)

    def joined(self) -> tuple[str, list[Link]]:
        """All text, and the links with text in it."""
        text = "".join(self.parts).replace("\xa0", " ")
        places = list(itertools.accumulate(map(len, self.parts), initial=0))
        links = []
        for first, last, title in self.links:
            start, end = places[first], places[last]
            if text[start:end].strip():
                trail = LINK_TRAIL.match(text, end)
                links.append(Link(start, trail.end() if trail else end, title))
        return text, links

    def append(self, code: Wikicode) -> None:
        for node in code.nodes:
            if isinstance(node, Text):
                self.parts.append(node.value)
            elif isinstance(node, Wikilink):
                self._append_link(node)
            elif isinstance(node, Heading):
                self.parts.append("\n")
                self.append(node.title)
                self.parts.append("\n")
            elif isinstance(node, Tag):
                self._append_tag(node)
            elif isinstance(node, ExternalLink):
                if node.title is not None:
                    self.append(node.title)
            elif isinstance(node, HTMLEntity):
                self.parts.append(html.unescape(str(node)))

    def _append_link(self, link: Wikilink) -> None:
        target = html.unescape(str(link.title)).strip()
        if target.lower().startswith(NOT_PROSE):
            return
        first = len(self.parts)
        if link.text is not None:
            self.append(link.text)
        elif not INTERLANGUAGE.match(target):
            self.parts.append(target.lstrip(":"))
        title = target.lstrip(":").partition("#")[0].strip()
        if title and len(self.parts) > first and not (self.links and self.links[-1][1] > first):
            self.links.append((first, len(self.parts), title))

    def _append_tag(self, tag: Tag) -> None:
        name = str(tag.tag).strip().lower()
        if tag.wiki_markup in ("*", "#", ":", ";"):
            self.parts.append("- " if tag.wiki_markup in ("*", "#") else "")
        elif name in VOID_TAGS:
            self.parts.append("\n")
        elif name in KEPT_VERBATIM:
            self.parts.append(html.unescape(str(tag.contents)))
        elif tag.contents is not None and name not in DROPPED_TAGS:
            self.append(tag.contents)


def _tidy(text: str) -> str:
    lines: list[str] = []
    for line in EMPTY_BRACKETS.sub("", text).split("\n"):
        stripped = LIST_ITEM.sub("- ", line.strip())
        if stripped.lower() in END_SECTIONS:
            break
        if stripped != "- ":
            lines.append(stripped)
    return BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()
