"""WARC and WET files: pages of Common Crawl, read by FastWARC, with every unusable record named."""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from data_prep.inputs import open_input, size_of
from data_prep.records import Bad, Record
from data_prep.source_plan import WarcSource, WetSource
from data_prep.sources.gzip_members import MAGIC, MemberError, find_member, read_member
from data_prep.sources.plain import COMPRESSED, cut_plain, open_plain
from data_prep.sources.spans import Cuts, Span, at_places, even

BEGINNING = b"WARC/"
# A record around a page is little larger than the page; beyond this an inflated member is taken for a decompression bomb.
HEADER_ALLOWANCE = 1 << 20
SUCCESS = 200
HEADER_PIECE = 1 << 14
CONTENT_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d+)")
HTML_TYPES = ("text/html", "application/xhtml+xml")


@dataclass(slots=True)
class Page:
    """One page as it lies in the file."""

    offset: int
    length: int
    uri: str
    content_type: str
    charset: str | None
    status: int | None
    body: bytes


def cut(source: WarcSource | WetSource, path: str, prefix: Path, *, unit_bytes: int) -> Cuts:
    with open_input(path) as stream:
        if has_member_per_record(stream):
            return even(size_of(path), unit_bytes=unit_bytes)
    return cut_plain(path, prefix, unit_bytes=unit_bytes, cut=lambda stream, size: at_places(list(_record_places(stream, size)), size, unit_bytes=unit_bytes))


def _record_places(stream: BinaryIO, size: int) -> Iterator[int]:
    """Where the records of an uncompressed file begin, from header to header, up to the first that is none."""
    place = 0
    while place < size:
        stream.seek(place)
        head = stream.read(HEADER_PIECE)
        length = CONTENT_LENGTH.search(head.partition(b"\r\n\r\n")[0])
        if not head.startswith(BEGINNING) or length is None:
            return
        yield place
        place += head.index(b"\r\n\r\n") + int(length[1]) + 8 if b"\r\n\r\n" in head else size


def read(source: WarcSource | WetSource, span: Span) -> Iterator[Record | Bad]:
    """The pages of a span: HTML in `raw` for WARC, text for WET."""
    kind = WarcRecordType.response if isinstance(source, WarcSource) else WarcRecordType.conversion
    for page in read_pages(span, kind=kind, max_record_bytes=source.max_record_bytes):
        if isinstance(page, Bad):
            yield page
        elif isinstance(source, WetSource):
            yield _text_record(source, span, page)
        elif page.content_type in HTML_TYPES and page.status == SUCCESS:
            yield Record(_doc_id(source, span, page), page.uri, raw=page.body, charset=page.charset)


def _doc_id(source: WarcSource | WetSource, span: Span, page: Page) -> str:
    return f"{source.name}:{span.label}:{page.offset}"


def _text_record(source: WetSource, span: Span, page: Page) -> Record | Bad:
    try:
        return Record(_doc_id(source, span, page), page.uri, text=page.body.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Bad(span.path, str(page.offset), f"invalid UTF-8 at byte {error.start} of the record")


def read_pages(span: Span, *, kind: WarcRecordType, max_record_bytes: int) -> Iterator[Page | Bad]:
    """The pages that begin in the span.

    After a damaged record, reading goes on at the next gzip member that begins a WARC record. A page is handed out only
    once the record after it could be read too, because a wrong Content-Length shows itself there.
    """
    with open_input(span.path) as stream:
        if not has_member_per_record(stream):
            yield from _read_unmarked(span, kind=kind, max_record_bytes=max_record_bytes)
            return
        position = 0 if span.start == 0 else find_member(stream, span.start, span.stop, beginning=BEGINNING)
        while position is not None and position < span.stop:
            position = yield from _read_until_damage(stream, span, position, kind=kind, max_record_bytes=max_record_bytes)


def read_page_at(stream: BinaryIO, offset: int, *, max_record_bytes: int) -> Page | None:
    """The page whose gzip member begins at `offset`, None if none does."""
    stream.seek(offset)
    try:
        record = next(_iterate(stream, WarcRecordType.any_type), None)
        return None if record is None or record.stream_pos != offset else _page(record, offset, max_record_bytes)
    except OSError:
        return None


def has_member_per_record(stream: BinaryIO) -> bool:
    """Whether the file is gzip whose first member holds a single record, as the standard recommends."""
    beginning = stream.read(HEADER_ALLOWANCE)
    if not beginning.startswith(MAGIC):
        return False
    try:
        content = zlib.decompressobj(31).decompress(beginning, HEADER_ALLOWANCE)
    except zlib.error:
        return True
    return b"\r\n\r\n" + BEGINNING not in content


def _read_until_damage(stream: BinaryIO, span: Span, start: int, *, kind: WarcRecordType, max_record_bytes: int) -> Generator[Page | Bad, None, int | None]:
    """Yield pages from `start`; return where to go on after damage, None at the end of the span."""
    held: Page | None = None
    last_good = start
    was_read = False
    stream.seek(start)
    try:
        for record in _iterate(stream, WarcRecordType.any_type):
            offset = record.stream_pos
            if offset >= span.stop:
                break
            if held is not None:
                yield _checked(held, span, max_record_bytes)
                held = None
            last_good, was_read = offset, record.record_type != kind
            if record.record_type == kind:
                held = _page(record, offset, max_record_bytes)
                if len(held.body) < min(held.length, max_record_bytes + 1) and _is_damaged(stream, offset, max_record_bytes):
                    raise OSError("cut short")
                was_read = True
    except OSError as error:
        return (yield from _step_over_damage(stream, span, last_good, was_read, held, str(error), max_record_bytes))
    if held is not None:
        yield _checked(held, span, max_record_bytes)
    return None


def _iterate(stream: BinaryIO, kinds: WarcRecordType) -> Iterator[WarcRecord]:
    return ArchiveIterator(stream, record_types=kinds, parse_http=True, auto_decode="all")


def _page(record: WarcRecord, offset: int, max_record_bytes: int) -> Page:
    content_type = record.http_content_type or record.headers.get("Content-Type") or ""
    length = record.content_length
    body = record.reader.read(max_record_bytes + 1)
    status = record.http_headers.status_code if record.http_headers is not None else None
    return Page(offset, length, record.headers.get("WARC-Target-URI") or "", content_type.lower(), record.http_charset, status, body)


def _checked(page: Page, span: Span, max_record_bytes: int) -> Page | Bad:
    if len(page.body) > max_record_bytes:
        return Bad(span.path, str(page.offset), f"larger than {max_record_bytes} bytes")
    return page


def _step_over_damage(
    stream: BinaryIO, span: Span, last: int, was_read: bool, held: Page | None, error: str, max_record_bytes: int
) -> Generator[Page | Bad, None, int | None]:
    """Report the damaged record, which is the `last` one that FastWARC began or the one after it; return where to go on.

    With `was_read` false, FastWARC failed on the `last` one itself, for example on its content encoding.
    """
    problem, after = _examine(stream, last, max_record_bytes)
    if problem or not was_read:
        yield Bad(span.path, str(last), problem or error)
        return find_member(stream, after, span.stop, beginning=BEGINNING)
    if held is not None:
        yield _checked(held, span, max_record_bytes)
    if after >= span.stop and find_member(stream, after, after + 1, beginning=BEGINNING) is not None:
        return None  # the next span begins there and reports it
    problem, beyond = _examine(stream, after, max_record_bytes)
    if not problem:
        return after  # only FastWARC's place was lost, as after a body that inflates beyond the limit
    yield Bad(span.path, str(after), problem)
    return find_member(stream, beyond, span.stop, beginning=BEGINNING)


def _is_damaged(stream: BinaryIO, offset: int, max_record_bytes: int) -> bool:
    """Whether a page is short because its record is damaged, not because its transfer encoding was undone."""
    position = stream.tell()
    problem, _ = _examine(stream, offset, max_record_bytes)
    stream.seek(position)
    return bool(problem)


def _examine(stream: BinaryIO, offset: int, max_record_bytes: int) -> tuple[str, int]:
    """What is wrong with the record in the member at `offset` ("" if nothing), and where the member ends."""
    try:
        content, after = read_member(stream, offset, max_bytes=max_record_bytes + HEADER_ALLOWANCE)
    except MemberError as error:
        return str(error), offset + 1
    head, separator, body = content.partition(b"\r\n\r\n")
    if not separator or not head.startswith(BEGINNING):
        return "no WARC header", after
    stated = re.search(rb"(?im)^content-length:[ \t]*(\S+)", head)
    if stated is None or not stated[1].isdigit():
        return "no usable Content-Length", after
    actual = len(body.removesuffix(b"\r\n\r\n"))
    if int(stated[1]) != actual:
        return f"Content-Length says {int(stated[1])} bytes, the record has {actual}", after
    return "", after


def _read_unmarked(span: Span, *, kind: WarcRecordType, max_record_bytes: int) -> Iterator[Page | Bad]:
    """A file whose records are not compressed one by one has no marks to go on at: a span is read up to the first damage.

    The place of a page is its first byte in the decompressed file.
    """
    last = span.start
    try:
        with open_plain(span) as stream:
            compressed = span.index is None and span.path.partition("::")[0].endswith(COMPRESSED)
            stream.seek(span.start)
            for record in _iterate(stream, WarcRecordType.any_type):
                last = record.stream_pos
                if last >= span.stop and not compressed:
                    return
                if record.record_type != kind:
                    continue
                page = _page(record, last, max_record_bytes)
                if len(page.body) < min(page.length, max_record_bytes + 1) and record.http_headers is None:
                    raise OSError(f"Content-Length says {page.length} bytes, {len(page.body)} follow")
                yield _checked(page, span, max_record_bytes)
    except (OSError, EOFError, zlib.error) as error:
        yield Bad(span.path, str(last), f"the rest of the stretch cannot be read ({error})")
