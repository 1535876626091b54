from __future__ import annotations

import pytest

from data_prep.dedup.minhash import band_hashes
from data_prep.filters.quality import Quality
from data_prep.plan import QualityNode
from data_prep.records import Record, Removed
from data_prep.words import split_words

# Sentences of the Universal Declaration of Human Rights, article 1.
ARTICLE = {
    "zh": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられている。",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
}


def words_of_text(text: str) -> list[str]:
    words = split_words(text)
    return [text[start:end] for start, end, folded in zip(words.start, words.end, words.folded, strict=True) if folded]


def test_scripts_without_spaces_count_by_character_and_marks_stay_with_it() -> None:
    assert words_of_text("我爱 Python 3!") == ["我", "爱", "Python", "3"]
    assert words_of_text("これはペンです。") == list("これはペンです")
    assert words_of_text("ที่นี่ดี") == ["ที่", "นี่", "ดี"]
    assert words_of_text("한국어 문장") == ["한국어", "문장"]
    assert words_of_text("Grüße, naïve E\u0301tat") == ["Grüße", "naïve", "E\u0301tat"]


@pytest.mark.parametrize("language", ARTICLE)
def test_real_text_in_scripts_without_spaces_passes_the_default_quality_rules(language: str) -> None:
    record = Record("1", "", text="\n".join([ARTICLE[language]] * 3), language=language)
    assert Quality(QualityNode())([record]) == [record]
    assert Quality(QualityNode(per_language={}))([record]) == [Removed("words too short")]


@pytest.mark.parametrize("language", ARTICLE)
def test_near_duplicates_are_seen_in_scripts_without_spaces(language: str) -> None:
    text = ARTICLE[language] + "".join(chr(0x4E00 + 7 * number) for number in range(300))
    signatures = [band_hashes(split_words(version), ngram=5, bands=14, rows=8) for version in (text, text.replace(text[5], "", 1), ARTICLE[language][::-1])]
    assert (signatures[0] == signatures[1]).any()
    assert not (signatures[0] == signatures[2]).any()
