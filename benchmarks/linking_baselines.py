"""What the linker is compared with end to end, and what becomes of gold mentions.

The baselines take the longest known names that are written with a capital letter, without judging whether they are mentions, and link them to the
entity with the highest prior, or to a random candidate. spaCy's entity ruler does the former in its own way.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peer_env import run_peer
from rwtrain.knowledge.gold import Span
from rwtrain.model.linking_refinedweb import EntityLinker
from rwtrain.model.linking_run_refinedweb import Candidate

Gold = Sequence[tuple[str, Span, dict[Span, int]]]


def f1(right: float, links: int, gold: Gold) -> float:
    """F1 of exact span and entity."""
    return 2 * right / max(1.0, links + sum(len(mentions) for _, _, mentions in gold))


def longest_names(linker: EntityLinker, text: str) -> list[tuple[Span, tuple[Candidate, ...]]]:
    """Known names with a capital letter, from left to right the longest first, with their candidates."""
    spans: list[Span] = []
    for spot in sorted(linker.explain(text), key=lambda spot: (spot.start, -spot.end)):
        if any(sign.isupper() for sign in spot.surface) and (not spans or spot.start >= spans[-1][1]):
            spans.append((spot.start, spot.end))
    return list(zip(spans, linker.score_spans(text, spans), strict=True)) if spans else []


def baseline_f1(linker: EntityLinker, gold: Gold) -> dict[str, float]:
    """F1 of linking every longest name to its likeliest entity, and to a random one (the expected number of right links)."""
    prior, random, links = 0.0, 0.0, 0
    for text, (first, last), mentions in gold:
        for span, candidates in longest_names(linker, text):
            if not candidates or span[0] < first or span[1] > last:
                continue
            links += 1
            meant = mentions.get(span)
            prior += max(candidates, key=lambda candidate: candidate.prior).entity == meant
            random += sum(candidate.entity == meant for candidate in candidates) / len(candidates)
    return {"prior_f1": f1(prior, links, gold), "random_f1": f1(random, links, gold)}


def spacy_f1(linker: EntityLinker, gold: Gold, scratch: Path) -> float:
    """F1 of spaCy's entity ruler with the names that these texts hold, each with the entity of the highest prior."""
    names: dict[str, int] = {}
    for text, _, _ in gold:
        spans = sorted({(spot.start, spot.end) for spot in linker.explain(text)})
        for (start, end), candidates in zip(spans, linker.score_spans(text, spans) if spans else [], strict=True):
            if candidates and any(sign.isupper() for sign in text[start:end]):
                names[text[start:end]] = max(candidates, key=lambda candidate: candidate.prior).entity
    path = scratch / "spacy.json"
    path.write_text(json.dumps({"names": list(names.items()), "texts": [text for text, _, _ in gold]}), encoding="utf-8")
    right, links = 0, 0
    for (_, (first, last), mentions), found in zip(gold, run_peer("spacy", "spacy_run.py", path)["links"], strict=True):
        inside = [(start, end, entity) for start, end, entity in found if first <= start and end <= last]
        links += len(inside)
        right += sum(mentions.get((start, end)) == entity for start, end, entity in inside)
    return f1(right, links, gold)


def confusion(linker: EntityLinker, gold: Gold) -> dict[str, int]:
    """Gold mentions, counted: no name leads to the entity; another candidate scores higher; right, but its span is not found, not linked; linked."""
    counts = dict.fromkeys(("no_candidate", "wrong_candidate", "span_not_found", "not_linked", "linked"), 0)
    for text, _, mentions in gold:
        spots = {(spot.start, spot.end): spot for spot in linker.explain(text)}
        for (span, row), candidates in zip(mentions.items(), linker.score_spans(text, list(mentions)), strict=True):
            if row not in [candidate.entity for candidate in candidates]:
                counts["no_candidate"] += 1
            elif candidates[0].entity != row:
                counts["wrong_candidate"] += 1
            elif span not in spots:
                counts["span_not_found"] += 1
            else:
                counts["linked" if spots[span].linked else "not_linked"] += 1
    return counts


def total_confusion(sets: dict[str, Any]) -> dict[str, int]:
    """`confusion` of all sets together."""
    return dict(sum((Counter(row["confusion"]) for row in sets.values()), Counter()))
