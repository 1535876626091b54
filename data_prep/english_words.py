"""Words as the published quality rules count them: spaCy's English tokenization, compiled.

The rules' thresholds were set with such words: punctuation stands alone, contractions and abbreviations have entries of their
own. Other languages are counted by `data_prep.words`, which knows scripts without spaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np

from data_prep.english_cutting import ALPHA, CURRENCY, DIGIT, ICON, LETTER, LOWER, PUNCT, QUOTE, SPACE, SYMBOL, UPPER, cut_words, hash_codes
from data_prep.filters.terminal import PUNCTUATION
from data_prep.records import Record
from data_prep.words import CODE_POINTS, character_classes, code_points, words_of
from data_prep.words import IDEOGRAPH as IDEOGRAPH_CLASS
from data_prep.words import LETTER as LETTER_CLASS

# Characters by property.
PUNCT_CHARACTERS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
QUOTE_CHARACTERS = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧"
CURRENCY_CHARACTERS = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫€₭₮₯₰₱₲₳₴₵₶₷₸₹₺₻₼₽₾₿"
# fmt: off
UNITS = (
    "km", "km²", "km³", "m", "m²", "m³", "dm", "dm²", "dm³", "cm", "cm²", "cm³", "mm", "mm²", "mm³", "ha", "µm", "nm", "yd", "in", "ft", "kg",
    "g", "mg", "µg", "t", "lb", "oz", "m/s", "km/h", "kmh", "mph", "hPa", "Pa", "mbar", "mb", "MB", "kb", "KB", "gb", "GB", "tb", "TB", "T",
    "G", "M", "K", "%", "км", "км²", "км³", "м", "м²", "м³", "дм", "дм²", "дм³", "см", "см²", "см³", "мм", "мм²", "мм³", "нм", "кг", "г", "мг",
    "м/с", "км/ч", "кПа", "Па", "мбар", "Кб", "КБ", "кб", "Мб", "МБ", "мб", "Гб", "ГБ", "гб", "Тб", "ТБ", "тб",
)
# fmt: on
ENGLISH = ("en", "und")


@dataclass(frozen=True, slots=True)
class FilterWords:
    """Words of one text as the filters count them.

    Attributes:
        start: first character of each word, [words] int32.
        end: one past the last character, [words] int32.
        hash: 64-bit hash of each word, [words] uint64.
        has_letter: the word has a letter, [words] bool.
        is_symbol: the word is punctuation only, [words] bool.
    """

    start: np.ndarray
    end: np.ndarray
    hash: np.ndarray
    has_letter: np.ndarray
    is_symbol: np.ndarray


def filter_words(record: Record) -> FilterWords:
    """The words of a record's text, computed at the first call: English rules for English and unknown languages."""
    if "filter_words" not in record.cache:
        if record.language in ENGLISH:
            record.cache["filter_words"] = english_words(record.text)
        else:
            words = words_of(record)
            record.cache["filter_words"] = FilterWords(words.start, words.end, words.hash, words.has_letter, words.folded == 0)
    return record.cache["filter_words"]


def english_words(text: str) -> FilterWords:
    """The words of an English text."""
    return FilterWords(*cut_words(code_points(text), properties(), *_splits(), _hashes(UNITS)))


@lru_cache(maxsize=1)
def _rules() -> tuple[dict[str, np.ndarray], list[list[str]]]:
    """Character classes as code points, and chunks with their words."""
    classes, splits = {}, []
    for line in (files("data_prep") / "lists" / "english_words.txt").read_text(encoding="utf-8").splitlines():
        kind, *values = line.split(" ")
        if kind == "class":
            ranges = [value.split("-") for value in values[1:]]
            classes[values[0]] = np.concatenate([np.arange(int(parts[0], 16), int(parts[-1], 16) + 1) for parts in ranges])
        elif kind == "split":
            splits.append(values)
    return classes, splits


@lru_cache(maxsize=1)
def properties() -> np.ndarray:
    """Property bits of every code point, [0x110000] uint16."""
    classes, _ = _rules()
    table = np.zeros(CODE_POINTS, np.uint16)
    for name, bit in (("alpha", ALPHA), ("lower", LOWER), ("upper", UPPER), ("icon", ICON)):
        table[classes[name]] |= bit
    for characters, bit in ((PUNCT_CHARACTERS, PUNCT), (QUOTE_CHARACTERS, QUOTE), (CURRENCY_CHARACTERS, CURRENCY), ("0123456789", DIGIT)):
        table[[ord(character) for character in characters]] |= bit
    table[[code for code in range(0x3100) if chr(code).isspace()]] |= SPACE
    table[[ord(character) for character in PUNCTUATION]] |= SYMBOL
    kinds = character_classes()
    table[(kinds == LETTER_CLASS) | (kinds == IDEOGRAPH_CLASS)] |= LETTER
    return table


def _hash(text: str) -> int:
    return int(hash_codes(code_points(text), 0, len(text)))


@lru_cache(maxsize=2)
def _hashes(texts: tuple[str, ...]) -> np.ndarray:
    return np.sort(np.array([_hash(text) for text in texts], np.uint64))


@lru_cache(maxsize=1)
def _splits() -> tuple[np.ndarray, np.ndarray]:
    """Open-addressing table of chunk hashes, [size] uint64, and the lengths of their words, [size, 6] int8."""
    _, splits = _rules()
    size = 1 << 14
    keys, lengths = np.zeros(size, np.uint64), np.zeros((size, 6), np.int8)
    for words in splits:
        key = _hash("".join(words))
        slot = key % size
        while keys[slot]:
            slot = (slot + 1) % size
        keys[slot] = key
        lengths[slot, : len(words)] = [len(word) for word in words]
    return keys, lengths
