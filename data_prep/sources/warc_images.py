"""Images inside WARCs: pages' `<img>` elements resolved to image records of the same file, with the text that goes with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlsplit

from fastwarc.warc import WarcRecordType
from selectolax.lexbor import LexborHTMLParser, LexborNode

from data_prep.extraction import decode
from data_prep.hashing import hash64
from data_prep.inputs import open_input, size_of
from data_prep.plan import WarcImageSource
from data_prep.records import Bad, Record
from data_prep.sources.spans import Cuts, Span, whole
from data_prep.sources.warc import HTML_TYPES, SUCCESS, has_member_per_record, read_page_at, read_pages

CAPTION_SELECTORS = ("figcaption", "p.title", ".title", ".caption", "caption")
# Elements that hold one image and its caption in the documentation formats met in crawls, beside HTML's own <figure>.
FIGURE_CLASSES = {"figure", "informalfigure", "mediaobject", "imageblock", "thumb", "image-container", "wp-caption"}
ANCESTORS = 4


def cut(source: WarcImageSource, path: str, prefix: Path, *, unit_bytes: int) -> Cuts:
    return whole(size_of(path))


def read(source: WarcImageSource, span: Span) -> Iterator[Record | Bad]:
    """One record per image and text, in the order of the pages; an image shown again with the same text counts once."""
    limit = source.max_record_bytes
    with open_input(span.path) as stream:
        if not has_member_per_record(stream):
            yield Bad(span.path, "all records", "images can be looked up only in files with one gzip member per record")
            return
        places: dict[str, int] = {}
        for page in read_pages(span, kind=WarcRecordType.response, max_record_bytes=limit):
            if isinstance(page, Bad):
                yield page
            elif page.content_type.startswith("image/") and page.status == SUCCESS:
                places.setdefault(_address(page.uri), page.offset)
        seen: set[int] = set()
        for page in read_pages(span, kind=WarcRecordType.response, max_record_bytes=limit):
            if isinstance(page, Bad) or page.content_type not in HTML_TYPES or page.status != SUCCESS:
                continue
            for number, (address, text) in enumerate(image_references(decode(page.body, page.charset), page.uri)):
                pair = hash64(f"{address}\0{text}")
                if address not in places or not text or pair in seen:
                    continue
                seen.add(pair)
                image = read_page_at(stream, places[address], max_record_bytes=limit)
                if image is not None:
                    yield Record(f"{source.name}:{span.label}:{page.offset}:{number}", address, text=text, images=[image.body], language=source.language)


def image_references(html: str, base: str) -> Iterator[tuple[str, str]]:
    """(Absolute address, text) of every image of a page: its caption and its alternative text (one if it says the other), else its title."""
    tree = LexborHTMLParser(html)
    base_node = tree.css_first("base[href]")
    if base_node is not None:
        base = urljoin(base, base_node.attributes.get("href") or "")
    for node in tree.css("img"):
        source = node.attributes.get("src") or node.attributes.get("data-src") or ""
        if not source or source.startswith("data:"):
            continue
        try:
            address = _address(urljoin(base, source.strip()))
        except ValueError:
            continue
        yield address, _joined(_caption(node), _clean(node.attributes.get("alt"))) or _clean(node.attributes.get("title"))


def _joined(caption: str, alternative: str) -> str:
    if alternative in caption:
        return caption
    return alternative if caption in alternative else f"{caption}\n{alternative}"


def _address(uri: str) -> str:
    address = urldefrag(uri.strip("<> "))[0]
    return address if urlsplit(address).path else f"{address}/"


def _caption(image: LexborNode) -> str:
    """Caption of the figure that holds this image and no other."""
    node = image.parent
    for _ in range(ANCESTORS):
        if node is None:
            return ""
        classes = set((node.attributes.get("class") or "").split())
        if node.tag == "figure" or classes & FIGURE_CLASSES:
            if len(node.css("img")) > 1:
                return ""
            for selector in CAPTION_SELECTORS:
                if (found := node.css_first(selector)) is not None and (text := _clean(found.text(separator=" "))):
                    return text
        node = node.parent
    return ""


def _clean(text: str | None) -> str:
    return " ".join((text or "").split())
