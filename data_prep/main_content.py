"""The part of a page that is its text: paragraphs vote for the elements around them, as in Readability, and noise is cut out.

Every paragraph gives points to its ancestors, by its length and its commas; paragraphs inside elements whose class or id speaks of
comments, menus or advertising count a tenth. The best element is widened until it holds most of the points of the page; then elements
with such names, and those that are mostly links, are taken out of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from selectolax.lexbor import LexborHTMLParser, LexborNode

DROPPED_TAGS = [
    *("script", "style", "noscript", "template", "iframe", "svg", "canvas", "object", "video", "audio", "head"),
    *("nav", "footer", "aside", "form", "button", "select", "dialog", "figcaption"),
]
NOISE = re.compile(
    r"comment|sidebar|related|\bshar(e|ing)|social|promo|newsletter|subscri|breadcrumb|cookie|advert|footer|disqus|recommend|popular|outbrain|taboola"
    r"|byline|author|\btags?\b|caption|credit|menu|toolbar|paginat|widget|most-read|more-|sign-?up|paywall|banner|gallery|slideshow|trending|read-?next"
    r"|read-?more|teaser|copyright|disclaimer|metadata|post-meta|entry-meta|timestamp|dateline|print|correction|\bbio\b|follow|hidden|noprint|reply|respond"
    r"|rating|overlay|modal|popup|jump|skip|navbar|\bnav\b|sponsor|partner|donat|infobox|reference|toc\b",
    re.IGNORECASE,
)
PARAGRAPHS = "p,pre,blockquote"
HOLDERS = "div,section,article,td,dd,li,span"
INLINE_HOLDERS = ("li", "span")
CLEANED = "div,section,ul,ol,p,table,dl," + ",".join(
    f"{tag}[{name}]" for tag in ("span", "h2", "h3", "h4", "header", "figure", "blockquote") for name in ("class", "id")
)
LINK_LISTS = ("ul", "ol", "div", "section", "table", "p", "dl")
SHORTEST_PARAGRAPH, SHORTEST_OWN_TEXT = 25, 80
MOST_LINKS = 0.5
NOISE_POINTS = 0.1
# An element with this share of all points is text, whatever it is called.
NEVER_NOISE = 0.4
# The chosen element holds this share of all points.
WHOLE = 0.6
LARGEST_NOISE, LARGEST_LINK_LIST = 0.35, 0.3
INHERITED = (1.0, 0.5, 0.25)


@dataclass(slots=True)
class _Vote:
    """One paragraph: its holder, its points and length, and whether its own names are those of noise."""

    holder: LexborNode
    points: float
    characters: int
    is_noise: bool


def main_element(html: str) -> str | None:
    """HTML of the element that holds the page's main text, without noise; None if the page has no paragraph to go by."""
    tree = LexborHTMLParser(html)
    tree.strip_tags(DROPPED_TAGS)
    if tree.body is None:
        return None
    page = _Page(tree.body)
    top = page.choose()
    if top is None:
        return None
    page.clean(top)
    return top.html


@lru_cache(maxsize=1 << 16)
def are_noise(names: str) -> bool:
    """Whether class and id names speak of something that is no main text; the pages of a site share their names."""
    return NOISE.search(names) is not None


def _has_noise_names(node: LexborNode) -> bool:
    attributes = node.attributes
    if not attributes:
        return False
    names = f"{attributes.get('class') or ''} {attributes.get('id') or ''}"
    return len(names) > 1 and are_noise(names)


class _Page:
    def __init__(self, body: LexborNode) -> None:
        self.links = _link_lengths(body)
        self.votes = _votes(body, self.links)
        self.total = sum(vote.points for vote in self.votes)
        self.chains: dict[int, list[tuple[int, LexborNode]]] = {}
        self.noise: dict[int, bool] = {}
        self.raw: dict[int, float] = {}
        self.characters: dict[int, int] = {}
        for vote in self.votes:
            for key, _ in self.chain(vote.holder):
                self.raw[key] = self.raw.get(key, 0.0) + vote.points
                self.characters[key] = self.characters.get(key, 0) + vote.characters

    def chain(self, node: LexborNode) -> list[tuple[int, LexborNode]]:
        """An element and its ancestors below the body, each with its key."""
        key = node.mem_id
        if key not in self.chains:
            chain = []
            current: LexborNode | None = node
            while current is not None and current.tag not in ("html", "body"):
                chain.append((current.mem_id, current))
                current = current.parent
            self.chains[key] = chain
        return self.chains[key]

    def is_noise(self, key: int, node: LexborNode) -> bool:
        """Whether an element has the names of noise."""
        if key not in self.noise:
            self.noise[key] = _has_noise_names(node)
        return self.noise[key]

    def choose(self) -> LexborNode | None:
        """The element with the most points from its nearest paragraphs, widened until it holds most of the page's points."""
        scores: dict[int, float] = {}
        inside: dict[int, float] = {}
        nodes: dict[int, LexborNode] = {}
        in_noise: dict[int, bool] = {}
        total = 0.0
        largest_noise = NEVER_NOISE * self.total
        for vote in self.votes:
            chain = self.chain(vote.holder)
            if not chain:
                total += vote.points * (NOISE_POINTS if vote.is_noise else 1)
                continue
            first = chain[0][0]
            if first not in in_noise:
                in_noise[first] = any(self.raw[key] < largest_noise and self.is_noise(key, node) for key, node in chain)
            points = vote.points * (NOISE_POINTS if vote.is_noise or in_noise[first] else 1)
            for (key, node), share in zip(chain, INHERITED, strict=False):
                scores[key] = scores.get(key, 0.0) + share * points
                nodes[key] = node
            for key, _ in chain:
                inside[key] = inside.get(key, 0.0) + points
            total += points
        if not scores:
            return None
        top = nodes[max(scores, key=lambda key: scores[key])]
        while inside[top.mem_id] < WHOLE * total and top.parent is not None and top.parent.tag not in ("html", "body"):
            top = top.parent
        return top

    def clean(self, top: LexborNode) -> None:
        """Take elements with names of noise, and lists of links, out of the chosen element."""
        whole, top_key = len(top.text()), top.mem_id
        gone = []
        for node in top.css(CLEANED):
            key = node.mem_id
            if key == top_key:
                continue
            if self.is_noise(key, node):
                if len(node.text()) < LARGEST_NOISE * whole:
                    gone.append(node)
            # The paragraphs inside say how long the text is at least, which spares most elements the counting.
            elif (links := self.links.get(key, 0)) > MOST_LINKS * self.characters.get(key, 0) and node.tag in LINK_LISTS:
                length = len(node.text())
                if length < LARGEST_LINK_LIST * whole and links > MOST_LINKS * length:
                    gone.append(node)
        for node in reversed(gone):  # what is inside goes before what is around it
            node.decompose()


def _link_lengths(body: LexborNode) -> dict[int, int]:
    """Characters of link text inside each element that has any, by the element's key."""
    lengths: dict[int, int] = {}
    parents: dict[int, tuple[int, LexborNode] | None] = {}
    for link in body.css("a"):
        length = len(link.text())
        key, node = link.mem_id, link
        while True:
            if key not in parents:
                parent = node.parent
                parents[key] = None if parent is None or parent.tag == "body" else (parent.mem_id, parent)
            above = parents[key]
            if above is None:
                break
            key, node = above
            lengths[key] = lengths.get(key, 0) + length
    return lengths


def _votes(body: LexborNode, links: dict[int, int]) -> list[_Vote]:
    votes = []
    for node in body.css(PARAGRAPHS):
        text = node.text()
        holder = node.parent
        if len(text) >= SHORTEST_PARAGRAPH and holder is not None and links.get(node.mem_id, 0) <= MOST_LINKS * len(text):
            votes.append(_Vote(holder, _points(text), len(text), _has_noise_names(node)))
    for node in body.css(HOLDERS):
        text = node.text(deep=False)
        if len(text) < SHORTEST_OWN_TEXT or len(text.strip()) < SHORTEST_OWN_TEXT:
            continue
        holder = node.parent if node.tag in INLINE_HOLDERS else node
        if holder is not None:
            votes.append(_Vote(holder, _points(text), len(text), is_noise=False))
    return votes


def _points(text: str) -> float:
    return 1 + text.count(",") + min(len(text) / 100, 3)
