from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import linking
from data_prep.linking import NOBODY, MentionFinder, Span, linker_hash, token_spans
from data_prep.links import Link
from data_prep.plan import LinkNode


def mention(start: int, end: int, entity: int = 7) -> SimpleNamespace:
    return SimpleNamespace(start=start, end=end, entity=entity, score=1.0)


# Tokens of "Ada Löwe lives": [Ada][ L][öwe][ li][ves]; ö is two bytes.
TEXT = "Ada Löwe lives"
BYTE_ENDS = np.array([3, 5, 9, 12, 15])


@pytest.mark.parametrize(
    ("mentions", "expected"),
    [
        ([mention(0, 3)], ([0], [1], [7])),
        ([mention(4, 8)], ([1], [3], [7])),
        ([mention(5, 8)], ([2], [3], [7])),
        ([mention(9, 11)], ([3], [4], [7])),  # begins after the space of its token
        ([mention(10, 13)], ([3], [5], [7])),  # splits tokens at both ends
        ([mention(0, 14)], ([0], [5], [7])),
        ([mention(4, 6, 1), mention(6, 8, 2)], ([1], [3], [1])),  # overlap after widening: the later goes
        ([mention(9, 14, 2), mention(0, 3, 1)], ([0, 3], [1, 5], [1, 2])),
        ([], ([], [], [])),
    ],
)
def test_mentions_become_whole_tokens(mentions, expected) -> None:
    assert token_spans(TEXT, mentions, BYTE_ENDS) == expected


@pytest.mark.parametrize(
    ("first", "mentions", "expected"),
    [
        ([mention(4, 8, 1)], [mention(0, 3, 2), mention(9, 14, 3)], ([0, 1, 3], [1, 3, 5], [2, 1, 3])),
        ([mention(4, 8, 1)], [mention(0, 8, 2), mention(5, 6, 3)], ([1], [3], [1])),  # the longer and the inner one both go
        ([mention(4, 6, 1)], [mention(6, 8, 2)], ([1], [3], [1])),  # they share a token
        ([mention(4, 8, NOBODY)], [mention(0, 3, 2), mention(4, 8, 3)], ([0], [1], [2])),
        ([mention(0, 3, 1), mention(9, 14, 1)], [mention(3, 8, 2)], ([0, 1, 3], [1, 3, 5], [1, 2, 1])),
    ],
)
def test_given_mentions_take_precedence(first, mentions, expected) -> None:
    assert token_spans(TEXT, mentions, BYTE_ENDS, given=first) == expected


@given(st.lists(st.tuples(st.integers(0, 13), st.integers(1, 14), st.integers(-1, 3))), st.lists(st.tuples(st.integers(0, 13), st.integers(1, 14))))
def test_spans_never_overlap(given_spans, spotted) -> None:
    found = token_spans(TEXT, [mention(a, max(a + 1, b)) for a, b in spotted], BYTE_ENDS, given=[mention(a, max(a + 1, b), e) for a, b, e in given_spans])
    flat = [place for span in zip(found[0], found[1], strict=True) for place in span]
    assert flat == sorted(flat)
    assert all(start < end for start, end, _ in zip(*found, strict=True))


def test_links_without_entity_keep_the_linker_away_only_where_pages_are_known() -> None:
    links = [[Link(0, 3, "enwiki:Ada"), Link(4, 8, "enwiki:Nobody")]]
    pages = SimpleNamespace(find=lambda hashes: np.array([7, -1]), by_label=False)
    assert MentionFinder(None, pages, LinkNode()).given(links) == [[Span(0, 3, 7), Span(4, 8, NOBODY)]]
    pages.by_label = True
    assert MentionFinder(None, pages, LinkNode()).given(links) == [[Span(0, 3, 7)]]


def test_a_change_of_the_linker_or_of_its_code_changes_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linker.json").write_text("{}")
    (tmp_path / "linker.safetensors").write_bytes(b"names")
    before = linker_hash(str(tmp_path))
    assert linker_hash(str(tmp_path)) == before
    (tmp_path / "linker.safetensors").write_bytes(b"Names")
    changed = linker_hash(str(tmp_path))
    assert changed != before
    code = tmp_path / "code" / "rwtrain" / "model"
    code.mkdir(parents=True)
    original = Path(linking.__file__).parents[1] / "rwtrain" / "model" / "linking_refinedweb.py"
    (code / "linking_refinedweb.py").write_text(original.read_text() + "# one more line\n")
    monkeypatch.setattr(linking, "__file__", str(tmp_path / "code" / "data_prep" / "linking.py"))
    assert linker_hash(str(tmp_path)) != changed
