"""Hashes of texts."""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

LARGEST = 1 << 64


def hash64(text: str, seed: int = 0) -> int:
    """XXH3-64 of a text's UTF-8 bytes."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), seed)


def unit_interval(text: str, seed: int = 0) -> float:
    """A text's place in [0, 1), the same in every run: for choosing a share of the documents."""
    return hash64(text, seed) / LARGEST


def hash128_hex(data: bytes | str) -> str:
    """XXH3-128 in hex."""
    return xxhash.xxh3_128_hexdigest(data.encode() if isinstance(data, str) else data)


def hash64_of(parts: Iterable[bytes]) -> int:
    """XXH3-64 of several byte strings and their lengths."""
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.intdigest()
