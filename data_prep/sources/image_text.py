"""Image–text pairs: WebDataset tars, and tables (Parquet, Arrow, saved datasets)."""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.records import Bad, Record
from data_prep.source_plan import ImageTableSource, WebDatasetSource
from data_prep.sources import tables
from data_prep.sources.plain import COMPRESSED, cut_plain, open_plain
from data_prep.sources.spans import Cuts, Span, at_places

IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "webp", "gif"}
TEXT_SUFFIXES = ("txt", "caption", "json")
TAR_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error)


def cut(source: WebDatasetSource | ImageTableSource, path: str, prefix: Path, *, unit_bytes: int) -> Cuts:
    if isinstance(source, ImageTableSource):
        return tables.cut(path, unit_bytes=unit_bytes)
    return cut_plain(path, prefix, unit_bytes=unit_bytes, cut=lambda stream, size: _cut_tar(path, stream, size, unit_bytes=unit_bytes))


def read(source: WebDatasetSource | ImageTableSource, span: Span) -> Iterator[Record | Bad]:
    """The pairs of a stretch, in order."""
    pairs = _tar_pairs(source, span) if isinstance(source, WebDatasetSource) else _table_pairs(source, span)
    for pair in pairs:
        if isinstance(pair, Bad):
            yield pair
            continue
        key, text, image = pair
        yield Record(f"{source.name}:{span.label}:{key}", f"{span.path}#{key}", text=text, images=[image], language=source.language)


def _cut_tar(path: str, stream: BinaryIO, size: int, *, unit_bytes: int) -> Cuts:
    """Cuts between samples; reads the members' headers only."""
    places: list[int] = []
    previous = None
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                if member.isfile() and (name := _sample_name(member.name)[0]) != previous:
                    places.append(member.offset)
                    previous = name
                tar.members.clear()  # type: ignore[attr-defined]
            end = tar.offset
    except TAR_ERRORS:
        return at_places(places, size, unit_bytes=unit_bytes)  # the reader of the last stretch says why
    cuts = at_places(places, size, unit_bytes=unit_bytes)
    stream.seek(end)
    if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
        cuts.bad.append(Bad(path, f"byte {end}", "no tar header; the rest of the tar cannot be read"))
    return cuts


def _sample_name(member: str) -> tuple[str, str]:
    """Name of a member's sample, which is its name up to the first dot of its base name, and its suffix."""
    folder, _, base = member.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, suffix.lower()


def _tar_pairs(source: WebDatasetSource, span: Span) -> Iterator[tuple[str, str, bytes] | Bad]:
    """Members that share a sample's name are one sample; nothing is written to disk."""
    key, sample = "", dict[str, bytes]()
    is_whole = span.start == 0 and span.index is None and span.path.partition("::")[0].endswith((*COMPRESSED, ".tgz"))
    try:
        with open_plain(span) as stream:
            stream.seek(span.start)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    if member.offset >= span.stop and not is_whole:
                        break
                    tar.members.clear()  # type: ignore[attr-defined]
                    if not member.isfile():
                        continue
                    name, suffix = _sample_name(member.name)
                    if name != key:
                        if sample:
                            yield _tar_sample(span, key, sample, source.caption_field)
                        key, sample = name, {}
                    if suffix not in IMAGE_SUFFIXES and suffix not in TEXT_SUFFIXES:
                        continue
                    if member.size > source.max_member_bytes:
                        yield Bad(span.path, member.name, f"larger than {source.max_member_bytes} bytes")
                        continue
                    data = tar.extractfile(member)
                    sample[suffix] = data.read() if data is not None else b""
    except TAR_ERRORS as error:
        yield Bad(span.path, f"after {key or 'the beginning'}", f"the rest of the tar cannot be read ({error})")
        return
    if sample:
        yield _tar_sample(span, key, sample, source.caption_field)


def _tar_sample(span: Span, key: str, sample: dict[str, bytes], caption_field: str) -> tuple[str, str, bytes] | Bad:
    image = next((sample[suffix] for suffix in sample if suffix in IMAGE_SUFFIXES), None)
    suffix = next((suffix for suffix in TEXT_SUFFIXES if suffix in sample), None)
    if image is None or suffix is None:
        return Bad(span.path, key, "no image beside its caption" if image is None else "no caption beside its image")
    try:
        text = sample[suffix].decode("utf-8")
        caption = json.loads(text).get(caption_field) if suffix == "json" else text
    except (ValueError, AttributeError) as error:
        return Bad(span.path, key, f"the caption cannot be read ({error})")
    return (key, caption.strip(), image) if isinstance(caption, str) else Bad(span.path, key, f"no text in the field `{caption_field}`")


def _table_pairs(source: ImageTableSource, span: Span) -> Iterator[tuple[str, str, bytes] | Bad]:
    """Rows of a Parquet or Arrow file; an image is binary, or a struct with `bytes` as `datasets` writes it."""
    for item in tables.rows(span, [source.image_column, source.text_column]):
        if isinstance(item, Bad):
            yield item
            continue
        number, row = item
        image, text = _image_bytes(row[source.image_column]), row[source.text_column]
        if image is None or not isinstance(text, str):
            yield Bad(span.path, f"row {number}", "no image" if image is None else "no caption")
        else:
            yield str(number), text.strip(), image


def _image_bytes(value: Any) -> bytes | None:
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) and value else None
