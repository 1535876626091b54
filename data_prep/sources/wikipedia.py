"""MediaWiki XML dumps: article pages, streamed, with redirects and other namespaces left out."""

from __future__ import annotations

import bz2
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import quote

from data_prep.plan import WikipediaSource
from data_prep.records import Bad, Record
from data_prep.sources.spans import Span, whole_files

ARTICLE_NAMESPACE = "0"


def spans(source: WikipediaSource, *, unit_bytes: int) -> list[Span]:
    return whole_files(source.paths, source=source.name)


def read(source: WikipediaSource, span: Span) -> Iterator[Record | Bad]:
    """The articles of a dump, wikitext in `raw`; a dump that ends early is read as far as it goes."""
    with _open(span.path) as stream:
        pages = 0
        try:
            for title, page_id, wikitext in _articles(stream):
                pages += 1
                address = f"https://{source.language}.wikipedia.org/wiki/{quote(title.replace(' ', '_'))}"
                yield Record(f"{source.name}:{page_id}", address, raw=wikitext, language=source.language)
        except (ElementTree.ParseError, EOFError, OSError) as error:
            yield Bad(span.path, f"after article {pages}", f"the rest of the dump cannot be read ({error})")


def _open(path: str) -> BinaryIO:
    return bz2.open(path, "rb") if path.endswith(".bz2") else open(path, "rb")  # type: ignore[return-value]


def _articles(stream: BinaryIO) -> Iterator[tuple[str, str, str]]:
    """(title, page id, wikitext) of every article; memory stays flat because finished pages are dropped from the tree."""
    root: ElementTree.Element | None = None
    namespace = ""
    for event, element in ElementTree.iterparse(stream, events=("start", "end")):
        if root is None:
            root = element
            namespace = element.tag[: element.tag.find("}") + 1]
        if event == "start" or element.tag != f"{namespace}page":
            continue
        is_article = element.findtext(f"{namespace}ns") == ARTICLE_NAMESPACE and element.find(f"{namespace}redirect") is None
        wikitext = element.findtext(f"{namespace}revision/{namespace}text")
        if is_article and wikitext:
            yield element.findtext(f"{namespace}title") or "", element.findtext(f"{namespace}id") or "", wikitext
        root.clear()
