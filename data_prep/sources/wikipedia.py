"""MediaWiki XML dumps: article pages, cut out of any stretch of the file; redirects are told apart."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from data_prep.inputs import open_input, size_of
from data_prep.records import Bad, Record, Redirect
from data_prep.source_plan import WikipediaSource
from data_prep.sources.bz2_blocks import read_blocks
from data_prep.sources.plain import cut_plain, open_plain
from data_prep.sources.spans import Cuts, Span, even

ARTICLE_NAMESPACE = "0"
PAGE, PAGE_END, DUMP_END = b"<page>", b"</page>", b"</mediawiki>"
CHUNK = 1 << 20
TAIL = 64  # bytes at the end of a piece in which a mark may begin
TITLE_SHOWN = 60


def cut(source: WikipediaSource, path: str, prefix: Path, *, unit_bytes: int) -> Cuts:
    if path.endswith(".bz2"):
        return even(size_of(path), unit_bytes=unit_bytes)
    return cut_plain(path, prefix, unit_bytes=unit_bytes, cut=lambda _, size: even(size, unit_bytes=unit_bytes))


def read(source: WikipediaSource, span: Span) -> Iterator[Record | Redirect | Bad]:
    """The articles of a stretch, wikitext in `raw`, and its redirects; damage costs the pages that it touches."""
    for item in _pages(span, max_bytes=source.max_page_bytes):
        if isinstance(item, Bad):
            yield item
            continue
        place, page = item
        try:
            record = _record(source, page)
        except ElementTree.ParseError as error:
            yield Bad(span.path, f"byte {place}", f"the page is not well-formed XML ({error})")
            continue
        if record is not None:
            yield record


def _record(source: WikipediaSource, page: bytes) -> Record | Redirect | None:
    element = ElementTree.fromstring(page)
    if element.findtext("ns") != ARTICLE_NAMESPACE:
        return None
    title = element.findtext("title") or ""
    redirect = element.find("redirect")
    if redirect is not None:
        return Redirect(title, redirect.get("title") or "")
    wikitext = element.findtext("revision/text")
    address = f"https://{source.language}.wikipedia.org/wiki/{quote(title.replace(' ', '_'))}"
    return Record(f"{source.name}:{element.findtext('id') or ''}", address, raw=wikitext, language=source.language) if wikitext else None


def _pages(span: Span, *, max_bytes: int) -> Iterator[tuple[int, bytes] | Bad]:
    """(place of the piece, XML of the page) of every page that begins in the span."""
    buffer = bytearray()  # begins with an unfinished page, or is a short tail
    owned = 0  # bytes of the buffer that belong to the span
    place, intact = -1, True
    with _open(span) as stream:
        for place, piece in _pieces(stream, span):
            beyond = place >= span.stop
            if beyond and not _page_begins(buffer[:owned]):
                return
            if isinstance(piece, str):
                yield Bad(span.path, f"byte {place}", f"{piece}; {_affected(buffer)}")
                if beyond:
                    return
                buffer.clear()
                owned, intact = 0, False
                continue
            buffer += piece
            owned, intact = owned if beyond else len(buffer), True
            position = 0
            while (begin := buffer.find(PAGE, position, owned + len(PAGE) - 1)) >= 0 and (end := buffer.find(PAGE_END, begin)) >= 0:
                position = end + len(PAGE_END)
                yield place, bytes(buffer[begin:position])
            position = begin if begin >= 0 else max(position, len(buffer) - TAIL)
            if begin >= 0 and len(buffer) - begin > max_bytes:
                yield Bad(span.path, f"byte {place}", f"a page larger than {max_bytes} bytes; {_affected(buffer[begin:])}")
                position += len(PAGE)
            del buffer[:position]
            owned = max(0, owned - position)
    if place < 0 and span.start == 0:
        yield Bad(span.path, "byte 0", "no bzip2 data" if span.path.endswith(".bz2") else "the file is empty")
    elif place >= 0 and intact and DUMP_END not in buffer:
        yield Bad(span.path, f"byte {place}", f"the dump ends early; {_affected(buffer)}")


def _page_begins(owned: bytearray) -> bool:
    """Whether a page, or the mark of one, begins in these bytes and is not finished."""
    return owned.startswith(PAGE) or any(owned.endswith(PAGE[:length]) for length in range(1, len(PAGE)))


def _affected(buffer: bytes | bytearray) -> str:
    """Words that say which page is affected."""
    title = bytes(buffer).partition(b"<title>")[2].partition(b"</title>")[0][:TITLE_SHOWN] if buffer.startswith(PAGE) else b""
    return f"the page `{title.decode('utf-8', 'replace')}` is lost" if title else "reading goes on at the next page"


def _open(span: Span) -> BinaryIO:
    return open_input(span.path) if span.path.endswith(".bz2") else open_plain(span)


def _pieces(stream: BinaryIO, span: Span) -> Iterator[tuple[int, bytes | str]]:
    """(place, content or what is wrong) of the pieces of the file from the span's start on; no piece straddles its end."""
    if span.path.endswith(".bz2"):
        yield from read_blocks(stream, span.start)
        return
    position = span.start
    try:
        stream.seek(position)
        while piece := stream.read(min(CHUNK, span.stop - position) if position < span.stop else CHUNK):
            yield position, piece
            position += len(piece)
    except (OSError, EOFError) as error:
        yield position, f"the rest of the dump cannot be read ({error})"
