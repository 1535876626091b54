"""The plan: one YAML file that says where the documents come from and what is done with them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rwtrain.config.load import Node

Split = Literal["train", "valid", "test"]
StageName = Literal["language", "repetition", "quality", "dedup", "link"]


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


class TextSource(SourceNode):
    """Rows with a text column, read by the `datasets` library from local files in streaming mode."""

    kind: Literal["text"]
    paths: list[str] = Field(min_length=1)
    """Files or glob patterns, relative to the current folder."""
    format: Literal["json", "parquet", "arrow", "csv", "text"] = "json"
    """How `datasets` is to read the files ("json" also covers JSON lines, also compressed)."""
    text_column: str = "text"
    """Column with the document."""
    id_column: str | None = None
    """Column with an identifier; the row number if not given."""
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


Source = Annotated[WarcSource | WetSource | WikipediaSource | TextSource | IdxSource, Field(discriminator="kind")]


class ExtractNode(Node):
    """Main text out of HTML."""

    main_content: bool = True
    """Leave out navigation, side bars and footers."""
    min_characters: int = Field(default=1, ge=1)
    """A page with less text is removed."""


class LanguageNode(Node):
    """Language identification with fastText's lid.176, on the first characters of a document."""

    enabled: bool = True
    """Identify and filter languages."""
    keep: list[str] = []
    """ISO 639-1 codes to keep; empty keeps all."""
    min_score: float = Field(default=0.65, ge=0, le=1)
    """A document whose best language scores lower is removed."""
    characters: int = Field(default=2000, ge=20)
    """How much of the document is looked at."""


class RepetitionNode(Node):
    """Gopher's repetition rules (Rae et al. 2021, Table A1): a document over any of these shares is removed."""

    enabled: bool = True
    """Apply the rules."""
    duplicate_line_fraction: float = 0.30
    """Share of lines that repeat an earlier line."""
    duplicate_paragraph_fraction: float = 0.30
    """Share of paragraphs that repeat an earlier paragraph."""
    duplicate_line_characters: float = 0.20
    """Share of characters in repeated lines."""
    duplicate_paragraph_characters: float = 0.20
    """Share of characters in repeated paragraphs."""
    top_ngram_characters: dict[int, float] = {2: 0.20, 3: 0.18, 4: 0.16}
    """n -> share of characters in the most frequent n-gram of words."""
    duplicate_ngram_characters: dict[int, float] = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    """n -> share of characters in n-grams of words that repeat an earlier one."""


class QualityNode(Node):
    """Gopher's quality rules (Rae et al. 2021, section A.1.1)."""

    enabled: bool = True
    """Apply the rules."""
    min_words: int = 50
    """Fewest words."""
    max_words: int = 100_000
    """Most words."""
    min_mean_word_length: float = 3.0
    """Shortest mean word, characters."""
    max_mean_word_length: float = 10.0
    """Longest mean word, characters."""
    max_symbol_word_ratio: float = 0.1
    """Most hash signs, or ellipses, per word."""
    max_bullet_lines: float = 0.9
    """Largest share of lines that begin with a bullet."""
    max_ellipsis_lines: float = 0.3
    """Largest share of lines that end with an ellipsis."""
    min_alphabetic_words: float = 0.8
    """Smallest share of words with a letter."""
    min_stop_words: int = 2
    """Fewest distinct English stop words; applied to English documents only."""


class DedupNode(Node):
    """Exact and fuzzy (MinHash-LSH) deduplication across all text sources; the first document in plan order stays."""

    exact: bool = True
    """Remove documents whose text is identical to an earlier one's."""
    fuzzy: bool = True
    """Remove near duplicates."""
    ngram: int = Field(default=5, ge=1)
    """Words per shingle."""
    bands: int = Field(default=14, ge=1)
    """Bands; two documents that agree in one whole band are duplicates."""
    rows: int = Field(default=8, ge=1)
    """Hashes per band."""


class SplitNode(Node):
    """Which share of the documents is held out; decided by a hash of the document id."""

    valid: float = Field(default=0.005, ge=0, lt=1)
    """Share of validation documents."""
    test: float = Field(default=0.0, ge=0, lt=1)
    """Share of test documents."""


class LinkNode(Node):
    """Entity linking; off without a store."""

    store: str | None = None
    """Folder of the entity store that `rwtrain kg` wrote."""
    left_context: bool = True
    """Judge a mention by the text before it only, so that its vector cannot leak words that are to be predicted."""
    min_score: float = Field(default=0.0, ge=0, le=1)
    """Mentions below this score are left out."""


class TokenizerNode(Node):
    """The sentencepiece tokenizer: trained on this corpus, or an existing one."""

    model: str | None = None
    """An existing `tokenizer.model`, used instead of training one."""
    vocab_size: int = Field(default=32_000, ge=300)
    """Number of pieces."""
    train_characters: int = Field(default=200_000_000, gt=0)
    """How much text to train on; documents are sampled by a hash of their ids."""
    character_coverage: float = Field(default=0.9995, gt=0, le=1)
    """Share of characters with a piece of their own; the others are spelled in bytes."""


class ShardNode(Node):
    """The Arrow shards."""

    max_bytes: int = Field(default=256 << 20, gt=0)
    """A shard is closed at this size."""


class Plan(Node):
    """A whole preparation."""

    name: str = "corpus"
    """Name of the corpus."""
    seed: int = 0
    """Changes which documents are held out, sampled for the tokenizer and captioned by which template."""
    sources: list[Source] = Field(min_length=1)
    """Where the documents come from, in order of preference for deduplication."""
    unit_bytes: int = Field(default=8 << 20, gt=0)
    """Input bytes of one work unit; what a killed run has to do again is at most one unit per worker."""
    extract: ExtractNode = ExtractNode()
    language: LanguageNode = LanguageNode()
    repetition: RepetitionNode = RepetitionNode()
    quality: QualityNode = QualityNode()
    dedup: DedupNode = DedupNode()
    splits: SplitNode = SplitNode()
    link: LinkNode = LinkNode()
    tokenizer: TokenizerNode = TokenizerNode()
    shards: ShardNode = ShardNode()

    @model_validator(mode="after")
    def _source_names_differ(self) -> Plan:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError("two sources have the same name; give each its own")
        return self
