"""Where documents come from: the kinds of sources that a plan may name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rwtrain.config.load import Node

Split = Literal["train", "valid", "test"]
StageName = Literal["url", "unicode", "language", "repetition", "quality", "c4", "fineweb", "lines", "privacy", "decontaminate", "dedup", "substring", "link"]
TextFormat = Literal["json", "parquet", "arrow", "csv", "text"]


class SourceNode(Node):
    """What every source has."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Short name; it begins the ids of this source's documents."""
    skip: list[StageName] = []
    """Stages that this source's documents pass by."""


class WarcSource(SourceNode):
    """Web pages in Common Crawl's format, one gzip member per record (or not compressed at all)."""

    kind: Literal["warc"]
    paths: list[str] = Field(min_length=1)
    """Files or glob patterns, relative to the current folder."""
    max_record_bytes: int = Field(default=16 << 20, gt=0)
    """A page whose decompressed payload is larger is set aside."""


class WetSource(SourceNode):
    """Text that Common Crawl extracted: `conversion` records of WET files."""

    kind: Literal["wet"]
    paths: list[str] = Field(min_length=1)
    """Files or glob patterns, relative to the current folder."""
    max_record_bytes: int = Field(default=16 << 20, gt=0)
    """A record whose decompressed payload is larger is set aside."""


class WikipediaSource(SourceNode):
    """A MediaWiki XML dump (`pages-articles`), .bz2 or plain; redirects and pages outside the article namespace are skipped."""

    kind: Literal["wikipedia"]
    paths: list[str] = Field(min_length=1)
    """Files or glob patterns, relative to the current folder."""
    language: str = "en"
    """ISO 639-1 code of the edition; also decides the page addresses."""
    max_page_bytes: int = Field(default=64 << 20, gt=0)
    """A larger page is set aside."""


class TextSource(SourceNode):
    """Rows with a text column: JSON lines, text, Parquet, Arrow, folders of `datasets.save_to_disk`; other JSON and CSV by the `datasets` library."""

    kind: Literal["text"]
    paths: list[str] = Field(min_length=1)
    """Files or glob patterns, relative to the current folder."""
    format: TextFormat | None = None
    """What the files are; null goes by their names: .jsonl, .json, .parquet, .arrow, .csv, .txt, also with .gz, .bz2, .xz or .zst behind."""
    max_record_bytes: int = Field(default=64 << 20, gt=0)
    """A longer line is set aside."""
    text_column: str = "text"
    """Column with the document."""
    id_column: str | None = None
    """Column with an identifier; if not given, the number of the row, or the first byte of its line."""
    language: str = "und"
    """ISO 639-1 code of the rows if known beforehand."""


class LabelledImages(Node):
    """A pair of IDX files: images and their class numbers."""

    images: str
    """IDX file of images, [count, height, width] or [count, height, width, channels] uint8, .gz or plain."""
    labels: str
    """IDX file of class numbers, [count] uint8."""
    split: Split
    """Where these images go."""
    zero_shot: bool = False
    """Also write these images to `eval/zeroshot.parquet`."""


class IdxSource(SourceNode):
    """Class-labelled images whose captions are made from class names and templates."""

    kind: Literal["idx"]
    files: list[LabelledImages] = Field(min_length=1)
    """Pairs of image and label files."""
    classes: list[str] = Field(min_length=2)
    """Class names, in the order of the class numbers."""
    templates: list[str] = Field(min_length=1)
    """Captions with `{}` in the place of the class name; one is chosen for each image by a hash of its id."""
    language: str = "en"
    """Language of the captions."""

    @model_validator(mode="after")
    def _templates_have_a_place(self) -> IdxSource:
        if wrong := [template for template in self.templates if "{}" not in template]:
            raise ValueError(f"the template {wrong[0]!r} has no {{}} for the class name")
        return self


class WarcImageSource(SourceNode):
    """Images of a WARC whose pages show them: each image record with its caption or alternative text."""

    kind: Literal["warc_images"]
    paths: list[str] = Field(min_length=1)
    """Files or glob patterns, relative to the current folder; one gzip member per record."""
    max_record_bytes: int = Field(default=16 << 20, gt=0)
    """A page or image whose decompressed payload is larger is set aside."""
    language: str = "und"
    """Language of the captions if known beforehand."""


class WebDatasetSource(SourceNode):
    """Image–text pairs in WebDataset tars: members of one name, such as `0001.jpg` and `0001.txt` (or `.caption`, or a field of `.json`)."""

    kind: Literal["webdataset"]
    paths: list[str] = Field(min_length=1)
    """Files or glob patterns, relative to the current folder."""
    caption_field: str = "caption"
    """Field with the caption in `.json` members."""
    max_member_bytes: int = Field(default=32 << 20, gt=0)
    """A larger member is set aside."""
    language: str = "und"
    """Language of the captions if known beforehand."""


class ImageTableSource(SourceNode):
    """Image–text pairs in Parquet files."""

    kind: Literal["image_table"]
    paths: list[str] = Field(min_length=1)
    """Files or glob patterns, relative to the current folder."""
    image_column: str = "image"
    """Column with encoded images: binary, or a struct with a `bytes` field as `datasets` writes it."""
    text_column: str = "text"
    """Column with captions."""
    language: str = "und"
    """Language of the captions if known beforehand."""


ImageSource = WarcImageSource | WebDatasetSource | ImageTableSource
Source = Annotated[
    WarcSource | WetSource | WikipediaSource | TextSource | IdxSource | WarcImageSource | WebDatasetSource | ImageTableSource, Field(discriminator="kind")
]
PICTURE_KINDS = ("idx", "warc_images", "webdataset", "image_table")
