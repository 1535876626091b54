"""The plan: one YAML file that says where the documents come from (`data_prep.source_plan`) and what is done with them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data_prep.source_plan import Source, TextFormat
from rwtrain.config.load import Node

Limits = dict[str, float | dict[int, float]]


class LimitsNode(Node):
    """Thresholds that may differ by language."""

    per_language: dict[str, Limits] = {}
    """Language -> thresholds that differ there."""

    @model_validator(mode="after")
    def _overrides_are_thresholds(self) -> Self:
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        known = {name: isinstance(value, dict) for name, value in fields.items() if _is_limit(value)}
        for language, values in self.per_language.items():
            if wrong := set(values) - set(known):
                raise ValueError(f"per_language.{language}.{min(wrong)} is no threshold; known are {', '.join(sorted(known))}")
            if wrong := {name for name, value in values.items() if isinstance(value, dict) != known[name]}:
                raise ValueError(f"per_language.{language}.{min(wrong)} has another form than the setting for all languages")
        return self

    def by_language(self) -> dict[str, Self]:
        """The whole node for each language with thresholds of its own."""
        return {language: self.model_copy(update={**values, "per_language": {}}) for language, values in self.per_language.items()}


def _is_limit(value: object) -> bool:
    is_table = isinstance(value, dict) and bool(value) and all(isinstance(limit, float) for limit in value.values())
    return is_table or (isinstance(value, int | float) and not isinstance(value, bool))


class UrlNode(Node):
    """Filter by address, before anything else is done with a page."""

    enabled: bool = False
    """Apply the filter."""
    blocklists: list[str] = []
    """Files with blocked domains, one a line; a domain also blocks everything below it."""
    words: str | None = None
    """File with words of addresses and their scores, `word score` a line; a small list comes with the package."""
    max_word_score: int = Field(default=4, ge=1)
    """A page whose address scores this much is removed."""
    exclude: list[str] = []
    """Domains that are collected from a better source, such as wikipedia.org."""


class ExtractNode(Node):
    """Main text out of HTML."""

    method: Literal["scored", "whole", "trafilatura"] = "scored"
    """How the main text is found: by votes of the paragraphs, not at all (all text that is shown), or by trafilatura (much slower)."""
    min_characters: int = Field(default=1, ge=1)
    """A page with less text is removed."""


class UnicodeNode(Node):
    """Unicode repair of extracted text."""

    enabled: bool = True
    """Repair line breaks, control characters and composition."""
    mojibake: bool = True
    """Undo wrong decodings (`Ã©` for `é`) where they are found, with ftfy."""


class LanguageNode(LimitsNode):
    """Language identification with fastText's lid.176, on the first characters of a document."""

    enabled: bool = True
    """Identify and filter languages."""
    keep: list[str] = []
    """ISO 639-1 codes to keep; empty keeps all."""
    min_score: float = Field(default=0.65, ge=0, le=1)
    """A document whose best language scores lower is removed."""
    characters: int = Field(default=2000, ge=20)
    """How much of the document is looked at."""


class RepetitionNode(LimitsNode):
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


class QualityNode(LimitsNode):
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
    """Fewest distinct stop words, for languages that have some in `stop_words`."""
    stop_words: dict[str, list[str]] = {"en": ["the", "be", "to", "of", "and", "that", "have", "with"]}
    """Language -> stop words."""
    per_language: dict[str, Limits] = {language: {"min_mean_word_length": 1.0} for language in ("zh", "ja", "th", "lo", "my", "km")}
    """Language -> thresholds that differ there, for example `{de: {max_mean_word_length: 14}}`; in scripts without spaces a character is a word."""


class C4Node(Node):
    """C4's rules (Raffel et al. 2020): lines that are not sentences go, then documents with too few."""

    enabled: bool = False
    """Apply the rules."""
    terminal_punctuation: bool = True
    """Drop lines that do not end with a full stop, question mark, exclamation mark or quotation mark."""
    min_sentences: int = 5
    """Fewest sentences of a document."""
    min_line_words: int = 3
    """Fewest words of a line."""
    max_word_characters: int = 1000
    """A line with a longer word goes."""
    lorem_ipsum: bool = True
    """Remove documents with the words `lorem ipsum`."""
    curly_bracket: bool = True
    """Remove documents with a curly bracket."""


class FineWebNode(LimitsNode):
    """FineWeb's own rules (Penedo et al. 2024, section 3.6)."""

    enabled: bool = False
    """Apply the rules."""
    min_punctuated_lines: float = 0.12
    """Smallest share of lines that end with terminal punctuation."""
    max_short_lines: float = 0.67
    """Largest share of short lines."""
    short_line_characters: int = 30
    """A line up to this long is short."""
    max_repeated_line_characters: float = 0.01
    """Largest share of characters in lines that repeat an earlier one."""
    max_line_breaks_per_word: float = 0.3
    """Most line breaks per word."""


class LinesNode(Node):
    """RefinedWeb's line-wise corrections (Penedo et al. 2023, table G.2)."""

    enabled: bool = False
    """Remove lines that are counters, buttons, menu entries or shouting."""
    max_removed_words: float = 0.05
    """A document that loses a larger share of its words is removed."""
    max_uppercase: float = 0.6
    """A line with a larger share of capital letters goes."""
    single_words: bool = True
    """Lines of a single word go."""


class PrivacyNode(Node):
    """Personal data: each kind is replaced by the given word; null leaves it alone."""

    enabled: bool = False
    """Replace personal data."""
    email: str | None = "<EMAIL>"
    """For e-mail addresses, also those spelled `name [at] host [dot] org`."""
    ip: str | None = "<IP>"
    """For public IPv4 and IPv6 addresses."""
    phone: str | None = "<PHONE>"
    """For telephone numbers in the usual national and international forms."""
    iban: str | None = "<IBAN>"
    """For bank accounts with right check digits."""
    card: str | None = "<CARD>"
    """For payment card numbers with a right check digit."""


class DecontaminateNode(Node):
    """Keep evaluation sets out of the training data; off without files."""

    paths: list[str] = []
    """Evaluation files or glob patterns."""
    format: TextFormat = "json"
    """How `datasets` is to read them."""
    columns: list[str] = ["text"]
    """Columns with text."""
    ngram: int = Field(default=13, ge=3)
    """A document that shares a run of this many words with an evaluation text is removed."""


class ImageNode(Node):
    """What an image–text pair has to be like; class-labelled IDX images pass by."""

    min_side: int = 32
    """Shortest side, pixels."""
    max_pixels: int = 64_000_000
    """Width times height; looked at before the image is decoded."""
    max_aspect: float = 5.0
    """Longest side over shortest."""
    max_bytes: int = 32 << 20
    """Largest encoded image."""
    min_caption_words: int = 1
    """Shortest caption."""
    max_caption_characters: int = 2000
    """Longest caption."""


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
    images: bool = True
    """Remove image–text pairs that have both image and text of an earlier one."""


class SubstringNode(Node):
    """Exact substring deduplication (Lee et al. 2022): long runs of words that stand earlier in the corpus are cut out."""

    enabled: bool = False
    """Cut repeated runs."""
    min_words: int = Field(default=50, ge=5)
    """Length of a run."""
    min_characters: int = Field(default=20, ge=0)
    """A document with less left is removed."""


class SplitNode(Node):
    """Which share of the documents is held out; decided by a hash of the document id."""

    valid: float = Field(default=0.005, ge=0, lt=1)
    """Share of validation documents."""
    test: float = Field(default=0.0, ge=0, lt=1)
    """Share of test documents."""


class LinkNode(Node):
    """Entity linking; off without a linker and without entities."""

    store: str | None = None
    """Folder of the entity linker that `rwtrain kg linker` wrote; spots names in all texts."""
    entities: str | None = None
    """Folder of the entity store that the linker was built from: links of Wikipedia pages become mentions of what their pages are about."""
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


class ReportNode(Node):
    """What the report measures beside the preparation itself."""

    seq_lens: list[Annotated[int, Field(ge=2)]] = [512, 2048, 8192]
    """Row lengths (`batch.seq_len` of training) for which the report says how well the text documents pack."""


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
    url: UrlNode = UrlNode()
    extract: ExtractNode = ExtractNode()
    unicode: UnicodeNode = UnicodeNode()
    language: LanguageNode = LanguageNode()
    repetition: RepetitionNode = RepetitionNode()
    quality: QualityNode = QualityNode()
    c4: C4Node = C4Node()
    fineweb: FineWebNode = FineWebNode()
    lines: LinesNode = LinesNode()
    privacy: PrivacyNode = PrivacyNode()
    decontaminate: DecontaminateNode = DecontaminateNode()
    images: ImageNode = ImageNode()
    dedup: DedupNode = DedupNode()
    substring: SubstringNode = SubstringNode()
    splits: SplitNode = SplitNode()
    link: LinkNode = LinkNode()
    tokenizer: TokenizerNode = TokenizerNode()
    shards: ShardNode = ShardNode()
    report: ReportNode = ReportNode()

    @model_validator(mode="after")
    def _source_names_differ(self) -> Plan:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError("two sources have the same name; give each its own")
        return self
