"""The compiled tokenizer, tree builder and layout against other parsers and against damaged pages."""

from __future__ import annotations

import html
import os
import subprocess
import sys
import time
from html.entities import html5
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from data_prep import main_content
from data_prep.html.noise import find_word
from data_prep.html.tree import ENDS, STEPS, tree_of
from tests.data_prep.builders import prose


def main_text(page: str) -> str:
    return main_content.main_text(page.encode("utf-8", "replace"))


def whole_text(page: str) -> str:
    return main_content.whole_text(page.encode("utf-8", "replace"))


PIECES = [
    *("<p>", "</p>", "<div>", "</div>", "<b>", "</b>", "<i>", "</i>", "<a href=x>", "</a>", "<ul>", "</ul>", "<ol>", "<li>", "</li>", "<table>", "</table>"),
    *("<tr>", "<td>", "</td>", "</tr>", "<th>", "<br>", "<hr>", "<pre>", "</pre>", "<dl>", "<dt>", "<dd>", "<h2>", "</h2>", "<span>", "</span>", "<!-- -->"),
    *("one ", "two ", "three", " ", "\n", "&amp;", "&lt;b>", "&#65;", "&nbsp;", "<img src=x>", "<section>", "</section>", "<blockquote>", "</blockquote>"),
]
JUNK = [
    "<",
    "</",
    "<!",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<?",
    ">",
    "=",
    '"',
    "'",
    "<p ",
    "<a href='",
    "&",
    "&#",
    "&#x",
    "&#x110000;",
    "&nGt;",
    "\x00",
    "<svg>",
]
JUNK += [
    "</svg>",
    "<math>",
    "</math>",
    "<script>",
    "</script>",
    "<style>",
    "<title>",
    "<textarea>",
    "<annotation encoding=tex>",
    "<script type=math/tex>",
    "<select>",
]
JUNK += [
    "<template>",
    "<noscript>",
    "</",
    "é",
    "中，文",
    "<p hidden>",
    '<div class="comments" id=footer>',
    "</br>",
    "<foreignObject>",
    "<plaintext>",
    "\r\n",
    "\ufeff",
]


def words(text: str) -> list[str]:
    return text.replace("•", " ").split()


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>one<p>two", "one\n\ntwo"),
        ("<p>a <b>b</b>c</p> <p>  d\n e </p>", "a bc\n\nd e"),
        ("x<br>y<hr>z", "x\ny\n\nz"),
        ("<ul><li>a<li>b<ul><li>c</ul></ul>", "• a\n• b\n  • c"),
        ("<ol><li>a<li>b</ol>", "1. a\n2. b"),
        ("<table><tr><th>A<th>B<tr><td>1<td>2</table>", "A\tB\n1\t2"),
        ("<pre>\ndef f(x):\n    return  x\n</pre>", "def f(x):\n    return  x"),
        ("<pre>a\r\n\tb</pre>", "a\n\tb"),
        ("<dl><dt>T<dd>D<dt>U<dd>E</dl>", "T\nD\nU\nE"),
        ("a<script>if (1 < 2) '<p>'</script>b<style>p{}</style><!-- <p>c -->d<title>t</title>", "abd"),
        ("a<!-->b<!--->c<!-- x --!>d", "abcd"),
        ("1 < 2 && 3 > 2 &lt;p&gt; &eacute;&#x20AC;&#8212;&#150;&notin;&notit;&amp", "1 < 2 && 3 > 2 <p> é€—–∉¬it;&"),
        ("a&nbsp;&nbsp;b\u00a0 c", "a b c"),
        ("<p title='>'>a</p><p class=\"x\" data-y=z/>b", "a\n\nb"),
        ("<svg><text>drawn</text><path d='x'/></svg>seen", "seen"),
        ("<svg><title>t<p>broken out", "broken out"),
        ("<select><option>a<option>b</select><button>c</button>d", "d"),
        ('<math><mi>x</mi><annotation encoding="application/x-tex">x^2 &lt; 1</annotation></math>.', "$x^2 < 1$."),
        ("<math><mi>x</mi><mo>+</mo><mn>1</mn></math>", "x+1"),
        ('Let <script type="math/tex; mode=display">a\n< b</script> be', "Let $a < b$ be"),
        ('<p>shown</p><p hidden>not</p><div style="color: red; display : none">nor</div><i aria-hidden=true>this</i>', "shown"),
        ("a<p unfinished", "a"),
        ("<b><p>x</b>y</p>z", "x" + "y\n\nz"),
        ("<table><tr><td><table><tr><td>in</table>out<td>next</table>", "in\n\nout\tnext"),
    ],
)
def test_pages_as_text(page: str, text: str) -> None:
    assert whole_text(page) == text


def test_every_named_reference() -> None:
    names = [name for name in html5 if name.endswith(";") and not html5[name].isspace() and html5[name] not in "\u00a0<&\n"]
    page = "".join(f"<p>x&{name}y</p>" for name in names)
    found = [line for line in whole_text(page).split("\n\n") if line]
    expected = [html.unescape(f"x&{name}y") for name in names]
    assert [one for one, other in zip(found, expected, strict=True) if one != other] == []


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_words_are_those_of_another_parser(pieces: list[str]) -> None:
    """Outside of tables, where lexbor moves misplaced text before the table, text has the order of the page."""
    page = "".join(pieces)
    body = LexborHTMLParser(f"<body>{page}").body
    expected = "" if body is None else body.text(separator=" ")
    found = whole_text(page)
    squeezed = "".join(words("".join(line.lstrip("0123456789. ") if "<ol>" in page else line for line in found.split("\n"))))
    if "<ol>" not in page and "<table>" not in page:
        assert squeezed == "".join(words(expected))
    assert sorted(set(found) - set("• \n\t.0123456789")) == sorted(set(expected) - set("• \n\t\xa0.0123456789"))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES + JUNK), st.text(max_size=6)), max_size=60))
def test_any_page_ends_in_text(pieces: list[str]) -> None:
    page = "".join(pieces)
    text, events, nodes, flags, segments = tree_of(page.encode("utf-8", "replace"))
    assert len(flags) == len(nodes)
    assert (nodes[1:, 1] < np.arange(1, len(nodes))).all()  # a parent begins before its children
    assert ((nodes[:, 2] < nodes[:, 3]) & (nodes[:, 3] < len(events))).all()
    assert ((segments[:, 1] <= segments[:, 2]) & (segments[:, 2] <= len(text))).all()
    for found in (main_text(page), whole_text(page)):
        assert found == found.strip(" \n\t")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.lists(st.sampled_from([piece.encode() for piece in PIECES + JUNK]), max_size=20))
def test_any_bytes_end(noise: bytes, pieces: list[bytes]) -> None:
    tree_of(b"".join(pieces) + noise + b"".join(pieces))


HOSTILE = [
    "<",
    "<div>",
    "</p>",
    "<a href=x>",
    "<!--",
    "<b><p>",
    "&",
    "<table>",
    "<svg>",
    "<p class=",
    "</x",
    "<script>",
    "<li>",
    "&#9",
    "<ul><li>",
    "<![CDATA[",
    "<x y='",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear(piece: str) -> None:
    """Four times the page takes about four times as long: a quadratic step would take sixteen times."""
    seconds = []
    for size in (250_000, 1_000_000):
        page = piece * (size // len(piece))
        main_text(page[: 10 * len(piece)])
        tries = []
        for _ in range(3):
            begin = time.process_time()
            main_text(page)
            tries.append(time.process_time() - begin)
        seconds.append(min(tries))
    assert seconds[1] < 9 * seconds[0] + 0.05


def test_ten_megabytes_of_nothing() -> None:
    begin = time.process_time()
    assert whole_text("<" * 10_000_000) == "<" * 10_000_000
    assert time.process_time() - begin < 5


def test_nesting_beyond_the_limit_keeps_the_text() -> None:
    assert whole_text("<div>" * 20_000 + "deep" + "</div>" * 20_000 + "after") == "deep\nafter"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("sidebar", 1), ("left-sidebar", 1), ("page_footer", 1), ("siteFooter", 1), ("nav", 1), ("mainNav", 1), ("Related", 1), ("tags", 1), ("sign-up", 1)),
        *(("comments", 2), ("post-comment", 2), ("no-reply", 2), ("article", 0), ("navy", 0), ("operating-system", 0), ("unrelated", 0), ("sharepoint", 0)),
        *(("stages", 0), ("", 0), ("printing", 0), ("blueprint", 0), ("authority", 1), ("content", 0)),
    ],
)
def test_names_of_noise(name: str, kind: int) -> None:
    data = np.frombuffer(b"<" + name.encode() + b">", np.uint8)
    assert find_word(data, 1, len(data) - 1, STEPS, ENDS) == kind


def test_a_document_section_is_not_noise_by_its_id() -> None:
    sections = f'<section id="related"><h2>Related</h2><p>{prose(3, 30)}</p></section><div class="section" id="comments"><p>{prose(4, 30)}</p></div>'
    page = f'<div id="content"><p>{prose(1, 40)}</p><p>{prose(2, 40)}</p>{sections}<div id="comments"><p>{prose(5, 30)}</p></div></div>'
    text = main_text(page)
    assert prose(3, 30) in text
    assert prose(4, 30) in text
    assert prose(5, 30) not in text


def test_comments_longer_than_the_text_go_and_a_forum_stays() -> None:
    comments = "".join(f"<div class='comment'><p>{prose(number, 40)}</p></div>" for number in range(10, 16))
    article = f"<article><p>{prose(1, 60)}</p><p>{prose(2, 60)}</p></article>"
    assert prose(12, 40) not in main_text(f"<div>{article}<div id='comments'>{comments}</div></div>")
    assert prose(12, 40) in main_text(f"<div><h1>A thread</h1><div id='comments'>{comments}</div></div>")


def test_hidden_formula_of_an_image_stays() -> None:
    formula = '<span style="display: none"><math><annotation encoding="application/x-tex">E=mc^2</annotation></math></span><img src="x.svg">'
    assert "$E=mc^2$" in main_text(f"<div><p>{prose(1, 40)} {formula}</p><p>{prose(2, 40)}</p></div>")


def test_machine_code_lies_where_it_is_told(tmp_path: Path) -> None:
    """Another version of any file of the package has another folder, so that stale code is never used."""
    code = "from data_prep.html.scanning import count_replacements; import numpy as np; count_replacements(np.zeros(9, np.uint8))"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)})
    (folder,) = tmp_path.glob("numba-*")
    assert list(folder.rglob("*.nbi"))
