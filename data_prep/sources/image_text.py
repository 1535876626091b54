"""Image–text pairs: WebDataset tars and Parquet tables."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.plan import ImageTableSource, WebDatasetSource
from data_prep.records import Bad, Record
from data_prep.sources.spans import Span, whole_files

IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "webp", "gif"}
TEXT_SUFFIXES = ("txt", "caption", "json")
ROWS_AT_ONCE = 64


def spans(source: WebDatasetSource | ImageTableSource, *, unit_bytes: int) -> list[Span]:
    return whole_files(source.paths, source=source.name)


def read(source: WebDatasetSource | ImageTableSource, span: Span) -> Iterator[Record | Bad]:
    """The pairs of a file, in order."""
    pairs = _tar_pairs(source, span) if isinstance(source, WebDatasetSource) else _table_pairs(source, span)
    for pair in pairs:
        if isinstance(pair, Bad):
            yield pair
            continue
        key, text, image = pair
        yield Record(f"{source.name}:{span.label}:{key}", f"{span.path}#{key}", text=text, images=[image], language=source.language)


def _tar_pairs(source: WebDatasetSource, span: Span) -> Iterator[tuple[str, str, bytes] | Bad]:
    """Members that share a name up to the first dot of their base name are one sample; nothing is written to disk."""
    key, sample = "", dict[str, bytes]()
    try:
        with tarfile.open(span.path, "r|*") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                name = f"{folder}/{stem}" if folder else stem
                if name != key:
                    if sample:
                        yield _tar_sample(span, key, sample, source.caption_field)
                    key, sample = name, {}
                suffix = suffix.lower()
                if suffix not in IMAGE_SUFFIXES and suffix not in TEXT_SUFFIXES:
                    continue
                if member.size > source.max_member_bytes:
                    yield Bad(span.path, member.name, f"larger than {source.max_member_bytes} bytes")
                    continue
                stream = tar.extractfile(member)
                sample[suffix] = stream.read() if stream is not None else b""
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
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
    """Rows of a Parquet file; an image is binary, or a struct with `bytes` as `datasets` writes it."""
    number = -1
    try:
        with pq.ParquetFile(span.path) as file:
            missing = {source.image_column, source.text_column} - set(file.schema_arrow.names)
            if missing:
                yield Bad(span.path, "all rows", f"no column `{min(missing)}`")
                return
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[source.image_column, source.text_column]):
                for row in batch.to_pylist():
                    number += 1
                    image = _image_bytes(row[source.image_column])
                    text = row[source.text_column]
                    if image is None or not isinstance(text, str):
                        yield Bad(span.path, f"row {number}", "no image" if image is None else "no caption")
                    else:
                        yield str(number), text.strip(), image
    except (pa.ArrowException, OSError) as error:
        yield Bad(span.path, f"after row {number}", f"the rest of the file cannot be read ({error})")


def _image_bytes(value: Any) -> bytes | None:
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) and value else None
