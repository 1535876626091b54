"""`rwtrain answer`: index documents, ask them, ask the graph."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rwtrain.apps.answering import Answer, HeadReader, Reader, WritingReader, answer
from rwtrain.apps.graph_answers import SUBJECT, GraphAnswer, GraphAnswerer, learn_relations
from rwtrain.apps.model import AppModel
from rwtrain.apps.passages import PASSAGE_WORDS, SEARCHES, PassageIndex, read_documents
from rwtrain.apps.tuning import RECALL_AT, Question, learn_weight
from rwtrain.arguments import positive_int
from rwtrain.errors import DataError
from rwtrain.knowledge.store import EntityStore

HEAD = "RUN/export of `rwtrain finetune --task squad`, whose head reads; default: the language model confined to the passages"
EXAMPLES = """examples:
  rwtrain answer index docs/ --model export --out runs/index
  rwtrain answer ask "What stalls training while a checkpoint is saved?" --model export --index runs/index
  rwtrain answer tune known.jsonl --model export --index runs/index
  rwtrain answer ask "Who wrote it?" --model export --index runs/index --head runs/squad/export --json
  rwtrain answer relations questions.jsonl --model export --store runs/kg --out runs/relations.safetensors
  rwtrain answer graph "Where was Barack Obama born?" --model export --store runs/kg --relations runs/relations.safetensors

known.jsonl holds objects with `question` and `document` (its `id`, or the name of its file): `tune` keeps with the index how much the embeddings count
beside BM25 in fused search. questions.jsonl holds objects with `question` (the subject's name replaced by the word "this"), `subject`, `relation` (ids
of the store) and, where the subject is the object of the relation, `forward`: false."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain answer`."""
    parser.epilog = EXAMPLES
    verbs = parser.add_subparsers(dest="action", required=True)
    index = verbs.add_parser("index", help="cut documents into passages and embed them with the model")
    index.add_argument("documents", nargs="+", type=Path, help=".jsonl (objects with `text`, `title`, `id`), .txt and .md files, or folders of them")
    index.add_argument("--out", type=Path, required=True, help="folder to write")
    index.add_argument("--words", type=positive_int, default=PASSAGE_WORDS, help=f"words of a passage (default {PASSAGE_WORDS})")
    index.set_defaults(run=run_index)
    ask = verbs.add_parser("ask", help="answer a question from an index, with citations")
    ask.add_argument("question")
    ask.add_argument("--index", type=Path, required=True, help="folder written by `rwtrain answer index`")
    ask.add_argument("--search", choices=SEARCHES, default="fused", help="how passages are found (default: embeddings and BM25, fused)")
    ask.add_argument("--count", type=positive_int, default=5, help="passages to retrieve (default 5)")
    ask.add_argument("--head", type=Path, metavar="FOLDER", help=HEAD)
    ask.add_argument("--threshold", type=float, default=0.0, help="no answer below this score (default 0)")
    ask.set_defaults(run=run_ask)
    tune = verbs.add_parser("tune", help="learn how much the embeddings count beside BM25, from questions with known documents")
    tune.add_argument("questions", type=Path, help="questions with known documents")
    tune.add_argument("--index", type=Path, required=True, help="folder written by `rwtrain answer index`")
    tune.set_defaults(run=run_tune)
    relations = verbs.add_parser("relations", help="learn which relation a question asks for")
    relations.add_argument("questions", type=Path, help="questions with known relations")
    relations.add_argument("--store", type=Path, required=True, help="entity store")
    relations.add_argument("--out", type=Path, required=True, help="file to write")
    relations.set_defaults(run=run_relations)
    graph = verbs.add_parser("graph", help="answer a simple question from the triples of an entity store")
    graph.add_argument("question")
    graph.add_argument("--store", type=Path, required=True, help="entity store that the model's linker was built from")
    graph.add_argument("--relations", type=Path, help="file written by `rwtrain answer relations`")
    graph.add_argument("--count", type=positive_int, default=3, help="answers to print (default 3)")
    graph.set_defaults(run=run_graph)
    for each in (index, ask, tune, relations, graph):
        each.add_argument("--model", type=Path, required=True, help="folder written by `rwtrain export`")
    for each in (ask, graph):
        each.add_argument("--json", action="store_true", help="print one JSON object")


def run_index(options: argparse.Namespace) -> None:
    """Index documents."""
    index = PassageIndex.build(AppModel.open(options.model), read_documents(options.documents), options.out, words=options.words, progress=sys.stderr.isatty())
    print(f"{options.out}: {len(index):,} passages")


def make_reader(app: AppModel, head: Path | None) -> Reader:
    """The head of a fine-tuned folder, or the language model itself."""
    return WritingReader(app) if head is None else HeadReader.open(head)


def run_ask(options: argparse.Namespace) -> None:
    """Answer one question from an index."""
    app = AppModel.open(options.model)
    found = answer(
        app,
        PassageIndex.open(app, options.index),
        options.question,
        reader=make_reader(app, options.head),
        count=options.count,
        by=options.search,
        threshold=options.threshold,
    )
    if options.json:
        print(json.dumps(answer_record(found), ensure_ascii=False))
        return
    if found.citation is None:
        print(f"No passage supports an answer (the best guess, {found.best!r}, scores {found.score:.2f}).")
    else:
        place = found.citation
        print(f"{found.text}  [{place.title or place.document}, characters {place.start} to {place.end}; score {found.score:.2f}]\n  “{place.sentence}”")
    for number, hit in enumerate(found.hits, 1):
        print(f"  {number}. {hit.passage.title or hit.passage.document}: {' '.join(hit.passage.text.split())[:100]}…")


def answer_record(found: Answer) -> dict:
    """An answer for JSON."""
    place = found.citation
    return {
        "answer": found.text,
        "score": found.score if math.isfinite(found.score) else None,  # −∞: no passage has a word to answer with
        "citation": None if place is None else vars(place),
        "passages": [{"document": hit.passage.document, "title": hit.passage.title, "text": hit.passage.text, "score": hit.score} for hit in found.hits],
    }


def run_tune(options: argparse.Namespace) -> None:
    """Learn the weight of the embeddings."""
    app = AppModel.open(options.model)
    index = PassageIndex.open(app, options.index)
    found = learn_weight(app, index, list(_read_known(options.questions, index)))
    print(f"{options.index}: embeddings count {index.dense_weight:g} of 1 in fused search")
    for name, weight in (("BM25 alone", 0.0), ("embeddings alone", 1.0), ("fused", index.dense_weight)):
        print(f"  recall@{RECALL_AT} {name:17s} {found[weight]:.1%}")


def _read_known(path: Path, index: PassageIndex) -> Iterator[Question]:
    passages = index.documents()
    for number, record in _read_records(path):
        try:
            yield Question(str(record["question"]), frozenset(passages[str(record["document"])]))
        except (KeyError, TypeError) as error:
            message = f"not a question about a document of this index ({error})"
            raise DataError(path, message, "Give question and document, or remove the line", record=number) from error


def run_relations(options: argparse.Namespace) -> None:
    """Learn the relations of questions."""
    app, store = AppModel.open(options.model), EntityStore.open(options.store)
    share = learn_relations(app, store, list(_read_questions(options.questions, store)), options.out)
    print(f"{options.out}: finds the relation of {share:.1%} of the questions it learned from")


def _read_questions(path: Path, store: EntityStore) -> Iterator[tuple[str, int, int, bool]]:
    relations = {store.relation_id(row): row for row in range(store.relation_count)}
    for number, record in _read_records(path):
        try:
            yield str(record["question"]), store.row(record["subject"]), relations[record["relation"]], bool(record.get("forward", True))
        except (ValueError, KeyError, TypeError) as error:
            message = f"not a question of this store ({error})"
            raise DataError(
                path, message, f"Give question (with {SUBJECT!r} for the subject), subject and relation, or remove the line", record=number
            ) from error


def _read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """(number, value) of a file's lines; raises `DataError` if it cannot be read, is no JSON, or is empty."""
    try:
        lines = path.read_bytes().splitlines()  # bytes: JSON may hold U+2028, which ends a line of text
    except OSError as error:
        raise DataError(path, f"not readable ({error})", "Correct the path") from error
    if not lines:
        raise DataError(path, "holds no question", "Give one JSON object a line")
    for number, line in enumerate(lines, 1):
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise DataError(path, f"no JSON ({error})", "Correct or remove the line", record=number) from error


def run_graph(options: argparse.Namespace) -> None:
    """Answer one question from the graph."""
    store = EntityStore.open(options.store)
    answerer = GraphAnswerer(AppModel.open(options.model), store, relations=options.relations)
    found = answerer.answer(options.question, count=options.count)
    if options.json:
        print(json.dumps({"answers": [graph_record(answerer, each) for each in found]}, ensure_ascii=False))
        return
    if not found:
        print("No entity of the graph is named in the question, or nothing is known about it.")
    for each in found:
        record = graph_record(answerer, each)
        print(f"{', '.join(record['objects'][:5])}  ({record['subject']} — {record['relation']}; score {each.score:.3f})")


def graph_record(answerer: GraphAnswerer, found: GraphAnswer) -> dict:
    """An answer from the graph, in words."""
    store = answerer.store
    relation = store.relation_label(found.relation)
    return {
        "subject": store.label(found.subject.entity),
        "relation": relation if found.forward else f"{relation}, reversed",
        "objects": [store.label(row) for row in found.objects],
        "score": found.score,
    }
