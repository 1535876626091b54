from __future__ import annotations

import bz2
from pathlib import Path

import pytest

from data_prep.records import Bad, Record
from data_prep.source_plan import WikipediaSource
from data_prep.sources import wikipedia
from data_prep.wikitext import drop_brackets, wikitext_to_text
from tests.data_prep.builders import stretches, write_dump

SAMPLE = Path(__file__).parents[2] / "examples/data/enwiki-pages-articles1-shortened.xml.bz2"


def read_all(path: Path, *, unit_bytes: int = 1 << 30) -> tuple[list[Record], list[Bad]]:
    source = WikipediaSource(kind="wikipedia", name="w", paths=[str(path)])
    found = [record for span in stretches(source, unit_bytes=unit_bytes) for record in wikipedia.read(source, span)]
    return [record for record in found if isinstance(record, Record)], [bad for bad in found if isinstance(bad, Bad)]


def test_redirects_and_other_namespaces_are_left_out(tmp_path: Path) -> None:
    pages = [
        ("Cat", 0, "A cat.", None),
        ("Kitty", 0, "#REDIRECT [[Cat]]", "Cat"),
        ("Talk:Cat", 1, "Nice cat.", None),
        ("Big dog", 0, "A <b>dog</b> & more.", None),
    ]
    records, bad = read_all(write_dump(tmp_path / "dump.xml.bz2", pages))
    assert [(record.doc_id, record.source, record.raw) for record in records] == [
        ("w:1", "https://en.wikipedia.org/wiki/Cat", "A cat."),
        ("w:4", "https://en.wikipedia.org/wiki/Big_dog", "A <b>dog</b> & more."),
    ]
    assert not bad


def test_sample_dump_has_106_articles() -> None:
    xml = bz2.decompress(SAMPLE.read_bytes())
    records, bad = read_all(SAMPLE)
    assert len(records) == xml.count(b"<page>") - xml.count(b"<redirect ") == 106
    assert not bad


@pytest.mark.parametrize("cut", [200, 5_000])
def test_a_dump_that_ends_early_is_read_as_far_as_it_goes(tmp_path: Path, cut: int) -> None:
    whole = write_dump(tmp_path / "dump.xml.bz2", [(f"Page {number}", 0, f"text {number} " * 400, None) for number in range(500)])
    expected, _ = read_all(whole)
    (tmp_path / "cut.xml").write_bytes(bz2.decompress(whole.read_bytes())[:-cut])
    records, bad = read_all(tmp_path / "cut.xml")
    assert 490 < len(records) < 500
    assert [record.raw for record in records] == [record.raw for record in expected[: len(records)]]
    assert len(bad) == 1
    assert bad[0].reason.startswith("the dump ends early")


def test_wikitext_keeps_prose_and_drops_the_rest() -> None:
    wikitext = """{{Infobox | name = {{nested|x}} }}
'''Ada''' was a [[mathematics|mathematician]] and [[writer]].<ref name="a">Source [[link]]</ref><ref name="b"/><!-- hidden -->
[[File:Ada.jpg|thumb|A [[portrait]]]]
== Life ==
* Born in [https://london.test London]&nbsp;city
{| class="wikitable"
! a !! b
|}
The formula is <math>x^2 < 3</math>. [[Category:People]]
== References ==
* gone"""
    assert wikitext_to_text(wikitext)[0] == ("Ada was a mathematician and writer.\n\nLife\n\n- Born in London city\n\nThe formula is x^2 < 3.")


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("a{{b}}c", "ac"),
        ("{{a{{b}}c}}d", "d"),
        ("{{a", "{{a"),
        ("a}}b", "a}}b"),
        ("{|x{{y|}}|}z", "z"),
        ("{{ {| }} |}", " |}"),
        ("{{a|}}b", "b"),
        ("{|x{{y|}z", "z"),
    ],
)
def test_brackets_are_dropped_only_in_balance(wikitext: str, expected: str) -> None:
    assert drop_brackets(wikitext) == expected


def test_bracket_scan_is_linear() -> None:
    assert drop_brackets("{{" * 200_000) == "{{" * 200_000
    assert drop_brackets("{{" * 100_000 + "}}" * 100_000) == ""
