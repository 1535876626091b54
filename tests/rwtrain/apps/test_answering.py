"""Retrieval is exact, answers stand where their citations say, and what nothing supports is not answered."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rwtrain.apps import answer_command
from rwtrain.apps.answering import HeadReader, WritingReader, answer
from rwtrain.apps.model import AppModel
from rwtrain.apps.passages import WORD, Document, PassageIndex, cut, fuse, nearest, read_documents
from rwtrain.apps.tuning import Question, learn_weight
from rwtrain.cli import main
from rwtrain.data.tokenizer import BOS_ID, EOS_ID
from rwtrain.errors import ConfigError, DataError
from rwtrain.export.run import TASK_FILE
from rwtrain.model.tasks_refinedweb import RefinedWebForQuestionAnswering


@pytest.fixture(scope="module")
def documents(paragraphs: list[str]) -> list[Document]:
    return [Document(f"doc {number}", "\n".join(paragraphs[number * 5 : number * 5 + 5]), f"Title {number}") for number in range(12)]


@pytest.fixture(scope="module")
def index(app: AppModel, documents: list[Document], tmp_path_factory: pytest.TempPathFactory) -> PassageIndex:
    return PassageIndex.build(app, documents, tmp_path_factory.mktemp("passages") / "index", words=60)


def test_passages_cover_every_word_once(documents: list[Document]) -> None:
    for document in documents:
        spans = list(cut(document, words=40))
        assert all(end <= following for (_, end), (following, _) in pairwise(spans))
        assert "".join("".join(document.text[start:end] for start, end in spans).split()) == "".join(document.text.split())
        assert max(len(WORD.findall(document.text[start:end])) for start, end in spans) <= 40


def test_nearest_equals_brute_force() -> None:
    draw = np.random.default_rng(0)
    rows, queries = draw.normal(size=(1000, 8)).astype(np.float32), draw.normal(size=(7, 8)).astype(np.float32)
    numbers, scores = nearest(queries, rows, 9, block=130)
    products = queries @ rows.T
    assert numbers.tolist() == np.argsort(-products, axis=1)[:, :9].tolist()
    assert scores == pytest.approx(-np.sort(-products, axis=1)[:, :9])


def test_a_passage_finds_itself(app: AppModel, index: PassageIndex) -> None:
    passage = index.passage(7)
    assert index.search(app, f"{passage.title}\n{passage.text}", by="dense")[0].passage == passage
    assert index.search(app, " ".join(passage.text.split()[:25]), by="bm25")[0].passage == passage
    assert index.search(app, f"{passage.title}\n{passage.text}", by="fused")[0].passage == passage
    assert index.search(app, "zzzzqqq", by="bm25") == []


def test_bytes_of_any_kind_in_lines_are_text_or_named(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_bytes('{"text": "a\u2028b\x85c"}\r\n\n'.encode() + b'{"text": "\xff"}\n')
    found = read_documents([path])
    assert next(found).text == "a\u2028b\x85c"
    with pytest.raises(DataError, match="record 3"):
        next(found)
    records = answer_command._read_records(path)
    assert next(records) == (1, {"text": "a\u2028b\x85c"})
    with pytest.raises(DataError, match="record 2"):
        next(records)


def test_a_question_about_the_only_words_is_json_without_an_answer(app: AppModel, tmp_path: Path) -> None:
    index = PassageIndex.build(app, [Document("a", "Barack Obama")], tmp_path / "index")
    found = answer(app, index, "Barack Obama?", reader=WritingReader(app))
    assert found.hits
    record = json.loads(json.dumps(answer_command.answer_record(found), allow_nan=False))
    assert (record["answer"], record["score"], record["citation"]) == ("", None, None)


def test_fusion_by_hand() -> None:
    dense = np.array([[4, 2, 9]]), np.array([[0.9, 0.8, 0.7]])
    bm25 = np.array([[2, 7, 1]]), np.array([[5.0, 1.0, -np.inf]])
    expected = {4: 0.25 / 61, 2: 0.25 / 62 + 0.75 / 61, 9: 0.25 / 63, 7: 0.75 / 62}
    (found,) = fuse(dense, bm25, dense_weight=0.25)
    assert [number for number, _ in found] == [2, 7, 4, 9]
    assert dict(found) == pytest.approx(expected)


def test_weight_of_the_embeddings_is_learned_and_kept(app: AppModel, documents: list[Document], tmp_path: Path) -> None:
    index = PassageIndex.build(app, documents, tmp_path / "index", words=60)
    words = [Question(" ".join(index.passage(number).text.split()[:8]), frozenset([number])) for number in range(0, len(index), 3)]
    found = learn_weight(app, index, words)
    best = PassageIndex.open(app, tmp_path / "index").dense_weight
    assert found[best] == max(found.values()) >= found[0.0]
    assert not [weight for weight, value in found.items() if value == found[best] and weight < best]
    assert found[0.0] == pytest.approx(
        np.mean([min(each.passages) in [hit.passage.number for hit in index.search(app, each.text, by="bm25", count=5)] for each in words])
    )
    (tmp_path / "known.jsonl").write_text(json.dumps({"question": words[1].text, "document": index.passage(3).document}) + "\n")
    assert main(["answer", "tune", str(tmp_path / "known.jsonl"), "--model", str(app.folder), "--index", str(tmp_path / "index")]) == 0
    (tmp_path / "known.jsonl").write_text(json.dumps({"question": "x", "document": "none"}) + "\n")
    with pytest.raises(DataError, match="record 1"):
        list(answer_command._read_known(tmp_path / "known.jsonl", index))


def test_answer_is_a_cited_span(app: AppModel, index: PassageIndex, documents: list[Document]) -> None:
    found = answer(app, index, "What is an anarchist?", reader=WritingReader(app), threshold=-np.inf)
    assert found.text
    assert found.citation is not None
    document = next(document for document in documents if document.name == found.citation.document)
    assert document.text[found.citation.start : found.citation.end] == found.text
    assert found.text in found.citation.sentence


def test_no_answer_below_the_threshold(app: AppModel, index: PassageIndex) -> None:
    found = answer(app, index, "What is an anarchist?", reader=WritingReader(app), threshold=np.inf)
    assert (found.text, found.citation) == ("", None)
    assert found.best
    with pytest.raises(ConfigError, match="empty"):
        answer(app, index, " ", reader=WritingReader(app))


def test_a_head_reads_long_passages_in_windows(app: AppModel, index: PassageIndex, tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = RefinedWebForQuestionAnswering(app.model.config).eval()
    torch.nn.init.normal_(head.qa_outputs.weight, std=3.0)
    head.save_pretrained(tmp_path)
    shutil.copyfile(app.folder / "tokenizer.model", tmp_path / "tokenizer.model")
    task = {"task": "squad", "kind": "answer", "head": "answer", "labels": [], "columns": [], "metrics": [], "max_tokens": 32, "unanswerable": True}
    (tmp_path / TASK_FILE).write_text(json.dumps(task))
    reader = HeadReader.open(tmp_path)
    question, text = "Who?", index.passage(0).text
    asked, context = app.tokenizer.encode(question), app.tokenizer.encode(text)
    room = 32 - len(asked) - 2
    best, none = -np.inf, np.inf
    for begin in range(0, len(context) - room + room // 2, room // 2):
        window = np.concatenate(([BOS_ID], asked, [EOS_ID], context[begin : begin + room]))
        with torch.inference_mode():
            starts, ends = head(input_ids=torch.from_numpy(window.astype(np.int64))[None]).to_tuple()[:2]
        starts, ends = starts[0].numpy(), ends[0].numpy()
        first = len(asked) + 2
        best = max(best, *(starts[one] + ends[other] for one in range(first, len(window)) for other in range(one, min(len(window), one + 30))))
        none = min(none, starts[0] + ends[0])
    span = reader.read(question, index.passage(0))
    assert len(context) > room
    assert span.score == pytest.approx(best - none, abs=1e-3)
    assert text[span.start : span.end] == text[span.start : span.end].strip() != ""
    found = answer(app, index, question, reader=reader, threshold=-np.inf)
    assert found.citation is not None
    (tmp_path / TASK_FILE).write_text(json.dumps(task | {"head": "classifier"}))
    with pytest.raises(ConfigError, match="not for questions"):
        HeadReader.open(tmp_path)


def test_documents_are_read_and_bad_lines_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "x", "title": "T", "text": "One."}) + "\n")
    (tmp_path / "b.txt").write_text("Two.")
    assert [(document.name, document.text) for document in read_documents([tmp_path])] == [("x", "One."), ("b.txt", "Two.")]
    (tmp_path / "a.jsonl").write_text('{"text": "One."}\n{"title": 3}\n')
    with pytest.raises(DataError, match="record 2"):
        list(read_documents([tmp_path / "a.jsonl"]))


def test_an_index_of_another_model_is_refused(app: AppModel, index: PassageIndex, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(app.folder, other)
    weights = load_file(other / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] = torch.flip(weights["model.layers.0.mlp.up_proj.weight"], (0,))
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="made with another model"):
        PassageIndex.open(AppModel.open(other), index.folder)


def test_damaged_index_is_named(app: AppModel, documents: list[Document], tmp_path: Path) -> None:
    PassageIndex.build(app, documents[:2], tmp_path / "index")
    (tmp_path / "index" / "embeddings.npy").write_bytes(b"")
    with pytest.raises(DataError, match="answer index"):
        PassageIndex.open(app, tmp_path / "index")
