from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.extraction import Extract, decode
from data_prep.plan import ExtractNode
from data_prep.records import Bad, Record, Removed
from tests.data_prep.builders import prose

PAGE = f"""<!doctype html><html><head><title>T</title><style>p {{}}</style></head><body>
<nav><ul><li><a href="/">Home page of this site</a></li><li><a href="/b">Another page</a></li></ul></nav>
<div class="sidebar"><p>Subscribe to our newsletter, and read about all the things that happen here every week.</p></div>
<div id="content"><h1>The title of it</h1><p>{prose(1, 40)}</p><p>{prose(2, 40)}</p>
<pre>def f(x):
    return x + 1</pre>
<ul><li>First of the items in a list that has no links</li><li>Second of them</li></ul>
<table><tr><th>Name</th><th>Value</th></tr><tr><td>alpha</td><td>1</td></tr></table>
<div class="related"><a href="/c">Read this other story too</a> <a href="/d">And that one</a></div></div>
<footer><p>Copyright by somebody, all rights reserved and so on and so forth, until the end of time.</p></footer>
<script>var x = "never shown";</script></body></html>"""


def text_of(html: str, **config: str) -> str:
    (found,) = Extract(ExtractNode(**config))([Record("id", "source", raw=html.encode())])
    assert isinstance(found, Record)
    return found.text


def test_main_text_stays_and_the_rest_goes() -> None:
    text = text_of(PAGE)
    for wanted in ("The title of it", prose(1, 40), prose(2, 40), "def f(x):\n    return x + 1", "First of the items", "alpha"):
        assert wanted in text
    for noise in ("Home page", "newsletter", "other story", "Copyright", "never shown", "<"):
        assert noise not in text


def test_the_whole_text() -> None:
    text = text_of(PAGE, method="whole")
    assert prose(1, 40) in text
    assert "newsletter" in text
    assert "never shown" not in text


def test_the_careful_method_does_not_remember_other_pages() -> None:
    pytest.importorskip("trafilatura")
    assert len({text_of(PAGE, method="trafilatura") for _ in range(6)}) == 1


def test_a_page_without_paragraphs_still_has_text() -> None:
    assert "Only a few words" in text_of("<html><body><div>Only a few words</div></body></html>")


def test_empty_and_undecodable_pages() -> None:
    stage = Extract(ExtractNode())
    assert stage([Record("id", "s", raw=b"<html><body></body></html>")]) == [Removed("no text")]
    noise = bytes([0x81, 0x8D, 0x8F, 0x90, 0x9D, 0xFF] * 200)
    (found,) = stage([Record("id", "s", raw=b"<html><body><p>" + noise + b"</p></body></html>", charset="shift_jis")])
    assert isinstance(found, Bad)


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [
        ("Grüße".encode(), None, "Grüße"),
        ("Grüße".encode(), "latin-1", "Grüße"),  # the bytes are UTF-8, whatever the server says
        ("Привет, мир".encode("cp1251"), "windows-1251", "Привет, мир"),
        ('<meta charset="gb2312"><p>中文网页</p>'.encode("gb2312"), None, '<meta charset="gb2312"><p>中文网页</p>'),
        ("Grüße aus Köln".encode("latin-1"), "utf-8", "Grüße aus Köln"),
        ("Grüße aus Köln".encode("latin-1"), "nonsense", "Grüße aus Köln"),
    ],
)
def test_character_encodings(data: bytes, charset: str | None, text: str) -> None:
    assert decode(data, charset) == text


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=400),
    st.lists(
        st.sampled_from(
            ["<p>", "</p>", "<div class=", "'x'", ">", "<table><tr>", "<a href=", "&#x110000;", "<!--", "]]>", "<svg>", "\x00", "text, and more text "]
        ),
        max_size=40,
    ),
)
def test_broken_pages_end_in_a_decision(noise: bytes, pieces: list[str]) -> None:
    page = "".join(pieces).encode() + noise + "".join(pieces).encode()
    for method in ("scored", "whole"):
        (found,) = Extract(ExtractNode(method=method))([Record("id", "s", raw=page)])
        assert isinstance(found, Record | Removed | Bad)


def test_deep_nesting_ends() -> None:
    (found,) = Extract(ExtractNode())([Record("id", "s", raw=b"<div>" * 20_000 + b"<p>" + prose(1).encode())])
    assert isinstance(found, Record | Removed | Bad)
