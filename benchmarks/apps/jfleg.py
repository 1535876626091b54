"""Corrections on JFLEG's dev set: costs chosen on sentences whose number has an even CRC, GLEU reported on the others."""

from __future__ import annotations

import gzip
import json
import re
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.apps.gleu import gleu, resampled, sentence_stats
from rwtrain.apps.edits import Edit
from rwtrain.apps.model import AppModel
from rwtrain.apps.rewriting import NEVER, TOKENIZER_COSTS, Costs, correct, correct_sentence, weighed_edits
from rwtrain.files import write_text

REFERENCES = 4
CHOICES = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, NEVER)
KINDS = tuple(field.name for field in fields(Costs))
SAVE_EVERY = 200
TIMED = 40
ENDS = re.compile(r"(?<=[^\s.])(\.{2,}|[,.;:!?%)\]](?=[,.;:!?%)\]]*(?:\s|$))|'s\b|'re\b|'ve\b|'m\b|'ll\b|'d\b|n't\b)")
MARKS = re.compile(r" ([,.;:!?%)\]]|'s\b|'re\b|'ve\b|'m\b|'ll\b|'d\b|n't\b)")

_statistics = lru_cache(maxsize=100_000)(sentence_stats)


@dataclass(frozen=True)
class Sentences:
    """JFLEG sentences, their tokens parted by spaces, with what four people made of each."""

    sources: list[str]
    references: list[tuple[str, ...]]

    def quality(self, hypotheses: Sequence[str]) -> float:
        """Corpus GLEU."""
        return gleu(self.statistics(hypotheses))

    def statistics(self, hypotheses: Sequence[str]) -> list[np.ndarray]:
        return [_statistics(*each) for each in zip(self.sources, hypotheses, self.references, strict=True)]


def read_sentences(folder: Path, *, even: bool, count: int) -> Sentences:
    """The first `count` sentences of dev whose number has an even (odd) CRC."""
    sources = lines(folder / "dev.src.gz")
    references = list(zip(*(lines(folder / f"dev.ref{number}.gz") for number in range(REFERENCES)), strict=True))
    chosen = [number for number in range(len(sources)) if (zlib.crc32(str(number).encode()) % 2 == 0) == even][:count]
    return Sentences([sources[number] for number in chosen], [references[number] for number in chosen])


def lines(path: Path) -> list[str]:
    """Lines of a gzipped file."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [line.rstrip("\n") for line in stream]


class KnownEdits:
    """Weighed edits of texts, kept in a file, so that other costs and later runs do not read the same texts again."""

    def __init__(self, app: AppModel, path: Path, *, words: frozenset[str] | None) -> None:
        self.app, self.path, self.words, self.unsaved = app, path, words, 0
        read = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.known = {text: [Edit(*values) for values in edits] for text, edits in read.items()}

    def __call__(self, text: str) -> list[Edit]:
        if text not in self.known:
            self.known[text] = weighed_edits(self.app, text, self.words)
            self.unsaved += 1
            if self.unsaved >= SAVE_EVERY:
                self.save()
        return self.known[text]

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {text: [[edit.start, edit.end, edit.replacement, edit.kind, edit.gain] for edit in edits] for text, edits in self.known.items()}
        write_text(self.path, json.dumps(content))
        self.unsaved = 0


def correction_figures(app: AppModel, folder: Path, cache: Path, words: frozenset[str], *, choosing: int, reported: int) -> dict:
    """GLEU on JFLEG, of our corrections and of the text as it is.

    Args:
        cache: folder for the edits weighed.
        words: what is spelled rightly.
        choosing, reported: sentences that choose the costs, and others that are reported.
    """
    weigh = KnownEdits(app, cache / "edits-words.json", words=words)
    choose, report = read_sentences(folder, even=True, count=choosing), read_sentences(folder, even=False, count=reported)
    unchanged = choose.quality(choose.sources)
    costs, best = choose_costs(lambda costs: choose.quality(corrected(choose, weigh, costs)), unchanged)
    figures: dict = {"sentences chosen on": len(choose.sources), "gleu unchanged, chosen on": unchanged, "gleu corrected, chosen on": best}
    figures |= {"sentences": len(report.sources), "gleu unchanged": report.quality(report.sources)}
    own = KnownEdits(app, cache / "edits-tokenizer.json", words=None)
    own_costs, _ = choose_costs(lambda costs: choose.quality(corrected(choose, own, costs)), unchanged, begin=costs, kinds=("spelling",))
    defaults = {"default costs": (weigh, Costs()), "default costs, tokenizer's words": (own, TOKENIZER_COSTS)}
    for name, (source, each) in ({"costs chosen": (weigh, costs), "costs chosen, tokenizer's words": (own, own_costs)} | defaults).items():
        figures |= {f"{name}: {key}": value for key, value in _report(report, corrected(report, source, each)).items()}
        source.save()
    figures["spelling cost chosen for the tokenizer's words"] = own_costs.spelling
    figures |= {"a person, against the other three": people(report), "cpu s a sentence": _seconds(app, report.sources[:TIMED], words)}
    return figures | {"costs": {name: cost if cost < NEVER else "never" for name, cost in asdict(costs).items()}}


def _report(sentences: Sentences, made: Sequence[str]) -> dict[str, float]:
    before, after = sentences.statistics(sentences.sources), sentences.statistics(made)
    low, high = np.percentile(resampled(before, after), (2.5, 97.5))
    changed = sum(text != source for text, source in zip(made, sentences.sources, strict=True))
    return {"gleu": gleu(after), "sentences changed": changed, "gain, 95% from": float(low), "gain, 95% to": float(high)}


def _seconds(app: AppModel, sources: Sequence[str], words: frozenset[str]) -> float:
    """CPU-seconds for a sentence."""
    began = time.process_time()
    for source in sources:
        correct(app, plain(source), words=words)
    return (time.process_time() - began) / len(sources)


def corrected(sentences: Sentences, weigh: Callable[[str], Sequence[Edit]], costs: Costs) -> list[str]:
    """Each sentence as we would write it."""
    return [spaced(correct_sentence(plain(source), weigh, costs=costs).text, source) for source in tqdm(sentences.sources, disable=None, leave=False)]


def people(sentences: Sentences) -> float:
    """Mean GLEU of each reference against the other ones."""
    found = []
    for person in range(REFERENCES):
        others = [texts[:person] + texts[person + 1 :] for texts in sentences.references]
        found.append(Sentences(sentences.sources, others).quality([texts[person] for texts in sentences.references]))
    return float(np.mean(found))


def choose_costs(quality: Callable[[Costs], float], unchanged: float, *, begin: Costs | None = None, kinds: Sequence[str] = KINDS) -> tuple[Costs, float]:
    """(costs, their quality): from no edits at all (or from `begin`), kind by kind, the cost that helps most; twice."""
    costs = begin or Costs(**dict.fromkeys(KINDS, NEVER))
    best = unchanged if begin is None else quality(begin)
    for _ in range(2):
        for kind in kinds:
            for cost in CHOICES:
                tried = replace(costs, **{kind: cost})
                found = quality(tried) if tried != costs else best
                if found > best:
                    costs, best = tried, found
            print(f"{kind}: {getattr(costs, kind)}, GLEU {best:.4f} (unchanged {unchanged:.4f})", flush=True)
    return costs, best


def plain(text: str) -> str:
    """JFLEG's spaced words as people write them."""
    return MARKS.sub(r"\1", text)


def spaced(text: str, source: str) -> str:
    """The reverse, where it is one for the source; else its words keep the marks."""
    return source if text == plain(source) else ENDS.sub(r" \1", text)
