"""Images inside WARCs: pages' `<img>` elements resolved to image records of the same file, with the text that goes with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urldefrag, urljoin, urlsplit

import numpy as np
from fastwarc.warc import WarcRecordType
from selectolax.lexbor import LexborHTMLParser, LexborNode

from data_prep.extraction import decode
from data_prep.hashing import hash64
from data_prep.inputs import open_input, size_of
from data_prep.records import Bad, Record
from data_prep.source_plan import WarcImageSource
from data_prep.sources.spans import Cuts, Span, even, whole
from data_prep.sources.warc import HTML_TYPES, SUCCESS, Page, has_member_per_record, read_page_at, read_pages
from rwtrain.files import atomic_path

CAPTION_SELECTORS = ("figcaption", "p.title", ".title", ".caption", "caption")
# Elements that hold one image and its caption in the documentation formats met in crawls, beside HTML's own <figure>.
FIGURE_CLASSES = {"figure", "informalfigure", "mediaobject", "imageblock", "thumb", "image-container", "wp-caption"}
ANCESTORS = 4
NO_CAPTION = "\0"
INDEX_SUFFIX = ".images.npy"
# The parser takes quadratic time for hostile nesting, which this bounds (some seconds), and repeats unclosed elements of formatting in every
# paragraph behind them, so that a small page fills the memory; under other names they are elements as all others.
MOST_TAGS = 50_000
FORMATTING = re.compile(r"<(/?)(a|b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)(?=[\s/>])", re.IGNORECASE)


def cut(source: WarcImageSource, path: str, prefix: Path, *, unit_bytes: int) -> Cuts:
    """Stretches of pages; where the file's images are is in an index that all of them share."""
    size = size_of(path)
    with open_input(path) as stream:
        if not has_member_per_record(stream):
            return whole(size)
    places: dict[int, int] = {}
    for page in read_pages(Span(path, "", 0, size, size), kind=WarcRecordType.response, max_record_bytes=source.max_record_bytes):
        if isinstance(page, Page) and page.content_type.startswith("image/") and page.status == SUCCESS:
            places.setdefault(hash64(_address(page.uri)), page.offset)
    with atomic_path(prefix.with_name(f"{prefix.name}{INDEX_SUFFIX}")) as temporary, open(temporary, "wb") as stream:
        np.save(stream, np.array(sorted(places.items()), np.uint64).reshape(-1, 2).T)
    cuts = even(size, unit_bytes=unit_bytes)
    cuts.index = INDEX_SUFFIX
    return cuts


def read(source: WarcImageSource, span: Span) -> Iterator[Record | Bad]:
    """One record per image and text, in the order of the pages; an image shown again in the stretch with the same text counts once."""
    if span.index is None:
        yield Bad(span.path, "all records", "images can be looked up only in files with one gzip member per record")
        return
    limit = source.max_record_bytes
    seen: set[int] = set()
    with open_input(span.path) as stream:
        images = _Images(stream, span.index, limit)
        for page in read_pages(span, kind=WarcRecordType.response, max_record_bytes=limit):
            if isinstance(page, Bad):
                yield page
                continue
            if page.content_type not in HTML_TYPES or page.status != SUCCESS:
                continue
            html = decode(page.body, page.charset)
            if html.count("<") > MOST_TAGS:
                yield Bad(span.path, str(page.offset), f"a page with more than {MOST_TAGS} tags: its images are left out")
                continue
            for number, (address, text) in enumerate(image_references(html, page.uri)):
                pair = hash64(f"{address}\0{text}")
                if not text or pair in seen or (image := images.at(address)) is None:
                    continue
                seen.add(pair)
                yield Record(f"{source.name}:{span.label}:{page.offset}:{number}", address, text=text, images=[image], language=source.language)


class _Images:
    """The images of a file by their addresses."""

    def __init__(self, stream: BinaryIO, index: str, max_record_bytes: int) -> None:
        self.stream, self.limit = stream, max_record_bytes
        self.hashes, self.offsets = np.load(index, mmap_mode="r")

    def at(self, address: str) -> bytes | None:
        """The image file at an address, None if there is none."""
        wanted = np.uint64(hash64(address))
        place = int(np.searchsorted(self.hashes, wanted))
        if place == len(self.hashes) or self.hashes[place] != wanted:
            return None
        page = read_page_at(self.stream, int(self.offsets[place]), max_record_bytes=self.limit)
        return page.body if page is not None and _address(page.uri) == address else None


def image_references(html: str, base: str) -> Iterator[tuple[str, str]]:
    """(Absolute address, text) of every image of a page: its caption and its alternative text (one if it says the other), else its title."""
    tree = LexborHTMLParser(FORMATTING.sub(r"<\1x-\2", html))
    base_node = tree.css_first("base[href]")
    if base_node is not None:
        base = urljoin(base, base_node.attributes.get("href") or "")
    captions: dict[int, str] = {}
    for node in tree.css("img"):
        source = node.attributes.get("src") or node.attributes.get("data-src") or ""
        if not source or source.startswith("data:"):
            continue
        try:
            address = _address(urljoin(base, source.strip()))
        except ValueError:
            continue
        yield address, _joined(_caption(node, captions), _clean(node.attributes.get("alt"))) or _clean(node.attributes.get("title"))


def _joined(caption: str, alternative: str) -> str:
    if alternative in caption:
        return caption
    return alternative if caption in alternative else f"{caption}\n{alternative}"


def _address(uri: str) -> str:
    address = urldefrag(uri.strip("<> "))[0]
    return address if urlsplit(address).path else f"{address}/"


def _caption(image: LexborNode, captions: dict[int, str]) -> str:
    """Caption of the figure that holds this image and no other; `captions` of figures seen before, by their memory address."""
    node = image.parent
    for _ in range(ANCESTORS):
        if node is None:
            return ""
        classes = set((node.attributes.get("class") or "").split())
        if node.tag == "figure" or classes & FIGURE_CLASSES:
            if node.mem_id not in captions:
                captions[node.mem_id] = _caption_of(node)
            if captions[node.mem_id] != NO_CAPTION:
                return captions[node.mem_id]
        node = node.parent
    return ""


def _caption_of(figure: LexborNode) -> str:
    """The caption of a figure with one image, "" with more, `NO_CAPTION` if there is none."""
    if len(figure.css("img")) > 1:
        return ""
    for selector in CAPTION_SELECTORS:
        if (found := figure.css_first(selector)) is not None and (text := _clean(found.text(separator=" "))):
            return text
    return NO_CAPTION


def _clean(text: str | None) -> str:
    return " ".join((text or "").split())
