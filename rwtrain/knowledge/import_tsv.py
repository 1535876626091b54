"""Import a graph of tab-separated triples: a folder with train, valid and test files, in the layout of FB15k-237.

Files of the folder, each also as .gz: `train.tsv` (or .txt), and optionally `valid`, `test`; `entity2wikidata.json`
({"id": {"label", "alternatives", "description", "wikidata_id", "wikipedia"}}); `relation2text.tsv` (relation, words).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from rwtrain.errors import DataError
from rwtrain.knowledge.importing import import_sources
from rwtrain.knowledge.parts import ALIAS, DESCRIPTION, LABEL, TITLE, WIKIDATA_ID, Part
from rwtrain.knowledge.reading import OPENERS, UNIT_BYTES, UNREADABLE, Source, cannot_be_read, decoded_lines, is_done
from rwtrain.knowledge.store import SPLITS, normal_title
from rwtrain.knowledge.writing import Rejects

NAMES_PER_PART = 200_000
READ_CHARACTERS = 1 << 20
NAMES_FORM = 'Write it as {"id": {"label": …, "alternatives": […], "description": …, "wikidata_id": …}}'


def find(folder: Path, *names: str) -> Path | None:
    """The first of `names` that exists in `folder`, plain or with .gz."""
    return next((path for name in names for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_lines(path: Path, rejects: Rejects) -> Iterator[tuple[int, str]]:
    """(line number, text) of a plain, gzip or bzip2 text file; lines that are not UTF-8 are set aside.

    Raises:
        DataError: the file cannot be read, or the compressed stream is truncated or corrupt.
    """
    number = 0
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    yield number, line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    rejects.add(path.name, number, "not UTF-8", repr(line))
    except UNREADABLE as error:
        raise cannot_be_read(path, number, error) from error


def import_tsv(
    source: str | Path,
    out: str | Path,
    *,
    languages: Sequence[str] = ("en",),
    workers: int | None = None,
    unit_bytes: int = UNIT_BYTES,
    quiet: bool = True,
) -> dict[str, Any]:
    """Import the folder `source` into the store `out`; return the store's manifest.

    Rows are numbered in order of first appearance in train, valid, test, so the same files always give the same store. Lines that
    are not three non-empty columns, repeated triples, triples of valid or test that already stand in train or whose relation train does not
    have are counted and set aside.

    Args:
        source: the folder.
        out: the store to write.
        languages: the first one is the language of the names.
        workers, unit_bytes, quiet: see `import_sources`.

    Raises:
        DataError: there is no train file, or a file is unreadable.
    """
    source, rejects = Path(source), Rejects()
    if not source.is_dir():
        raise DataError(source, "not a folder", "Give the folder that holds train.tsv (or .txt, .gz)")
    files = {split: find(source, f"{split}.tsv", f"{split}.txt") for split in SPLITS}
    if files[SPLITS[0]] is None:
        raise DataError(source, "no train.tsv, train.txt or .gz of them", "Give the folder that holds the triples")
    names, texts = find(source, "entity2wikidata.json"), find(source, "relation2text.tsv", "relation2text.txt")
    return import_sources(
        [Source(path, parse_triples, None, label=split) for split, path in files.items() if path],
        Path(out),
        provenance={"importer": "tsv"},
        languages=tuple(languages[:1]),
        extra=(names, lambda folder: _names_parts(names, folder)) if names else None,
        relation_labels=_read_relation_texts(texts, rejects) if texts else None,
        rejects=rejects,
        nothing="no line holds a triple",
        workers=workers,
        unit_bytes=unit_bytes,
        quiet=quiet,
    )


def parse_triples(text: bytes, part: Part, options: None) -> None:
    """Add lines of three columns to a part."""
    for number, line in decoded_lines(text, part):
        columns = line.split("\t")
        if len(columns) != 3 or not all(columns):
            part.reject(number, "not three tab-separated columns", line)
            continue
        head, relation, tail = columns
        part.link(part.mention(head), relation, part.mention(tail), number)


def _names_parts(path: Path, folder: Path) -> list[Path]:
    """Facts of the names' file, in parts of 200,000 entities."""
    prefixes: list[Path] = []
    part = Part(path.name)

    def save() -> None:
        prefixes.append(folder / f"names-{len(prefixes):06d}")
        if not is_done(prefixes[-1]):
            part.save(prefixes[-1])

    for count, (name, entry) in enumerate(_members(path), 1):
        try:
            _add_names(part, name, entry)
        except (TypeError, AttributeError, UnicodeEncodeError):
            part.rejects.add(path.name, name, "entity names are not a JSON object of texts", str(entry))
        if count % NAMES_PER_PART == 0:
            save()
            part = Part(path.name)
    save()
    return prefixes


def _add_names(part: Part, name: str, entry: dict[str, Any]) -> None:
    texts = {key: _text(entry.get(key)) for key in ("label", "wikidata_id", "description", "wikipedia")}
    aliases = [text for text in map(_text, entry.get("alternatives") or []) if text]
    number = part.number(name)
    for kind, key in ((WIKIDATA_ID, "wikidata_id"), (LABEL, "label"), (DESCRIPTION, "description")):
        if texts[key]:
            part.fact(number, kind, texts[key])
    for alias in aliases:
        part.fact(number, ALIAS, alias)
    host, found, title = texts["wikipedia"].partition(".wikipedia.org/wiki/")
    if found:
        part.fact(number, TITLE, f"{host.rpartition('/')[2].replace('-', '_')}wiki:{normal_title(unquote(title))}")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()
    return value


def _members(path: Path) -> Iterator[tuple[str, Any]]:
    """The members of a file that is one JSON object, read piece by piece."""
    decoder = json.JSONDecoder()
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as stream:
            buffer = _Buffer(stream)
            if buffer.next_character() != "{":
                raise DataError(path, "not a JSON object of entity id to names", NAMES_FORM)
            buffer.skip(1)
            if buffer.next_character() == "}":
                return
            while True:
                name = buffer.value(decoder)
                if not isinstance(name, str) or buffer.next_character() != ":":
                    raise ValueError("a text and a colon are expected")
                buffer.skip(1)
                yield name, buffer.value(decoder)
                end = buffer.next_character()
                buffer.skip(1)
                if end == "}":
                    return
                if end != ",":
                    raise ValueError("a comma or a closing brace is expected")
    except UNREADABLE as error:
        raise cannot_be_read(path, 0, error) from error
    except ValueError as error:
        raise DataError(path, f"not valid JSON ({error})", "Download the file again") from error


class _Buffer:
    """The next characters of a file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder("utf-8")()
        self._text, self._place, self._ended = "", 0, False

    def next_character(self) -> str:
        """The next character that is not blank, "" at the end; it stays."""
        while True:
            while self._place < len(self._text) and self._text[self._place].isspace():
                self._place += 1
            if self._place < len(self._text) or self._ended:
                return self._text[self._place : self._place + 1]
            self._more()

    def skip(self, count: int) -> None:
        self._place += count

    def value(self, decoder: json.JSONDecoder) -> Any:
        """The next JSON value."""
        self.next_character()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._place)
            except ValueError:
                if self._ended:
                    raise
            else:
                if end < len(self._text) or self._ended:  # a number at the end of the buffer may go on
                    self._place = end
                    return value
            self._more()

    def _more(self) -> None:
        data = self._stream.read(READ_CHARACTERS)
        self._ended = not data
        self._text, self._place = self._text[self._place :] + self._decoder.decode(data, self._ended), 0


def _read_relation_texts(path: Path, rejects: Rejects) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in read_lines(path, rejects):
        relation, separator, text = line.partition("\t")
        if not separator or not relation:
            rejects.add(path.name, number, "not two tab-separated columns", line)
            continue
        texts[relation] = text.strip()
    return texts
