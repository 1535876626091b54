"""Which addresses to leave out: blocked domains, a score of words, and sources that are collected elsewhere."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from data_prep.plan import UrlNode
from data_prep.records import Record, Removed
from rwtrain.errors import DataError

SEPARATORS = re.compile(r"[^a-z0-9]+")


class Url:
    """Remove pages by their address (RefinedWeb, arXiv 2306.01116, section G.1)."""

    name = "url"

    def __init__(self, config: UrlNode) -> None:
        self.config = config
        self.blocked = frozenset(domain for path in config.blocklists for domain in read_domains(path))
        self.excluded = frozenset(domain.lower() for domain in config.exclude)
        self.scores = read_scores(config.words)

    def __call__(self, records: list[Record]) -> list[Record | Removed]:
        return [Removed(reason) if (reason := self.reason(record.source)) else record for record in records]

    def reason(self, address: str) -> str | None:
        """Why a page at this address has to go, None if it may stay."""
        try:
            host = (urlsplit(address).hostname or "").lower()
        except ValueError:
            return "not an address"
        domains = _with_parents(host)
        if not self.blocked.isdisjoint(domains):
            return "blocked domain"
        if not self.excluded.isdisjoint(domains):
            return "excluded source"
        if sum(self.scores.get(word, 0) for word in set(SEPARATORS.split(address.lower()))) >= self.config.max_word_score:
            return "words of the address"
        return None


def _with_parents(host: str) -> list[str]:
    """`a.b.c` -> [`a.b.c`, `b.c`, `c`]."""
    labels = host.split(".")
    return [".".join(labels[number:]) for number in range(len(labels))]


@lru_cache(maxsize=8)
def read_domains(path: str) -> frozenset[str]:
    """Domains of a list file, one a line; `#` begins a comment."""
    return frozenset(line.lower() for line in _lines(path))


@lru_cache(maxsize=2)
def read_scores(path: str | None) -> dict[str, int]:
    """Scores of a word list, `word score` a line; None for the list that comes with the package.

    Raises:
        DataError: the file cannot be read, or a line has another form.
    """
    name = path or str(files("data_prep") / "lists" / "url_words.txt")
    scores = {}
    for line in _lines(name):
        word, _, score = line.partition(" ")
        if not score.strip().isdigit():
            raise DataError(name, f"the line {line!r} is no word and score", "Write lines such as `casino 2`")
        scores[word.lower()] = int(score)
    return scores


def _lines(path: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"the list cannot be read ({error})", "Correct the path in the plan, or save the list as UTF-8") from error
    return [line for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]
