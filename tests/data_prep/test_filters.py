from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from data_prep.filters.quality import Quality
from data_prep.filters.repetition import Repetition, repeated_ngram_characters, running_hashes, top_ngram_characters
from data_prep.plan import QualityNode, RepetitionNode
from data_prep.records import Record
from data_prep.words import split_words
from tests.data_prep.builders import prose


def record(text: str, language: str = "en") -> Record:
    return Record("id", "source", text=text, language=language)


def texts_of(text: str) -> list[str]:
    words = split_words(text)
    return [text[start:end] for start, end in zip(words.start, words.end, strict=True)]


def test_words_of_several_scripts() -> None:
    assert texts_of("Don't  stop,\nMüller 3.5") == ["Don", "'", "t", "stop", ",", "Müller", "3", ".", "5"]
    assert texts_of("日本語 text") == ["日", "本", "語", "text"]
    assert texts_of("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]
    assert texts_of("") == []
    assert texts_of("a😀b") == ["a", "😀", "b"]


def test_folded_hash_ignores_case_and_accents_only() -> None:
    one, other = split_words("Café ÉCOLE naïve"), split_words("cafe école NAIVE")
    assert (one.folded == other.folded).all()
    assert (one.hash != other.hash).all()
    assert len(np.unique(split_words(prose(1, 3000)).hash)) == len(set(texts_of(prose(1, 3000))))


def plain_top(words: list[str], n: int) -> int:
    grams = [" ".join(words[index : index + n]) for index in range(len(words) - n + 1)]
    if not grams:
        return 0
    gram, count = Counter(grams).most_common(1)[0]
    return len(gram) * count


def plain_repeated(words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    index = total = 0
    while index <= len(words) - n:
        gram = tuple(words[index : index + n])
        if gram in seen:
            total += sum(map(len, gram))
            index += n
        else:
            seen.add(gram)
            index += 1
    return total


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("vocabulary", [3, 12, 200])
def test_ngram_counts_equal_a_plain_implementation(n: int, vocabulary: int) -> None:
    for seed in range(8):
        generator = np.random.default_rng(seed)
        words = ["w" * int(generator.integers(1, 4)) + str(index) for index in generator.integers(0, vocabulary, 150 if seed else n - 1)]
        found = split_words(" ".join(words))
        lengths = (found.end - found.start).astype(np.int64)
        running, keys, counts, firsts = running_hashes(found.hash), np.zeros(512, np.uint64), np.zeros(512, np.int32), np.zeros(512, np.int32)
        assert top_ngram_characters(running, lengths, n, keys, counts, firsts) == plain_top(words, n)
        assert repeated_ngram_characters(running, lengths, n, keys) == plain_repeated(words, n)


def test_repetition_reasons() -> None:
    stage = Repetition(RepetitionNode())
    plain = " ".join(f"word{number}" for number in range(80))
    assert stage.reason(record(plain)) is None
    lines = [f"line {number} {plain[number : number + 30]}" for number in range(10)]
    assert stage.reason(record("\n".join(lines + lines[:5] * 2))) == "repeated lines"
    assert stage.reason(record("\n\n".join([lines[0]] * 3 + lines[:4]))) == "repeated paragraphs"
    assert stage.reason(record("buy now " * 40 + plain)) == "most frequent 2-gram"
    assert re.match(r"repeated \d+-grams|most frequent", stage.reason(record(plain + " " + plain)) or "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (prose(1), None),
        ("Short text of the day and night.", "too few words"),
        (" ".join(["a b c d the of"] * 20), "words too short"),
        (" ".join(["internationalisation the of uncharacteristically"] * 20), "words too long"),
        (prose(2) + " #" * 30, "too many hash signs"),
        (prose(2) + " …" * 30, "too many ellipses"),
        ("\n".join("- the item of " + prose(number, 12) for number in range(10)), "too many bullet lines"),
        ("\n".join(prose(number, 12) + "..." for number in range(10)), "too many lines end with an ellipsis"),
        (prose(3) + " 1234" * 60, "too few words with letters"),
        (" ".join(["fish", "house", "boat", "lamp"] * 20), "too few stop words"),
    ],
)
def test_quality_reasons(text: str, reason: str | None) -> None:
    assert Quality(QualityNode()).reason(record(text)) == reason


def test_stop_words_are_asked_of_english_only() -> None:
    assert Quality(QualityNode()).reason(record(" ".join(["haus", "boot", "lampe", "fisch"] * 20), "de")) is None
