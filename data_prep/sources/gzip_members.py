"""Gzip files made of many members: find where a member begins, and inflate one with a limit."""

from __future__ import annotations

import zlib
from typing import BinaryIO

MAGIC = b"\x1f\x8b\x08"
PIECE = 1 << 16


def find_member(stream: BinaryIO, start: int, stop: int, *, beginning: bytes) -> int | None:
    """Offset of the first member at or after `start` and before `stop` whose content begins with `beginning`.

    A magic number inside compressed data is not taken for a member: its first bytes must inflate to `beginning`.
    """
    position = start
    stream.seek(start)
    window = b""
    while position < stop:
        piece = stream.read(PIECE)
        window += piece
        if not window:
            return None
        found = window.find(MAGIC)
        while found >= 0 and position + found < stop:
            if _inflates_to(stream, position + found, beginning):
                return position + found
            found = window.find(MAGIC, found + 1)
        if not piece:
            return None
        keep = min(len(window), len(MAGIC) - 1)
        position += len(window) - keep
        window = window[len(window) - keep :]
    return None


def _inflates_to(stream: BinaryIO, offset: int, beginning: bytes) -> bool:
    resume_at = stream.tell()
    try:
        stream.seek(offset)
        return zlib.decompressobj(31).decompress(stream.read(512), len(beginning)) == beginning
    except zlib.error:
        return False
    finally:
        stream.seek(resume_at)


class MemberError(Exception):
    """A member cannot be inflated; the message says why."""


def read_member(stream: BinaryIO, offset: int, *, max_bytes: int) -> tuple[bytes, int]:
    """Content of the member at `offset` and the offset just after it.

    Raises:
        MemberError: the member is corrupt, cut short or larger than `max_bytes`.
    """
    stream.seek(offset)
    inflater = zlib.decompressobj(31)
    parts: list[bytes] = []
    size = 0
    try:
        while not inflater.eof:
            piece = inflater.unconsumed_tail or stream.read(PIECE)
            if not piece:
                raise MemberError("the gzip member ends before its end")
            part = inflater.decompress(piece, max_bytes + 1 - size)
            size += len(part)
            if size > max_bytes:
                raise MemberError(f"larger than {max_bytes} bytes when decompressed")
            parts.append(part)
    except zlib.error as error:
        raise MemberError(f"corrupt gzip data ({error})") from error
    return b"".join(parts), stream.tell() - len(inflater.unused_data)
