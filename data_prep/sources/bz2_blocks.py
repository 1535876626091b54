"""Bzip2 files entered in the middle: a block is found by its 48-bit mark, at any bit, and inflated by itself."""

from __future__ import annotations

import bz2
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

BLOCK, END = 0x314159265359, 0x177245385090
MARK_BITS, CRC_BITS = 48, 32
WINDOW = 1 << 20
OVERLAP = MARK_BITS // 8
HEADER = b"BZh9"  # the largest block size, which every block fits
# Marks may by chance stand inside a block; a block that does not inflate is tried up to the mark after the next.
CHANCE_MARKS = 2


def _patterns() -> list[tuple[int, int, int, bytes, int]]:
    """(mark, shift, first bits, the whole bytes between, last bits) for every mark and place in a byte."""
    found = []
    for mark in (BLOCK, END):
        for shift in range(8):
            bits = (mark << (8 - shift)).to_bytes(7, "big")
            found.append((mark, shift, bits[0], bits[1:6], bits[6]))
    return found


PATTERNS = _patterns()


def find_marks(stream: BinaryIO, start: int) -> Iterator[tuple[int, int]]:
    """(bit, mark) of every block and end of stream that begins at byte `start` or later, ascending."""
    position = start
    stream.seek(start)
    window = b""
    while True:
        piece = stream.read(WINDOW)
        window += piece
        found = sorted((8 * (position + place) + shift, mark) for place, shift, mark in _marks_in(window, last=not piece))
        yield from found
        if not piece:
            return
        keep = min(len(window), OVERLAP)
        position += len(window) - keep
        window = window[len(window) - keep :]


def _marks_in(window: bytes, *, last: bool) -> Iterator[tuple[int, int, int]]:
    """(byte, shift, mark); what begins in the last `OVERLAP` bytes is left to the next window, unless this is the `last`."""
    for mark, shift, first, between, after in PATTERNS:
        place = window.find(between, 1)
        while place > 0:
            begin = place - 1
            head_mask, tail_mask = 0xFF >> shift, 0xFF & ~(0xFF >> shift)
            whole = begin + 6 < len(window) if shift else True
            tail = window[begin + 6] if begin + 6 < len(window) else 0
            inside = last or begin < len(window) - OVERLAP
            if inside and whole and window[begin] & head_mask == first and tail & tail_mask == after & tail_mask:
                yield begin, shift, mark
            place = window.find(between, place + 1)


def read_blocks(stream: BinaryIO, start: int) -> Iterator[tuple[int, bytes | str]]:
    """(first byte of the block, its content, or what is wrong with it) for every block that begins at byte `start` or later."""
    size = stream.seek(0, io.SEEK_END)
    marks = find_marks(io.BufferedReader(_Again(stream)), start)
    ahead: list[tuple[int, int]] = []

    def mark(number: int) -> tuple[int, int]:
        while len(ahead) <= number:
            ahead.append(next(marks, (8 * size, END)))
        return ahead[number]

    while (begin := mark(0))[0] < 8 * size:
        taken = 1
        if begin[1] == BLOCK:
            content: bytes | None = None
            for number in range(1, 1 + CHANCE_MARKS):
                content = inflate(_bits(stream, begin[0], mark(number)[0]))
                if content is not None:
                    taken = number
                    break
            yield begin[0] // 8, content if content is not None else "damaged or cut short bzip2 data"
        del ahead[:taken]


class _Again(io.RawIOBase):
    """A second place in the same stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.position = stream, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self.position = offset
        return offset

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        self.stream.seek(self.position)
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def _bits(stream: BinaryIO, start: int, stop: int) -> tuple[int, int]:
    """The bits from `start` to `stop` as a number, and how many they are."""
    first, last = start // 8, -(-stop // 8)
    stream.seek(first)
    value = int.from_bytes(stream.read(last - first), "big") >> (8 * last - stop)
    return value & ((1 << (stop - start)) - 1), stop - start


def inflate(block: tuple[int, int]) -> bytes | None:
    """Content of a block given as (bits, how many): as a stream of one block, whose checksum is the block's. None if it is no block."""
    value, bits = block
    if bits < MARK_BITS + CRC_BITS:
        return None
    checksum = (value >> (bits - MARK_BITS - CRC_BITS)) & ((1 << CRC_BITS) - 1)
    value = (((value << MARK_BITS) | END) << CRC_BITS) | checksum
    bits += MARK_BITS + CRC_BITS
    padding = -bits % 8
    try:
        return bz2.decompress(HEADER + (value << padding).to_bytes((bits + padding) // 8, "big"))
    except (OSError, ValueError, EOFError):
        return None
