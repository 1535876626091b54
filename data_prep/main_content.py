"""The part of a page that is its text: paragraphs vote for the elements around them, as in Readability, and noise is cut out.

Every paragraph gives points to its ancestors, by its length and its commas; paragraphs inside elements whose class or id speaks of
comments, menus or advertising count a tenth. The best element is widened until it holds most of the points of the page; then elements
with such names, and those that are mostly links, are taken out of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
CLEANED = "div,section,ul,ol,p,table,span,h2,h3,h4,header,dl,figure,blockquote"
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
    """One paragraph: its element (None for text that stands directly in a holder), the holder, and its points."""

    paragraph: LexborNode | None
    holder: LexborNode
    points: float


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


class _Page:
    def __init__(self, body: LexborNode) -> None:
        self.chains: dict[int, list[LexborNode]] = {}
        self.noise: dict[int, bool] = {}
        self.votes = _votes(body)
        self.total = sum(vote.points for vote in self.votes)
        self.raw: dict[int, float] = {}
        for vote in self.votes:
            for node in self.chain(vote.holder):
                self.raw[node.mem_id] = self.raw.get(node.mem_id, 0.0) + vote.points

    def chain(self, node: LexborNode) -> list[LexborNode]:
        """An element and its ancestors below the body."""
        key = node.mem_id
        if key not in self.chains:
            chain = []
            current: LexborNode | None = node
            while current is not None and current.tag not in ("html", "body"):
                chain.append(current)
                current = current.parent
            self.chains[key] = chain
        return self.chains[key]

    def is_noise(self, node: LexborNode) -> bool:
        """Whether an element's class or id names something that is no main text, and it does not hold much of the page."""
        key = node.mem_id
        if key not in self.noise:
            names = f"{node.attributes.get('class') or ''} {node.attributes.get('id') or ''}"
            self.noise[key] = len(names) > 1 and NOISE.search(names) is not None
        return self.noise[key]

    def choose(self) -> LexborNode | None:
        """The element with the most points from its nearest paragraphs, widened until it holds most of the page's points."""
        scores: dict[int, float] = {}
        inside: dict[int, float] = {}
        nodes: dict[int, LexborNode] = {}
        total = 0.0
        for vote in self.votes:
            chain = self.chain(vote.holder)
            points = vote.points
            if any(self.raw[node.mem_id] < NEVER_NOISE * self.total and self.is_noise(node) for node in chain) or (
                vote.paragraph is not None and self.is_noise(vote.paragraph)
            ):
                points *= NOISE_POINTS
            for node, share in zip(chain, INHERITED, strict=False):
                scores[node.mem_id] = scores.get(node.mem_id, 0.0) + share * points
                nodes[node.mem_id] = node
            for node in chain:
                inside[node.mem_id] = inside.get(node.mem_id, 0.0) + points
            total += points
        if not scores:
            return None
        top = nodes[max(scores, key=lambda key: scores[key])]
        while inside[top.mem_id] < WHOLE * total and top.parent is not None and top.parent.tag not in ("html", "body"):
            top = top.parent
        return top

    def clean(self, top: LexborNode) -> None:
        """Take elements with names of noise, and lists of links, out of the chosen element."""
        whole, key = len(top.text()), top.mem_id
        for node in top.css(CLEANED):
            if node.mem_id == key:
                continue
            if self.is_noise(node):
                if len(node.text()) < LARGEST_NOISE * whole:
                    node.decompose()
            elif node.tag in LINK_LISTS and (links := node.css("a")):
                length = len(node.text())
                if length < LARGEST_LINK_LIST * whole and sum(len(link.text()) for link in links) > MOST_LINKS * length:
                    node.decompose()


def _votes(body: LexborNode) -> list[_Vote]:
    votes = []
    for node in body.css(PARAGRAPHS):
        text = node.text()
        if len(text) < SHORTEST_PARAGRAPH or node.parent is None:
            continue
        if sum(len(link.text()) for link in node.css("a")) <= MOST_LINKS * len(text):
            votes.append(_Vote(node, node.parent, _points(text)))
    for node in body.css(HOLDERS):
        text = node.text(deep=False)
        if len(text) < SHORTEST_OWN_TEXT or len(text.strip()) < SHORTEST_OWN_TEXT:
            continue
        holder = node.parent if node.tag in INLINE_HOLDERS else node
        if holder is not None:
            votes.append(_Vote(None, holder, _points(text)))
    return votes


def _points(text: str) -> float:
    return 1 + text.count(",") + min(len(text) / 100, 3)
