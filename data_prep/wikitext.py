"""Wikitext to plain text. Templates, references and tables go first, by one linear scan, so that the parser sees prose only."""

from __future__ import annotations

import html
import re

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Tag, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
REFERENCE = re.compile(r"<ref\b[^>/]*/>|<ref\b[^>]*>.*?</ref\s*>", re.DOTALL | re.IGNORECASE)
DROPPED_ELEMENT = re.compile(r"<(gallery|timeline|imagemap|score|hiero|syntaxhighlight|references)\b[^>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
BRACKET = re.compile(r"\{\{|\}\}|\{\||\|\}(?!\})")
BEHAVIOUR_SWITCH = re.compile(r"__[A-Z]+__")
BLANK_LINES = re.compile(r"\n{3,}")
LIST_ITEM = re.compile(r"^-\s+|^-$")
EMPTY_BRACKETS = re.compile(r"[ \t]*\(\s*[,;]?\s*\)")
# Link targets that are not prose, in the prefixes that every edition understands.
NOT_PROSE = ("file:", "image:", "category:", "media:")
INTERLANGUAGE = re.compile(r"^[a-z]{2,3}(-[a-z-]+)?:")
# Sections that hold lists of references and links.
END_SECTIONS = {"references", "external links", "see also", "further reading", "notes", "bibliography", "sources", "footnotes"}
VOID_TAGS = {"br", "hr"}
DROPPED_TAGS = {"table", "ref", "gallery", "math", "code"}
KEPT_VERBATIM = {"math", "code", "nowiki", "pre", "source"}


def wikitext_to_text(wikitext: str) -> str:
    """Prose of an article: link texts, headings and list items stay; templates, tables, references, files and end matter go."""
    wikitext = COMMENT.sub("", wikitext)
    wikitext = DROPPED_ELEMENT.sub("", REFERENCE.sub("", wikitext))
    wikitext = BEHAVIOUR_SWITCH.sub("", drop_brackets(wikitext))
    parts: list[str] = []
    _append(mwparserfromhell.parse(wikitext, skip_style_tags=False), parts)
    return _tidy("".join(parts))


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


def _append(code: Wikicode, parts: list[str]) -> None:
    for node in code.nodes:
        if isinstance(node, Text):
            parts.append(node.value)
        elif isinstance(node, Wikilink):
            _append_link(node, parts)
        elif isinstance(node, Heading):
            parts.append("\n")
            _append(node.title, parts)
            parts.append("\n")
        elif isinstance(node, Tag):
            _append_tag(node, parts)
        elif isinstance(node, ExternalLink):
            if node.title is not None:
                _append(node.title, parts)
        elif isinstance(node, HTMLEntity):
            parts.append(html.unescape(str(node)))


def _append_link(link: Wikilink, parts: list[str]) -> None:
    target = str(link.title).strip()
    lowered = target.lower()
    if lowered.startswith(NOT_PROSE):
        return
    if link.text is not None:
        _append(link.text, parts)
    elif not INTERLANGUAGE.match(target):
        parts.append(target.lstrip(":"))


def _append_tag(tag: Tag, parts: list[str]) -> None:
    name = str(tag.tag).strip().lower()
    if tag.wiki_markup in ("*", "#", ":", ";"):
        parts.append("- " if tag.wiki_markup in ("*", "#") else "")
    elif name in VOID_TAGS:
        parts.append("\n")
    elif name in KEPT_VERBATIM:
        parts.append(html.unescape(str(tag.contents)))
    elif tag.contents is not None and name not in DROPPED_TAGS:
        _append(tag.contents, parts)


def _tidy(text: str) -> str:
    lines: list[str] = []
    for line in EMPTY_BRACKETS.sub("", text).split("\n"):
        stripped = LIST_ITEM.sub("- ", line.strip().replace("\xa0", " "))
        if stripped.lower() in END_SECTIONS:
            break
        if stripped != "- ":
            lines.append(stripped)
    return BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()
