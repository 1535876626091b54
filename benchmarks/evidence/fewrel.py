"""FewRel's Wikipedia sentences with their entities linked to FB15k-237, split by entity, as shards."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.texts import make_tokenizer, write_shards
from data_prep.hashing import unit_interval
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.files import write_json
from rwtrain.knowledge.store import EntityStore
from rwtrain.model.linking_refinedweb import EntityLinker

HELD_OUT_ENTITIES = 0.3  # share of the graph's entities whose vectors never enter in training
SEEN_TEST = 0.1  # share of the sentences with known entities that are kept for testing
SENTENCES_PER_ENTITY = 10  # of the tests, so that no language or sport dominates them
SPLITS = ("train", "seen", "unseen")


@dataclass(frozen=True)
class Span:
    """A mention: characters `start` to `end`, row of its entity in the store; `given` by FewRel, or else found by our linker."""

    start: int
    end: int
    entity: int
    given: bool


@dataclass(frozen=True)
class Sentence:
    text: str
    relation: str
    spans: list[Span]


@dataclass(frozen=True)
class FewRel:
    """The prepared data.

    Attributes:
        plain: split -> shards of its sentences.
        sentences: the sentences of each split, in the shards' order.
        relations: all relations, in words.
        frequency: training mentions of each entity of the store, [entities].
        candidates: the entities that occur anywhere in the data, ascending.
    """

    tokenizer: Tokenizer
    plain: dict[str, ShardDataset]
    sentences: dict[str, list[Sentence]]
    relations: list[str]
    frequency: np.ndarray
    candidates: np.ndarray


def held_out(store: EntityStore, row: int) -> bool:
    """Whether an entity is kept from training, by a hash of its id."""
    return unit_interval(store.external_id(row), 0) < HELD_OUT_ENTITIES


def read_sentences(data: Path, store: EntityStore, linker: EntityLinker) -> list[Sentence]:
    """All sentences of val_wiki; FewRel's own mentions first, then those that our linker finds from left context elsewhere."""
    with gzip.open(data / "fewrel" / "val_wiki.json.gz", "rt", encoding="utf-8") as stream:
        examples = json.load(stream)
    with gzip.open(data / "fewrel" / "pid2name.json.gz", "rt", encoding="utf-8") as stream:
        names = {relation: name for relation, (name, _) in json.load(stream).items()}
    return [_sentence(example, names[relation], store, linker) for relation, found in examples.items() for example in found]


def _sentence(example: dict[str, Any], relation: str, store: EntityStore, linker: EntityLinker) -> Sentence:
    words = example["tokens"]
    starts = np.cumsum([0] + [len(word) + 1 for word in words])
    text = " ".join(words)
    spans: list[Span] = []
    for _, wikidata_id, places in (example["h"], example["t"]):
        try:
            row = store.row(wikidata_id)
        except KeyError:
            continue
        spans += [Span(int(starts[place[0]]), int(starts[place[-1]]) + len(words[place[-1]]), row, True) for place in places]
    spans.sort(key=lambda span: span.start)
    spans = [span for index, span in enumerate(spans) if not index or spans[index - 1].end <= span.start]
    for mention in linker.link(text, left_context=True):
        if all(mention.end <= span.start or mention.start >= span.end for span in spans):
            spans.append(Span(mention.start, mention.end, int(mention.entity), False))
    return Sentence(text, relation, sorted(spans, key=lambda span: span.start))


def split_sentences(sentences: Sequence[Sentence], store: EntityStore) -> dict[str, list[Sentence]]:
    """Tests: sentences that name a held-out entity ("unseen"), and a tenth of those that name others ("seen"); the rest trains.

    Mentions of held-out entities in training sentences, which only the linker makes, are dropped.
    """
    splits: dict[str, list[Sentence]] = {name: [] for name in SPLITS}
    taken: Counter[int] = Counter()
    for sentence in sentences:
        given = [span.entity for span in sentence.spans if span.given]
        unseen = [entity for entity in given if held_out(store, entity)]
        if unseen or (given and unit_interval(sentence.text, 1) < SEEN_TEST):
            tested = unseen or given
            if max(taken[entity] for entity in tested) < SENTENCES_PER_ENTITY:
                taken.update(tested)
                splits["unseen" if unseen else "seen"].append(sentence)
        else:
            spans = [span for span in sentence.spans if not held_out(store, span.entity)]
            splits["train"].append(Sentence(sentence.text, sentence.relation, spans))
    return {name: sorted(found, key=lambda sentence: unit_interval(sentence.text, 2)) for name, found in splits.items()}  # any part is a sample


def prepare(data: Path, folder: Path, store: EntityStore, linker_folder: Path, *, vocab_size: int) -> FewRel:
    """Read, link, split, train the tokenizer on the training sentences and write shards; finished parts are reused."""
    cache = folder / "sentences.json"
    if not cache.is_file():
        linked = read_sentences(data, store, EntityLinker.open(linker_folder))
        write_json(cache, [[s.text, s.relation, [[p.start, p.end, p.entity, p.given] for p in s.spans]] for s in linked])
    read = json.loads(cache.read_text(encoding="utf-8"))
    sentences = split_sentences([Sentence(text, relation, [Span(*span) for span in spans]) for text, relation, spans in read], store)
    tokenizer = make_tokenizer(folder / "tokenizer.model", lambda: [sentence.text for sentence in sentences["train"]], vocab_size=vocab_size)
    plain = {
        split: write_shards(
            folder / f"{split}-plain",
            [sentence.text for sentence in found],
            tokenizer,
            mentions=[sentence.spans for sentence in found],
            store_hash=store.hash,
        )
        for split, found in sentences.items()
    }
    relations = sorted({sentence.relation for found in sentences.values() for sentence in found})
    entities = [span.entity for found in sentences.values() for sentence in found for span in sentence.spans]
    trained = [span.entity for sentence in sentences["train"] for span in sentence.spans]
    frequency = np.bincount(np.array(trained), minlength=len(store))
    return FewRel(tokenizer, plain, sentences, relations, frequency, np.unique(entities))
