"""Pairs of texts, such as titles and bodies, questions and answers, or translations, into shards for the text contrast.

A pair is one document: its two texts, and perhaps a hard negative, each from its begin mark to its end mark. Pairs that share
their first text, or what the `group` field says, share a content id, so they are never each other's negatives.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from rwtrain.data.shards import Document, ShardWriter
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer
from rwtrain.errors import DataError

DELIMITERS = {".tsv": "\t", ".csv": ","}


@dataclass(frozen=True)
class Fields:
    """Names of the fields of a record; `negative` and `group` may be missing from some records, or be None for none."""

    first: str = "first"
    second: str = "second"
    negative: str | None = "negative"
    group: str | None = "group"


def write_pairs(files: Sequence[str | Path], out: str | Path, *, tokenizer: Tokenizer, fields: Fields) -> dict[str, Any]:
    """Write pair shards and return their manifest.

    Args:
        files: JSON lines, or tables with a header (.tsv, .csv); each may be gzipped.

    Raises:
        DataError: a record lacks a text; names the file and the line.
    """
    hard = 0
    provenance: dict[str, Any] = {"kind": "pairs", "files": [str(file) for file in files], "fields": vars(fields)}
    with ShardWriter(out, vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash, provenance=provenance) as writer:
        for file in files:
            for line, record in read_records(Path(file)):
                texts = [_text(record, name, file, line) for name in (fields.first, fields.second)]
                negative = record.get(fields.negative) if fields.negative else None
                if negative:
                    texts.append(_text(record, str(fields.negative), file, line))
                    hard += 1
                tokens = [np.concatenate(([BOS_ID], tokenizer.encode(text), [EOS_ID])) for text in texts]
                group = str(record.get(fields.group) or texts[0]) if fields.group else texts[0]
                content = xxhash.xxh3_64_intdigest(group.strip().encode())
                writer.add(Document(doc_id=f"{Path(file).name}:{line}", tokens=np.concatenate(tokens), content_id=content, source=str(file)))
        provenance["hard_negatives"] = hard
    return writer.close()


def read_records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, fields) of every record of a file."""
    suffix = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as raw, io.TextIOWrapper(raw, "utf-8", newline="") as stream:
            if suffix in DELIMITERS:
                reader = csv.DictReader(stream, delimiter=DELIMITERS[suffix], quoting=csv.QUOTE_NONE if suffix == ".tsv" else csv.QUOTE_MINIMAL)
                for record in reader:
                    yield reader.line_num, record
                return
            for line, text in enumerate(stream, 1):
                if text.strip():
                    yield line, _parsed(text, file, line)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(file, f"cannot be read ({error})", "Give JSON lines, .tsv or .csv in UTF-8") from error


def _parsed(text: str, file: Path, line: int) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise DataError(file, f"not JSON ({error})", "Give one JSON object on each line", record=line) from error
    if not isinstance(record, dict):
        raise DataError(file, f"a {type(record).__name__}, not an object", "Give one JSON object on each line", record=line)
    return record


def _text(record: dict[str, Any], name: str, file: str | Path, line: int) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        known = ", ".join(map(str, record))
        raise DataError(file, f"no text in the field {name!r} (its fields: {known})", "Name the fields with --first, --second and --negative", record=line)
    return value
