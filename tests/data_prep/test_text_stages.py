from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.filters.c4 import C4, count_sentences
from data_prep.filters.decontaminate import Decontaminate
from data_prep.filters.fineweb import FineWeb
from data_prep.filters.lines import Lines
from data_prep.filters.quality import Quality
from data_prep.filters.repetition import Repetition
from data_prep.filters.unicode import Unicode
from data_prep.filters.url import Url
from data_prep.language import Language, identify
from data_prep.plan import C4Node, DecontaminateNode, FineWebNode, LanguageNode, LinesNode, QualityNode, RepetitionNode, UnicodeNode, UrlNode
from data_prep.records import Record, Removed
from rwtrain.errors import DataError
from tests.data_prep.builders import prose


def record(text: str, source: str = "http://a.test/", language: str = "en") -> Record:
    return Record("id", source, text=text, language=language)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://example.test/a", None),
        ("https://bad.test/x", "blocked domain"),
        ("https://deep.sub.bad.test:8080/x", "blocked domain"),
        ("https://notbad.test/x", None),
        ("https://en.wikipedia.org/wiki/Cat", "excluded source"),
        ("http://a.test/free-porn-videos", "words of the address"),
        ("http://a.test/casino/poker-betting", "words of the address"),
        ("http://essex.test/adult-education", None),
        ("http://[broken", "not an address"),
    ],
)
def test_addresses(tmp_path: Path, address: str, reason: str | None) -> None:
    (tmp_path / "list.txt").write_text("# comment\nBAD.test  # why\n\n")
    assert Url(UrlNode(blocklists=[str(tmp_path / "list.txt")], exclude=["wikipedia.org"])).reason(address) == reason


def test_a_broken_word_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("casino\n")
    with pytest.raises(DataError, match="'casino' is no word and score"):
        Url(UrlNode(words=str(tmp_path / "words.txt")))


@pytest.mark.parametrize(
    ("line", "sentences"),
    [("One. Two! Three?", 3), ("Version 3.5 is out.", 1), ('He said "go." Then he left.', 2), ("No stop at all", 1), ("Wait... what?!", 2), ("", 0)],
)
def test_sentences(line: str, sentences: int) -> None:
    assert count_sentences(line) == sentences


def test_c4_drops_lines_and_documents() -> None:
    stage = C4(C4Node())
    good = ["This is a sentence.", "Here comes another one!", "And is this a third?", "The fourth is here.", "The fifth is the last.[1]"]
    noise = ["Menu entry", "Two words.", "Please enable JavaScript to see this.", "We use cookies on this site.", "To be continued..."]
    (found,) = stage([record("\n".join([*good[:2], *noise, *good[2:]]))])
    assert isinstance(found, Record)
    assert found.text == "\n".join([*good[:4], "The fifth is the last."])
    assert stage([record("\n".join(good[:3]))]) == [Removed("too few sentences")]
    assert stage([record("\n".join([*good, "Lorem ipsum dolor sit amet."]))]) == [Removed("lorem ipsum")]
    assert stage([record("\n".join([*good, "Code has { in its lines."]))]) == [Removed("curly bracket")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(f"This is line number {number} of the text, long enough." for number in range(8)), None),
        ("\n".join(f"This is line number {number} of the text, without a stop" for number in range(10)), "too few lines end with punctuation"),
        ("\n".join(f"Line {number}." for number in range(10)), "too many short lines"),
        (
            "\n".join(["This line is the same as the other one, and it is long.", "Here is something else, also long enough to count."] * 2),
            "characters in repeated lines",
        ),
        ("\n\n\n\n\n\n\n\n\n\n".join(f"This is the line number {number} of the text." for number in range(8)), "too many line breaks"),
        (" \n ", "no text"),
    ],
)
def test_fineweb_reasons(text: str, reason: str | None) -> None:
    assert FineWeb(FineWebNode()).reason(record(text)) == reason


@pytest.mark.parametrize(
    "line",
    ["12 34 / 56", "3 likes", "1.2k followers", "SIGN UP FOR OUR NEWS", "Home", "Sign in to continue", "Lots of news here. Read more...", "2 items in cart"],
)
def test_noise_lines(line: str) -> None:
    assert Lines(LinesNode()).is_noise(line)


@pytest.mark.parametrize(
    "line", ["", "He likes 3 cats.", "Done.", "NASA launched a probe to the moon.", "Signals travel fast in a wire.", "日本語の文章です。", "- item"]
)
def test_text_lines(line: str) -> None:
    assert not Lines(LinesNode()).is_noise(line)


def test_documents_with_many_noise_words_are_removed() -> None:
    stage = Lines(LinesNode())
    text = "\n".join(prose(number, 12) for number in range(10))
    (found,) = stage([record(f"Home\n{text}\n3 likes")])
    assert isinstance(found, Record)
    assert found.text == text
    assert stage([record(f"{text}\n" + "SIGN UP NOW\n" * 10)]) == [Removed("too many words in removed lines")]


def test_unicode_is_repaired() -> None:
    stage = Unicode(UnicodeNode())
    assert stage.repair("cafÃ© and naÃ¯ve\r\nplain") == "café and naïve\nplain"
    assert stage.repair("e\u0301 \x00a\ufeffb\u2028c") == "é ab\nc"
    assert stage.repair("“quoted” 日本語 Ａ ½") == "“quoted” 日本語 Ａ ½"
    assert Unicode(UnicodeNode(mojibake=False)).repair("cafÃ©") == "cafÃ©"
    plain = record("nothing to do")
    assert stage([plain])[0] is plain


def test_documents_with_evaluation_data_are_removed(tmp_path: Path) -> None:
    question = "Which of the seven hills of the old city was the last to be built upon by its people?"
    (tmp_path / "eval.jsonl").write_text(json.dumps({"text": question}) + "\n" + json.dumps({"text": "too short"}) + "\n")
    stage = Decontaminate(DecontaminateNode(paths=[str(tmp_path / "eval.jsonl")]))
    dirty = record(prose(1) + " which of the SEVEN hills, of the old city; was the last to be... " + prose(2))
    clean = record(prose(1) + " which of the seven hills of the old town was the last to be " + prose(2) + " too short")
    assert stage([dirty, clean]) == [Removed("evaluation data"), clean]


def test_a_broken_evaluation_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(DataError, match="no text in column `text`"):
        Decontaminate(DecontaminateNode(paths=[str(tmp_path / "eval.jsonl")]))


def test_repetition_fineweb_and_language_thresholds_per_language() -> None:
    lines = "\n".join(f"the line of number {number} says something else" for number in range(8)) + "\nagain and again\nagain and again"
    loose = {"duplicate_line_fraction": 1.0, "duplicate_line_characters": 1.0, "top_ngram_characters": {2: 1.0}, "duplicate_ngram_characters": {5: 1.0}}
    strict = RepetitionNode(duplicate_line_fraction=0.05, per_language={"de": loose})
    assert Repetition(strict).reason(record(lines, language="en")) == "repeated lines"
    assert Repetition(strict).reason(record(lines, language="de")) is None
    fineweb = FineWebNode(max_line_breaks_per_word=1, max_repeated_line_characters=1, per_language={"th": {"min_punctuated_lines": 0.0}})
    assert FineWeb(fineweb).reason(record(lines, language="en")) == "too few lines end with punctuation"
    assert FineWeb(fineweb).reason(record(lines, language="th")) is None
    language, score = identify("Madrid no la total")
    assert score < 1
    for other, outcome in ((language, Removed), ("xx", Record)):
        config = LanguageNode(min_score=0, per_language={other: {"min_score": 1.0}})
        assert isinstance(Language(config)([record("Madrid no la total")])[0], outcome)
    with pytest.raises(ValueError, match="another form"):
        RepetitionNode(per_language={"de": {"top_ngram_characters": 0.5}})


def test_thresholds_and_stop_words_per_language() -> None:
    text = " ".join(["Donaudampfschifffahrtsgesellschaft", "und", "Kapitänsmütze", "der"] * 20)
    assert Quality(QualityNode()).reason(record(text, language="de")) == "words too long"
    config = QualityNode(per_language={"de": {"max_mean_word_length": 16}}, stop_words={"de": ["und", "der", "die"]})
    assert Quality(config).reason(record(text, language="de")) is None
    assert Quality(config).reason(record(text.replace("der", "dem"), language="de")) == "too few stop words"
    with pytest.raises(ValueError, match=r"per_language\.de\.max_wordz is no threshold"):
        QualityNode(per_language={"de": {"max_wordz": 1}})
