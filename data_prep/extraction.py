"""Main text of a page: character decoding, HTML by `data_prep.html`, wikitext by mwparserfromhell."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from data_prep.html.scanning import count_replacements
from data_prep.links import Link, wiki_page
from data_prep.main_content import main_text, whole_text
from data_prep.plan import ExtractNode
from data_prep.records import Bad, Record, Removed
from data_prep.wikitext import wikitext_to_text
from rwtrain.errors import RWTrainError

# A page with more undecodable bytes than this share of its characters is noise, not text.
MAX_UNDECODABLE = 0.01
META_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.IGNORECASE)


class Extract:
    """Fill `text` from `raw`: bytes are taken for HTML, a string for wikitext; records that have text already pass."""

    name = "extract"

    def __init__(self, config: ExtractNode) -> None:
        self.config = config

    def __call__(self, records: list[Record]) -> list[Record | Removed | Bad]:
        return [self._one(record) for record in records]

    def _one(self, record: Record) -> Record | Removed | Bad:
        try:
            text, links = self._text(record)
        except (ValueError, RuntimeError, RecursionError) as error:
            return Bad(record.source, record.doc_id, f"no text can be extracted ({type(error).__name__}: {error})")
        if text is None:
            return Bad(record.source, record.doc_id, "invalid UTF-8, and no other encoding fits")
        if len(text) < self.config.min_characters:
            return Removed("no text")
        return replace(record, text=text, raw=None, cache={}, links=links)

    def _text(self, record: Record) -> tuple[str | None, list[Link]]:
        if isinstance(record.raw, str):
            text, links = wikitext_to_text(record.raw)
            return text, [link._replace(page=wiki_page(record.language, link.page)) for link in links]
        if record.raw is None:
            return record.text.strip(), []
        page = as_utf8(record.raw, record.charset)
        if (undecodable := count_replacements(np.frombuffer(page, np.uint8))) and undecodable > MAX_UNDECODABLE * len(page.decode()):
            return None, []
        return METHODS[self.config.method](page).strip(), []


def trafilatura_text(page: bytes) -> str:
    """Text by trafilatura, the most careful and slowest; its memory of lines across pages stays off, so the result depends on the page only."""
    try:
        from trafilatura import extract
    except ModuleNotFoundError as error:
        raise RWTrainError("`extract.method: trafilatura` needs the package trafilatura. Install it with: pip install trafilatura") from error
    return extract(page.decode(), include_comments=False, favor_precision=True, deduplicate=False) or ""


METHODS = {"scored": main_text, "whole": whole_text, "trafilatura": trafilatura_text}


def as_utf8(data: bytes, charset: str | None) -> bytes:
    """A page in UTF-8: as it is if it is that, else decoded as `decode` does."""
    return data if is_utf8(data) else decode(data, charset).encode("utf-8", "replace")


def is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8; several times as fast as decoding them."""
    if data.isascii():
        return True
    ends = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        pa.Array.from_buffers(pa.large_string(), 1, [None, ends, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def decode(data: bytes, charset: str | None) -> str:
    """Text of a page's bytes: UTF-8 if they are, else the declared encoding, else the detected one, with U+FFFD for what fits none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    in_page = META_CHARSET.search(data, 0, 4096)
    for name in (charset, in_page[1].decode("ascii") if in_page else None):
        encoding = map_encoding_to_html5(name, fallback_utf8=False) if name else None
        if encoding and encoding != "utf-8":
            return data.decode(encoding, "replace")
    encoding = map_encoding_to_html5(detect_encoding(data) or "utf-8", fallback_utf8=True)
    return data.decode(encoding or "utf-8", "replace")
