"""Images inside WARCs: how many of the image–text pairs that an independent reader resolves come out of `warc_images` with their text.

The independent reader is the standard library: zlib for the gzip members, plain header parsing, `html.parser` for <img> with its
alternative text or title, and for captions of <figure>. A pair is (image bytes, text); equal pairs count once. It came out if a record
has exactly these bytes and its text holds the pair's text.
"""

from __future__ import annotations

import tempfile
import time
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin

from benchmarks.prep_inputs import arguments, report
from data_prep.records import Record
from data_prep.source_plan import WarcImageSource
from data_prep.sources import warc_images
from data_prep.sources.survey import survey_here

SHOWN = 5


def main() -> None:
    options = arguments(__doc__ or "")
    path = Path(options.data) / "web-docs" / "web-images-a.warc.gz"
    expected = resolvable_pairs(path)
    source = WarcImageSource(kind="warc_images", name="pictures", paths=[str(path)])
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        spans, _ = survey_here(source, Path(name), unit_bytes=1 << 20)
        records = [record for span in spans for record in warc_images.read(source, span)]
    seconds = time.process_time() - begin
    texts: dict[bytes, list[str]] = {}
    for record in records:
        if isinstance(record, Record):
            texts.setdefault(record.images[0], []).append(record.text)
    lost = [(image, text) for image, text in sorted(expected) if not any(text in found for found in texts.get(image, []))]
    figures = {
        "name": "web_images",
        "quick": options.quick,
        "records": sum(isinstance(record, Record) for record in records),
        "expected_pairs": len(expected),
        "found_pairs": len(expected) - len(lost),
        "found_share": (len(expected) - len(lost)) / max(1, len(expected)),
        "pairs_per_s": len(records) / seconds,
    }
    rows = [(key, str(value)) for key, value in figures.items()] + [("lost", f"{len(image)} bytes: {text[:90]}") for image, text in lost[:SHOWN]]
    report("images in WARCs", rows, figures)


def resolvable_pairs(path: Path) -> set[tuple[bytes, str]]:
    """(Image bytes, text) of every <img> with a text whose address is an image record of the file."""
    images: dict[str, bytes] = {}
    pages: list[tuple[str, str]] = []
    for address, content_type, body in responses(path.read_bytes()):
        if content_type.startswith("image/"):
            images.setdefault(urldefrag(address)[0], body)
        elif content_type.startswith(("text/html", "application/xhtml")):
            pages.append((address, body.decode("utf-8", "replace")))
    pairs = set()
    for address, html in pages:
        reader = Images()
        reader.feed(html)
        for link, text in reader.found:
            target = urldefrag(urljoin(urljoin(address, reader.base), link.strip()))[0]
            if target in images and text:
                pairs.add((images[target], text))
    return pairs


def responses(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """(Address, content type, body) of every successful response record."""
    while data:
        inflater = zlib.decompressobj(31)
        content = inflater.decompress(data)
        data = inflater.unused_data
        head, _, rest = content.partition(b"\r\n\r\n")
        fields = header_fields(head)
        if fields.get("warc-type") != "response":
            continue
        http, _, body = rest[: int(fields["content-length"])].partition(b"\r\n\r\n")
        if http.split(None, 2)[1] == b"200":
            yield fields["warc-target-uri"].strip("<>"), header_fields(http).get("content-type", ""), body


def header_fields(head: bytes) -> dict[str, str]:
    lines = head.decode("utf-8", "replace").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


class Images(HTMLParser):
    """Collects (address, text) of images, one for the alternative text (or title) and one for the caption of a <figure> with one image."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.base = ""
        self.figure: list[str] | None = None
        self.caption: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "base" and values.get("href"):
            self.base = values["href"]
        elif tag == "figure":
            self.figure, self.caption = [], None
        elif tag == "figcaption" and self.figure is not None:
            self.caption = []
        elif tag == "img" and values.get("src") and not values["src"].startswith("data:"):
            text = " ".join((values.get("alt") or "").split()) or " ".join((values.get("title") or "").split())
            self.found.append((values["src"], text))
            if self.figure is not None:
                self.figure.append(values["src"])

    def handle_data(self, data: str) -> None:
        if self.caption is not None and self.figure is not None:
            self.caption.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "figure" and self.figure is not None:
            if len(self.figure) == 1 and self.caption:
                self.found.append((self.figure[0], " ".join("".join(self.caption).split())))
            self.figure = self.caption = None


if __name__ == "__main__":
    main()
