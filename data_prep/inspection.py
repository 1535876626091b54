"""Show what is in a dataset, readably: counts, packing, documents, entities and images."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.hashing import hash128_hex
from data_prep.packing_figures import describe_packing, measure_packing
from data_prep.plan import ReportNode
from rwtrain.data.shards import MANIFEST, ShardDataset
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.errors import DataError, RWTrainError
from rwtrain.files import atomic_path
from rwtrain.knowledge.store import EntityStore

SHOWN_DOCUMENTS = 5
# What a text could do to a terminal: move the cursor, change colours, reverse the writing direction.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SUFFIXES = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif"}


@dataclass(frozen=True, slots=True)
class Options:
    """What to show.

    Attributes:
        doc_id: one document in full instead of the first few in short.
        tokenizer: its model; by default `tokenizer/tokenizer.model` in a folder above.
        store: the entity store that mentions point into; by default the one that the corpus was linked with, if it is still there.
        save_images: folder for the images of the documents shown.
        seq_lens: row lengths to pack for; by default those of the plan.
    """

    doc_id: str | None = None
    tokenizer: str | None = None
    store: str | None = None
    save_images: str | None = None
    seq_lens: Sequence[int] = ()


def inspect(folder: str | Path, options: Options = Options()) -> str:
    """Text that shows a dataset's counts and first documents, or one document in full with its entities and images.

    Args:
        folder: a dataset, or a folder with datasets in it (each is shown in short).
        options: what to show.

    Raises:
        DataError: there is no dataset, no tokenizer or no such document.
        RWTrainError: the named entity store belongs to another corpus.
    """
    folder = Path(folder)
    found = [folder] if (folder / "shard-00000.arrow").exists() else sorted(path.parent for path in folder.glob(f"shards/*/*/{MANIFEST}"))
    if not found:
        raise DataError(folder, "no dataset here", "Give a folder that `rwtrain prep` wrote, or one of its shards/KIND/SPLIT folders")
    views = [_View(ShardDataset(path), options) for path in found]
    if options.doc_id is None:
        return "\n\n".join(view.overview() for view in views)
    for view in views:
        if (index := view.find(options.doc_id)) is not None:
            return view.document(index)
    raise DataError(folder, f"no document {options.doc_id!r}", "Run `rwtrain prep inspect` without --doc to see some ids")


class _View:
    """One dataset with its tokenizer and entity names."""

    def __init__(self, dataset: ShardDataset, options: Options) -> None:
        self.dataset = dataset
        self.options = options

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.options.tokenizer or self._above("tokenizer/tokenizer.model", "its tokenizer", "--tokenizer").parent)

    @cached_property
    def plan(self) -> dict[str, Any]:
        """The corpus's plan, {} for a dataset that lies alone."""
        try:
            # The corpus's manifest lies beside the folder `shards`; a dataset's own has no plan.
            return json.loads(self._above("shards/../manifest.json", "", "").read_text(encoding="utf-8"))["plan"]
        except (DataError, ValueError, KeyError):
            return {}

    @cached_property
    def store(self) -> EntityStore | None:
        """The store that the mentions point into, None if it is not at hand."""
        wanted = self.dataset.manifest["entity_store_hash"]
        path = self.options.store or (self.plan.get("link") or {}).get("store")
        if wanted is None or path is None or (self.options.store is None and not Path(path).is_dir()):
            return None
        store = EntityStore.open(path)
        if store.hash == wanted:
            return store
        if self.options.store is not None:
            raise RWTrainError(f"{path}: this store has hash {store.hash}, {self.dataset.folder} was linked with {wanted}. Name the store it was made with.")
        return None

    def _above(self, name: str, what: str, option: str) -> Path:
        for parent in self.dataset.folder.resolve().parents:
            if (parent / name).is_file():
                return parent / name
        raise DataError(self.dataset.folder, f"{what} is not beside it", f"Name it with {option}")

    def find(self, doc_id: str) -> int | None:
        """Number of a document, None if it is not here."""
        for index in range(len(self.dataset)):
            shard, row = self.dataset.locate(index)
            if shard.doc_id(row) == doc_id:
                return index
        return None

    def overview(self) -> str:
        """Counts, packing and the first documents."""
        manifest = self.dataset.manifest
        counts = ", ".join(f"{manifest[key]:,} {key}" for key in ("documents", "tokens", "mentions", "images", "bytes"))
        lines = [f"{self.dataset.folder}", f"  {counts}, {len(manifest['shards'])} shards"]
        lengths = self.dataset.lengths
        if len(lengths):
            low, middle, high = (int(value) for value in np.percentile(lengths, [5, 50, 95]))
            lines.append(f"  document lengths: median {middle:,} tokens, 90% between {low:,} and {high:,}, longest {int(lengths.max()):,}")
        if not manifest["images"]:
            seq_lens = self.options.seq_lens or (self.plan.get("report") or {}).get("seq_lens") or ReportNode().seq_lens
            lines += [f"  {describe_packing(measure_packing('', lengths, seq_len))}" for seq_len in seq_lens]
        for index in range(min(SHOWN_DOCUMENTS, len(self.dataset))):
            shard, row = self.dataset.locate(index)
            text = " ".join(self.tokenizer.decode(self.dataset.tokens(index, 0, 200)).split())[:100]
            head = f"{shard.doc_id(row)} [{shard.language(row)}, {lengths[index]} tokens]"
            lines.append("  " + _safe(f"{head} {text}"))
            lines += [f"    image {number}: {self._image(data)}" for number, data in enumerate(shard.images(row))]
        return "\n".join(lines)

    def document(self, index: int) -> str:
        """One document in full."""
        shard, row = self.dataset.locate(index)
        tokens = self.dataset.tokens(index)
        lines = [
            f"id        {_safe(shard.doc_id(row))}",
            f"source    {_safe(shard.source(row))}",
            f"language  {_safe(shard.language(row))}",
            f"content   {int(shard.content_id[row]):016x}",
            f"tokens    {len(tokens):,}",
            *(f"image {number}   {self._image(data)}" for number, data in enumerate(shard.images(row))),
            "",
            _safe(self.tokenizer.decode(tokens)),
        ]
        mentions = list(zip(*self.dataset.mentions(index), strict=True))
        if mentions:
            lines += ["", f"{len(mentions)} entities:"]
            lines += [
                f"  tokens {start:>6}–{end:<6} {_safe(self.tokenizer.decode(tokens[start:end]).strip())}  →  {self._entity(entity)}"
                for start, end, entity in mentions
            ]
            if self.store is None:
                lines.append("(Name the entity store with --store to see who they are.)")
        return "\n".join(lines)

    def _entity(self, row: int) -> str:
        if self.store is None:
            return f"row {row}"
        description = self.store.description(int(row))
        return _safe(
            f"{self.store.label(int(row))} ({self.store.wikidata_id(int(row)) or self.store.external_id(int(row))})"
            + (f": {description}" if description else "")
        )

    def _image(self, data: bytes) -> str:
        name = hash128_hex(data)
        try:
            with Image.open(io.BytesIO(data)) as image:
                shown, suffix = f"{image.format} {image.width}×{image.height} {image.mode}", SUFFIXES.get(image.format or "", "bin")
        except (OSError, Image.DecompressionBombError):
            shown, suffix = "not an image that can be read", "bin"
        shown = f"{shown}, {len(data):,} bytes, hash {name}"
        if self.options.save_images is None:
            return shown
        path = Path(self.options.save_images) / f"{name}.{suffix}"  # nothing of the document is in the name
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
        return f"{shown} → {path}"


def _safe(text: str) -> str:
    """A text without what could disturb a terminal."""
    return UNSAFE.sub("\ufffd", text)
