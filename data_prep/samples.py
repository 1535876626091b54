"""Samples of what a stage removes and keeps, near its limits where it has some.

Whether a document is near a limit is found by asking the stage again with every limit moved by a fifth: a removed document
that would then stay, and a kept one that would then go. So no filter has to know about samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from data_prep.plan import Plan
from data_prep.records import Bad, Record, Removed
from rwtrain.config.load import Node

StageFunction = Callable[[list[Record]], Sequence[Record | Removed | Bad]]
STAGES_WITH_LIMITS = ("language", "repetition", "quality", "c4", "fineweb", "lines", "images")
MARGIN = 0.2
PER_REASON = 2
# Documents of one unit and outcome that are asked about again, per stage: about a percent of all work.
PROBES = 32
CHARACTERS = 280


@dataclass(slots=True)
class Sample:
    """One document shown in the report.

    Attributes:
        reason: why it was removed; for a kept one, why it would go at tighter limits, "" if it would not.
        kept: it stayed.
        near: its outcome changes when the limits move by `MARGIN`.
        doc_id: its id.
        source: where it came from.
        text: its beginning.
    """

    reason: str
    kept: bool
    near: bool
    doc_id: str
    source: str
    text: str


def moved_limits(plan: Plan, margin: float) -> Plan:
    """The plan with every limit of its filters tighter by this share (looser if negative)."""
    moved = {name: _moved(getattr(plan, name), margin) for name in STAGES_WITH_LIMITS}
    return plan.model_copy(update=moved)


def _moved(node: Node, margin: float) -> Node:
    changed: dict[str, Any] = {}
    for name in type(node).model_fields:
        value = getattr(node, name)
        if name == "per_language":
            changed[name] = {language: {key: _moved_value(key, limit, margin) for key, limit in limits.items()} for language, limits in value.items()}
        elif isinstance(value, float) or name.startswith(("min_", "max_")) or (isinstance(value, dict) and _is_table(value)):
            changed[name] = _moved_value(name, value, margin)
    return node.model_copy(update=changed)


def _is_table(value: dict[Any, Any]) -> bool:
    return all(isinstance(limit, float) for limit in value.values())


def _moved_value(name: str, limit: Any, margin: float) -> Any:
    if isinstance(limit, dict):
        return {key: value / (1 + margin) for key, value in limit.items()}
    return limit * (1 + margin) if name.startswith("min_") else limit / (1 + margin)


class Sampler:
    """Choose samples of one stage in one unit.

    Args:
        tighter: the stage with tighter limits; None if it has no limits.
        looser: with looser ones.
    """

    def __init__(self, tighter: StageFunction | None, looser: StageFunction | None) -> None:
        self.tighter, self.looser = tighter, looser
        self.samples: list[Sample] = []
        self._taken: Counter[tuple[str, bool, bool]] = Counter()
        self._probes: Counter[str] = Counter()

    def look(self, batch: Sequence[Record], outcomes: Sequence[Record | Removed | Bad]) -> None:
        """Take samples of a batch that the stage has just decided on."""
        for record, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Removed):
                near = self._changes("-" + outcome.reason, self.looser, record) is None
                self._take(Sample(outcome.reason, False, near, record.doc_id, record.source, record.text[:CHARACTERS]))
            elif isinstance(outcome, Record):
                reason = self._changes("+", self.tighter, record) or ""
                self._take(Sample(reason, True, bool(reason), record.doc_id, record.source, outcome.text[:CHARACTERS]))

    def _changes(self, outcome: str, stage: StageFunction | None, record: Record) -> str | None:
        """The reason that the moved stage gives, None if it keeps the record; "" if it was not asked."""
        if stage is None or self._probes[outcome] == PROBES:
            return ""
        self._probes[outcome] += 1
        (found,) = stage([replace(record)])
        return found.reason if isinstance(found, Removed) else None

    def _take(self, sample: Sample) -> None:
        kind = (sample.reason, sample.kept, sample.near)
        if self._taken[kind] < PER_REASON:
            self._taken[kind] += 1
            self.samples.append(sample)


def side_by_side(samples: Sequence[Sample], reasons: Sequence[str]) -> list[tuple[str, list[Sample], list[Sample]]]:
    """(Reason, removed, kept) for every reason that has a sample: those near its limit first, then any."""
    chosen = []
    for reason in reasons:
        removed = [sample for sample in samples if sample.reason == reason and not sample.kept]
        if removed:
            kept = sorted((sample for sample in samples if sample.kept), key=lambda sample: (sample.reason != reason, sample.near))
            chosen.append((reason, sorted(removed, key=lambda sample: not sample.near)[:PER_REASON], kept[:PER_REASON]))
    return chosen


def as_json(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The samples as JSON values."""
    return [asdict(sample) for sample in samples]
