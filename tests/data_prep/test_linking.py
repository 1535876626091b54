from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from data_prep.linking import token_spans


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
