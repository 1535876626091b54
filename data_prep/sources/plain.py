"""Files as the bytes they hold: compression is undone, and large gzip files can be entered in the middle."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from data_prep.inputs import is_remote, open_input, size_of
from data_prep.records import Bad
from data_prep.sources.spans import Cuts, Span, whole
from rwtrain.files import atomic_path

INDEX_SUFFIX = ".gzindex"
INDEX_SPACING = 1 << 22
PIECE = 1 << 20
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)


def open_plain(span: Span) -> BinaryIO:
    """The decompressed bytes of a span's file; seeking is quick in plain files and in those with an index."""
    if span.index is not None:
        from indexed_gzip import IndexedGzipFile

        source = {"fileobj": open_input(span.path)} if is_remote(span.path) else {"filename": span.path}
        return cast(BinaryIO, IndexedGzipFile(**source, index_file=span.index, drop_handles=False))
    return decompressed(open_input(span.path), span.path)


def decompressed(stream: BinaryIO, path: str) -> BinaryIO:
    """A stream of the content of a file whose name ends as compressed files' do."""
    name = path.partition("::")[0]
    if name.endswith((".gz", ".tgz")):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if name.endswith(".bz2"):
        return cast(BinaryIO, bz2.BZ2File(stream))
    if name.endswith(".xz"):
        return cast(BinaryIO, lzma.LZMAFile(stream))
    if name.endswith(".zst"):
        return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stream), "zstd")))
    return stream


def cut_plain(path: str, prefix: Path, *, unit_bytes: int, cut: Callable[[BinaryIO, int], Cuts]) -> Cuts:
    """Cut a file by its content: `cut(stream of the content, its size)` chooses the places.

    A gzip file beyond `unit_bytes` gets an index beside `prefix`; files compressed in other ways, and small ones, are one stretch.
    """
    size = size_of(path)
    name = path.partition("::")[0]
    if not name.endswith((*COMPRESSED, ".tgz")):
        with open_input(path) as stream:
            return cut(stream, size)
    if size <= unit_bytes or not name.endswith((".gz", ".tgz")):
        return whole(size)
    return _cut_gzip(path, prefix, size=size, cut=cut)


def _cut_gzip(path: str, prefix: Path, *, size: int, cut: Callable[[BinaryIO, int], Cuts]) -> Cuts:
    from indexed_gzip import IndexedGzipFile

    content, problem = _readable_bytes(path)
    if content == 0:
        return whole(size)
    target = prefix.with_name(prefix.name + INDEX_SUFFIX)
    with open_input(path) as stream, IndexedGzipFile(fileobj=stream, spacing=INDEX_SPACING) as view:
        view.seek(content)
        with atomic_path(target) as temporary:
            view.export_index(str(temporary))
        view.seek(0)
        cuts = cut(view, content)
    # Progress counts bytes of the compressed file.
    cuts.stretches = [(start, stop, weight * size // content) for start, stop, weight in cuts.stretches]
    cuts.index = INDEX_SUFFIX
    if problem:
        cuts.bad.append(Bad(path, f"after byte {content} of the content", f"the rest of the file cannot be read ({problem})"))
    return cuts


def _readable_bytes(path: str) -> tuple[int, str]:
    """How many bytes of a gzip file's content can be read, and why no more ("" if that is all)."""
    count = 0
    with open_input(path) as raw, gzip.GzipFile(fileobj=raw) as stream:
        try:
            while piece := stream.read1(PIECE):
                count += len(piece)
        except (EOFError, OSError, zlib.error) as error:
            return count, str(error)
    return count, ""
