"""Show what is in a dataset, readably."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from rwtrain.data.shards import MANIFEST, ShardDataset
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.errors import DataError

SHOWN_DOCUMENTS = 5
SHOWN_CHARACTERS = 300


def inspect(folder: str | Path, *, doc_id: str | None = None, tokenizer: str | None = None) -> str:
    """Text that shows a dataset's counts and first documents, or one document in full with its entities and images.

    Args:
        folder: a dataset, or a folder with datasets in it (each is shown in short).
        doc_id: the document to show.
        tokenizer: its model; by default `tokenizer/tokenizer.model` in a folder above.

    Raises:
        DataError: there is no dataset, no tokenizer or no such document.
    """
    folder = Path(folder)
    found = [folder] if (folder / "shard-00000.arrow").exists() else sorted(path.parent for path in folder.glob(f"shards/*/*/{MANIFEST}"))
    if not found:
        raise DataError(folder, "no dataset here", "Give a folder that `rwtrain prep` wrote, or one of its shards/KIND/SPLIT folders")
    if doc_id is None:
        return "\n\n".join(_overview(ShardDataset(path), Tokenizer(tokenizer or _tokenizer_above(path))) for path in found)
    for path in found:
        dataset = ShardDataset(path)
        for index in range(len(dataset)):
            shard, row = dataset.locate(index)
            if shard.doc_id(row) == doc_id:
                return _document(dataset, index, Tokenizer(tokenizer or _tokenizer_above(path)))
    raise DataError(folder, f"no document {doc_id!r}", "Run `rwtrain prep inspect` without --doc to see some ids")


def _tokenizer_above(folder: Path) -> Path:
    for parent in folder.resolve().parents:
        if (parent / "tokenizer" / "tokenizer.model").is_file():
            return parent / "tokenizer"
    raise DataError(folder, "its tokenizer is not beside it", "Name it with --tokenizer")


def _overview(dataset: ShardDataset, tokenizer: Tokenizer) -> str:
    manifest = dataset.manifest
    counts = ", ".join(f"{manifest[key]:,} {key}" for key in ("documents", "tokens", "mentions", "images", "bytes"))
    lines = [f"{dataset.folder}: {counts}, {len(manifest['shards'])} shards"]
    for index in range(min(SHOWN_DOCUMENTS, len(dataset))):
        shard, row = dataset.locate(index)
        text = " ".join(tokenizer.decode(dataset.tokens(index, 0, 200)).split())[:100]
        lines.append(f"  {shard.doc_id(row)} [{shard.language(row)}, {dataset.lengths[index]} tokens] {text}")
    return "\n".join(lines)


def _document(dataset: ShardDataset, index: int, tokenizer: Tokenizer) -> str:
    shard, row = dataset.locate(index)
    tokens = dataset.tokens(index)
    lines = [
        f"id        {shard.doc_id(row)}",
        f"source    {shard.source(row)}",
        f"language  {shard.language(row)}",
        f"content   {int(shard.content_id[row]):016x}",
        f"tokens    {len(tokens)}",
        *(f"image {number}   {_describe_image(data)}" for number, data in enumerate(shard.images(row))),
        "",
        tokenizer.decode(tokens),
        "",
    ]
    for start, end, entity in zip(*dataset.mentions(index), strict=True):
        lines.append(f"entity {entity:>8}  tokens {start}–{end}  {tokenizer.decode(tokens[start:end])}")
    return "\n".join(lines)


def _describe_image(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        return f"{image.format} {image.width}×{image.height} {image.mode}, {len(data):,} bytes"
