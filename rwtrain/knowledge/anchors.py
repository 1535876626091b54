"""What Wikipedia calls its entities: the texts of the links in a dump, counted by the entity that each leads to.

Links of articles are counted by (text, page); pages lead to entities by the store's titles, through redirects. The result is an Arrow file
in the store, sorted by text, which an entity linker reads as the probability of an entity given a name.
"""

from __future__ import annotations

import html
import json
import logging
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from rwtrain.errors import DataError
from rwtrain.files import atomic_path, content_hash, write_json
from rwtrain.knowledge.numbering import follow_redirects, read_summary
from rwtrain.knowledge.pages import PageRows
from rwtrain.knowledge.parts import finish_part, load_columns, save_columns
from rwtrain.knowledge.reading import OPENERS, UNIT_BYTES, UNREADABLE, Source, Unit, cannot_be_read, fingerprint, open_work, parse_sources, unit_text
from rwtrain.knowledge.store import ANCHORS, MANIFEST, EntityStore, hash_ids, normal_title
from rwtrain.knowledge.writing import Rejects

logger = logging.getLogger(__name__)

ANCHOR_SCHEMA = pa.schema({"surface": pa.string(), "entity": pa.int64(), "count": pa.int64()})
PART_SCHEMA = pa.schema({"surface": pa.string(), "page": pa.uint64(), "count": pa.int64()})
REDIRECT_SCHEMA = pa.schema({"source": pa.uint64(), "target": pa.uint64()})
MERGED_ROWS = 1 << 21
LONGEST_SURFACE = 100
HEAD_BYTES = 1 << 16

COMMENT = re.compile(r"<!--.*?-->|<nowiki>.*?</nowiki>|<math\b.*?</math>", re.DOTALL)
LINK = re.compile(r"\[\[([^\[\]{}|<>\n]+)(?:\|([^\[\]{}\n]*))?\]\]([a-z\u00df-\u00f6\u00f8-\u00ff]*)")
MARKUP = re.compile(r"'{2,}|<[^<>]*>")
NAMESPACE = re.compile(r'<namespace key="(-?[1-9]\d*)"[^>]*>([^<]+)</namespace>')
DATABASE = re.compile(r"<dbname>(\w+)</dbname>")
FURTHER_PREFIXES = frozenset({"image", "wp", "project"})


def count_anchors(
    store: EntityStore, dumps: Sequence[str | Path], *, workers: int | None = None, unit_bytes: int = UNIT_BYTES, quiet: bool = True
) -> dict[str, Any]:
    """Count the links of Wikipedia XML dumps and put `anchors.arrow` into the store; return what is said about it in the manifest.

    Args:
        store: whose titles (of the dumps' wikis) name the entities; if it has none of any wiki, labels that only one entity has.
        dumps: pages-articles files, plain, .gz or .bz2; the wiki is read from their first lines.
        workers, unit_bytes, quiet: as for an import. A killed run goes on where it was.

    Raises:
        DataError: a dump cannot be read to its end, or is not a MediaWiki dump.
    """
    paths = [Path(dump) for dump in dumps]
    sources = []
    for path in paths:
        wiki, prefixes = _site(path)
        sources.append(Source(path, None, (wiki, prefixes), label=wiki, end=b"</page>"))
    folder = store.folder.with_name(f".{store.folder.name}.anchors")
    if open_work(folder, {"files": fingerprint(paths), "unit_bytes": unit_bytes}):
        logger.info("continuing the count that was interrupted (%s)", folder)
    workers = workers or len(os.sched_getaffinity(0))
    parsed = parse_sources(sources, folder, unit_bytes=unit_bytes, workers=workers, quiet=quiet, parse=count_unit)
    parts = [prefix for found in parsed for prefix in found]
    details, redirects = _redirects(parts)
    rows = PageRows(store, sorted({source.label for source in sources}), redirects)
    with atomic_path(store.folder / ANCHORS) as path:
        details |= _merge(parts, rows, path, quiet)
    details["sources"] = [{"file": path.name, "hash": content_hash(path)} for path in paths]
    details["match"] = "labels" if rows.by_label else "titles"
    rejects = Rejects()
    for part in parts:
        summary = read_summary(part)
        rejects.counts.update(summary["rejects"])
        rejects.kept += summary["kept"]
    details["rejects"] = dict(rejects.counts)
    if rejects.counts:
        rejects.write(store.folder / "anchors.rejects.jsonl")
    file = {"bytes": (store.folder / ANCHORS).stat().st_size, "hash": content_hash(store.folder / ANCHORS)}
    manifest = json.loads((store.folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][ANCHORS] = file
    write_json(store.folder / MANIFEST, manifest | {"anchors": details})
    shutil.rmtree(folder)
    return details


def _site(path: Path) -> tuple[str, frozenset[str]]:
    """The dump's wiki ("enwiki") and the prefixes of titles that are not articles, in lower case."""
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as stream:
            head = stream.read(HEAD_BYTES).decode("utf-8", "replace")
    except UNREADABLE as error:
        raise cannot_be_read(path, 0, error) from error
    database = DATABASE.search(head)
    if database is None:
        raise DataError(path, "not a MediaWiki XML dump (no <dbname> in its first lines)", "Give a file such as enwiki-latest-pages-articles.xml.bz2")
    return database[1], frozenset(html.unescape(found[2]).lower() for found in NAMESPACE.finditer(head)) | FURTHER_PREFIXES


def count_unit(unit: Unit, prefix: Path) -> None:
    """Count the links of a stretch of a dump."""
    wiki, prefixes = unit.source.options
    counts: Counter[tuple[str, str]] = Counter()
    redirects: list[tuple[str, str]] = []
    rejects, articles = Rejects(), 0
    for title, redirect, wikitext in _pages(unit_text(unit), unit, rejects):
        if redirect:
            redirects.append((normal_title(title), normal_title(redirect)))
            continue
        articles += 1
        counts.update(links(wikitext, prefixes))
    ordered = sorted(counts)
    pages = hash_ids([f"{wiki}:{page}" for _, page in ordered])
    columns = {"surface": [surface for surface, _ in ordered], "page": pages, "count": [counts[key] for key in ordered]}
    save_columns(prefix, "anchors", PART_SCHEMA, columns)
    source, target = (hash_ids([f"{wiki}:{pair[side]}" for pair in redirects]) for side in (0, 1))
    save_columns(prefix, "redirects", REDIRECT_SCHEMA, {"source": source, "target": target})
    finish_part(prefix, {"articles": articles, "links": counts.total(), "rejects": dict(rejects.counts), "kept": rejects.kept})


def links(wikitext: str, prefixes: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(text, page title) of the links to articles in a wikitext; letters right after a link belong to its text, as MediaWiki shows it."""
    for target, text, trail in LINK.findall(COMMENT.sub("", wikitext)):
        target = html.unescape(target).strip()
        page = normal_title(target.removeprefix(":"))
        if not page or page.partition(":")[0].strip().lower() in prefixes:
            continue
        surface = " ".join(MARKUP.sub("", html.unescape(text or target.removeprefix(":").replace("_", " "))).split()) + trail
        if surface and len(surface) <= LONGEST_SURFACE:
            yield surface, page


def _pages(text: bytes, unit: Unit, rejects: Rejects) -> Iterator[tuple[str, str, str]]:
    """(title, title it redirects to or "", wikitext) of the articles in a stretch of a dump."""
    start, stop = text.find(b"<page>"), text.rfind(b"</page>") + len(b"</page>")
    name = unit.source.path.name
    if text.rfind(b"<page>") >= stop:
        rejects.add(name, f"byte {unit.start}", "page without an end")
    if start < 0 or stop <= start:
        return
    try:
        root = ElementTree.fromstring(b"<pages>" + text[start:stop] + b"</pages>")
        pages = list(root)
    except (ElementTree.ParseError, ValueError):
        pages = list(_sound_pages(text[start:stop], unit, rejects))
    for page in pages:
        if page.findtext("ns") == "0":
            redirect = page.find("redirect")
            yield page.findtext("title") or "", "" if redirect is None else redirect.get("title", ""), page.findtext("revision/text") or ""


def _sound_pages(text: bytes, unit: Unit, rejects: Rejects) -> Iterator[ElementTree.Element]:
    """The pages that are well-formed, one by one."""
    for piece in text.split(b"</page>")[:-1]:
        try:
            yield ElementTree.fromstring(piece[piece.index(b"<page>") :] + b"</page>")
        except (ElementTree.ParseError, ValueError) as error:
            title = piece.partition(b"<title>")[2].partition(b"</title>")[0].decode("utf-8", "replace")
            rejects.add(unit.source.path.name, title, f"page is not XML ({type(error).__name__})", str(error))


def _redirects(parts: list[Path]) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray]]:
    """What was counted, and (page, page it finally leads to) of all redirects that end."""
    batches = [load_columns(part, "redirects") for part in parts]
    pairs = [np.concatenate([np.zeros(0, np.uint64), *(batch.column(side).to_numpy() for batch in batches)]) for side in ("source", "target")]
    source, final, cyclic = follow_redirects(*pairs)
    summaries = [read_summary(part) for part in parts]
    details = {"articles": sum(each["articles"] for each in summaries), "links": sum(each["links"] for each in summaries)}
    return details | {"redirects": len(source), "cyclic_redirects": int(cyclic.sum())}, (source[~cyclic], final[~cyclic])


def _merge(parts: list[Path], rows: PageRows, path: Path, quiet: bool) -> dict[str, int]:
    """Add up the parts, a range of texts at a time, so that a range has about two million rows."""
    columns = [load_columns(part, "anchors") for part in parts]
    total = sum(len(batch) for batch in columns)
    ranges = max(1, -(-total // MERGED_ROWS))
    every = max(1, MERGED_ROWS // 64)
    samples = sorted(batch.column("surface")[place].as_py() for batch in columns for place in range(0, len(batch), every))
    bounds = sorted({samples[number * len(samples) // ranges] for number in range(1, ranges)} if samples else set())
    starts = [[0] * len(columns)] + [[_bisect(batch.column("surface"), bound) for batch in columns] for bound in bounds]
    starts.append([len(batch) for batch in columns])
    details = {"surfaces": 0, "pairs": 0, "linked": 0, "links_to_pages_without_entity": 0}
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, ANCHOR_SCHEMA) as writer:
        for number in tqdm(range(len(starts) - 1), desc="merging", unit="range", disable=quiet):
            pieces = [batch.slice(first, last - first) for batch, first, last in zip(columns, starts[number], starts[number + 1], strict=True)]
            table = pa.Table.from_batches(pieces, PART_SCHEMA)
            entity = rows.find(table.column("page").to_numpy())
            known = entity >= 0
            count = table.column("count").to_numpy()
            details["links_to_pages_without_entity"] += int(count[~known].sum())
            details["linked"] += int(count[known].sum())
            table = pa.table({"surface": table.column("surface"), "entity": entity, "count": count}).filter(pa.array(known))
            table = table.group_by(["surface", "entity"], use_threads=False).aggregate([("count", "sum")]).rename_columns({"count_sum": "count"})
            table = table.sort_by([("surface", "ascending"), ("count", "descending"), ("entity", "ascending")])
            details["pairs"] += len(table)
            details["surfaces"] += len(table.column("surface").unique())
            writer.write_table(table.select(ANCHOR_SCHEMA.names).cast(ANCHOR_SCHEMA).combine_chunks(), max_chunksize=MERGED_ROWS)
    return details


def _bisect(texts: pa.Array, bound: str) -> int:
    """How many of the sorted texts are smaller than the bound."""
    low, high = 0, len(texts)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if texts[middle].as_py() < bound else (low, middle)
    return low
