"""Small inputs written by hand, independently of the code under test."""

from __future__ import annotations

import bz2
import gzip
import struct
import tempfile
from pathlib import Path

import numpy as np

from data_prep.source_plan import Source
from data_prep.sources.spans import Span
from data_prep.sources.survey import survey_here

PROSE = (
    "The old lighthouse stood on a cliff above the bay, and every evening its keeper climbed the stairs to light the lamp. "
    "Fishermen of the village said that they could find their way home with their eyes closed, but they were glad of the light when fog came in from the sea. "
    "In winter the keeper wrote letters to his sister, who lived in a town far from the coast and had never seen waves that were higher than a house. "
)


def response(
    body: bytes,
    *,
    uri: str = "http://example.test/",
    content_length: int | None = None,
    headers: str = "Content-Type: text/html; charset=utf-8",
    status: str = "200 OK",
) -> bytes:
    """One WARC response record as a gzip member; `content_length` overrides the true one."""
    http = f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + body
    length = len(http) if content_length is None else content_length
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {uri}\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: {length}\r\n\r\n"
    return gzip.compress(head.encode() + http + b"\r\n\r\n", mtime=0)


def conversion(body: bytes, *, uri: str = "http://example.test/") -> bytes:
    """One WET record as a gzip member."""
    head = f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: {uri}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return gzip.compress(head.encode() + body + b"\r\n\r\n", mtime=0)


def page(text: str) -> bytes:
    """An HTML page with one paragraph."""
    return f"<html><head><title>t</title></head><body><main><p>{text}</p></main></body></html>".encode()


def prose(number: int, words: int = 120) -> str:
    """English-looking text that differs from number to number."""
    vocabulary = PROSE.replace(".", "").replace(",", "").split()
    generator = np.random.default_rng(number)
    chosen = [vocabulary[index] for index in generator.integers(0, len(vocabulary), words)]
    return " ".join(" ".join(chosen[start : start + 12]).capitalize() + f" of the {number}th and that." for start in range(0, words, 12))


def write_warc(path: Path, count: int, *, first: int = 0) -> Path:
    """A WARC file of `count` different pages."""
    path.write_bytes(b"".join(response(page(prose(number)), uri=f"http://example.test/{number}") for number in range(first, first + count)))
    return path


def write_dump(path: Path, pages: list[tuple[str, int, str, str | None]]) -> Path:
    """A MediaWiki dump of (title, namespace, wikitext, redirect target or None)."""
    parts = ['<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">']
    for number, (title, namespace, wikitext, redirect) in enumerate(pages, 1):
        link = f'<redirect title="{redirect}" />' if redirect else ""
        text = wikitext.replace("&", "&amp;").replace("<", "&lt;")
        parts.append(f"<page><title>{title}</title><ns>{namespace}</ns><id>{number}</id>{link}<revision><id>9</id><text>{text}</text></revision></page>")
    path.write_bytes(bz2.compress("".join([*parts, "</mediawiki>"]).encode()))
    return path


def write_idx(folder: Path, labels: list[int], *, prefix: str = "train") -> tuple[Path, Path]:
    """IDX image and label files with one flat grey level per image."""
    images = np.zeros((len(labels), 4, 4), np.uint8) + np.arange(len(labels), dtype=np.uint8)[:, None, None]
    image_path, label_path = folder / f"{prefix}-images.gz", folder / f"{prefix}-labels.gz"
    image_path.write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", *images.shape) + images.tobytes()))
    label_path.write_bytes(gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", len(labels)) + bytes(labels)))
    return image_path, label_path


def stretches(source: Source, *, unit_bytes: int) -> list[Span]:
    """The stretches of a source's files; indexes lie in a folder that is left to the operating system."""
    return survey_here(source, Path(tempfile.mkdtemp(prefix="rwtrain-test-")), unit_bytes=unit_bytes)[0]
