"""Questions: retrieval, reading and refusing on SQuAD 2, and SimpleQuestions from the graph.

    python -m benchmarks.apps.answer --data DIR [--quick]

DIR holds qa and fb15k237. Needs the model of `python -m benchmarks.apps.model`. Paragraphs are passages. Articles are parted by a hash of their title
into those that settings are chosen on and those that are reported; of the former, most teach a head for reading, and thresholds are chosen on the
rest. Finished parts are kept under runs/apps/answer.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from benchmarks.apps.graph import graph_figures
from benchmarks.apps.model import MODEL, OUT
from rwtrain.apps.answering import Answer, HeadReader, Reader, WritingReader, answer
from rwtrain.apps.model import AppModel
from rwtrain.apps.passages import Document, Passage, PassageIndex, fuse
from rwtrain.apps.tuning import Question, learn_weight, recall
from rwtrain.files import content_hash, write_json
from rwtrain.finetune.metrics import squad

FOLDER = OUT / "answer"
HEAD = {"batch": {"seq_len": 192, "rows": 24}, "optimizer": {"learning_rate": 5e-4}, "checkpoint": {"every_steps": 200, "keep": 1}}
WHOLE = 1_000_000  # words of a passage: no paragraph is cut


@dataclass(frozen=True)
class Asked:
    """A question of SQuAD 2; `answers` is empty where the paragraph has none; `part` is its article's: "learn", "choose" or "report"."""

    id: str
    text: str
    paragraph: int
    answers: tuple[str, ...]
    part: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with qa and fb15k237")
    parser.add_argument("--model", type=Path, default=MODEL, help="exported folder (default: that of benchmarks.apps.model)")
    parser.add_argument("--store", type=Path, default=OUT / "kg", help="entity store of its linker")
    parser.add_argument("--epochs", type=float, default=2, help="passes over the questions that teach the reading head; 0 leaves it out")
    parser.add_argument("--quick", action="store_true", help="40 questions to read instead of 200, no head")
    options = parser.parse_args()
    app = AppModel.open(options.model)
    cache = FOLDER / (content_hash(options.model / "model.safetensors")[:12] + "-quick" * options.quick)
    paragraphs, asked = read_squad(options.data / "qa" / "squad2_dev_half_a.json.gz")
    index = _index(app, paragraphs, cache / "index")
    count = 40 if options.quick else 200
    result = {"quick": options.quick, "paragraphs": len(paragraphs), "questions": len(asked)}
    result["retrieval"] = kept(cache / "retrieval.json", lambda: retrieval_figures(app, index, asked))
    index = PassageIndex.open(app, cache / "index")  # with the weight that was learned
    readers: dict[str, Reader] = {"writing": WritingReader(app)}
    if options.epochs and not options.quick:
        readers["head"] = HeadReader.open(_taught(options, cache))
    for name, reader in readers.items():
        reading = kept(cache / f"reading-{name}.json", lambda reader=reader: reading_figures(reader, index, asked, count))
        result[f"reading, {name}"] = reading
        result[f"whole path, {name}"] = kept(
            cache / f"path-{name}.json", lambda reader=reader, at=reading["threshold"]: path_figures(app, reader, index, asked, count // 2, at)
        )
    result["graph"] = kept(cache / "graph.json", lambda: graph_figures(app, options.store, options.data, OUT / "answer" / "relations.safetensors"))
    for name in [key for key in result if isinstance(result[key], dict)]:
        print(f"\n{name}")
        for key, value in result[name].items():
            print(f"  {key:52s} {value:.3f}" if isinstance(value, float) else f"  {key:52s} {value}")
    print(json.dumps(result))


def _taught(options: argparse.Namespace, cache: Path) -> Path:
    """The model with a question-answering head, taught by `rwtrain finetune`."""
    run, squad_2 = cache / "head", options.data / "qa" / "squad2_dev_half_a.json.gz"
    if not (run / "results.json").exists():
        files = [write_part(squad_2, part, cache / f"{part}.json") for part in ("learn", "choose")]
        settings = cache / "head.yaml"
        settings.write_text(yaml.safe_dump(HEAD | {"epochs": options.epochs}))
        command = ["finetune", options.model, "--task", "squad", "--train", files[0], "--valid", files[1], "--out", run, "--config", settings, "--no-baselines"]
        subprocess.run([sys.executable, "-m", "rwtrain.cli", *map(str, command)], check=True)
    return run / "export"


def read_squad(path: Path) -> tuple[list[Document], list[Asked]]:
    """Paragraphs and questions of a file of SQuAD 2."""
    paragraphs, asked = [], []
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        articles = json.load(stream)["data"]
    for article in articles:
        for paragraph in article["paragraphs"]:
            for each in paragraph["qas"]:
                answers = tuple(dict.fromkeys(found["text"] for found in each["answers"]))
                asked.append(Asked(each["id"], each["question"], len(paragraphs), answers, part_of(article)))
            paragraphs.append(Document(f"paragraph {len(paragraphs)}", paragraph["context"].replace("\n", " "), article["title"].replace("_", " ")))
    return paragraphs, asked


def part_of(article: dict) -> str:
    """What an article of SQuAD serves for."""
    number = zlib.crc32(article["title"].encode())
    return "report" if number % 2 else "choose" if number // 2 % 4 == 0 else "learn"


def write_part(path: Path, part: str, out: Path) -> Path:
    """The articles of one part as a file of SQuAD's format."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        squad_2 = json.load(stream)
    out.write_text(json.dumps({"data": [article for article in squad_2["data"] if part_of(article) == part]}))
    return out


def _index(app: AppModel, paragraphs: Sequence[Document], folder: Path) -> PassageIndex:
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        PassageIndex.build(app, paragraphs, folder, words=WHOLE)
    index = PassageIndex.open(app, folder)
    assert len(index) == len(paragraphs)
    return index


def kept(file: Path, make: Callable[[], dict]) -> dict:
    """What a part of a benchmark found; made once."""
    if not file.exists():
        found = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
    return json.loads(file.read_text())


def retrieval_figures(app: AppModel, index: PassageIndex, asked: Sequence[Asked]) -> dict:
    """Recall@5 of the answerable questions of the reported half; the weight of the embeddings is learned on the other."""
    chosen_on, reported = (
        [Question(each.text, frozenset([each.paragraph])) for each in asked if each.answers and (each.part == "report") == last] for last in (False, True)
    )
    chosen = learn_weight(app, index, chosen_on)
    texts = [question.text for question in reported]
    searches = {"dense": index.dense(app.embed_texts(texts), 100), "bm25": index.bm25(texts, 100)}
    figures: dict = {"questions": len(texts), "chance recall@5": 5 / len(index), "learned weight": index.dense_weight}
    figures["recall@5 by weight, chosen on"] = {str(weight): round(value, 4) for weight, value in chosen.items()}
    for name, (numbers, _) in searches.items():
        figures |= {f"{name} recall@{at}": recall(numbers.tolist(), reported, at=at) for at in (1, 5, 20)}
    for name, weight in (("fused", index.dense_weight), ("fused equally", 0.5)):
        ranked = [[number for number, _ in hits] for hits in fuse(*searches.values(), dense_weight=weight)]
        figures |= {f"{name} recall@{at}": recall(ranked, reported, at=at) for at in (1, 5, 20)}
    return figures


def _sample(asked: Sequence[Asked], count: int, part: str) -> list[Asked]:
    """`count` questions of a part, half of them unanswerable."""
    draw = np.random.default_rng(0)
    parts = [[each for each in asked if each.part == part and bool(each.answers) == answerable] for answerable in (True, False)]
    return [found[place] for found in parts for place in draw.permutation(len(found))[: count // 2]]


def reading_figures(reader: Reader, index: PassageIndex, asked: Sequence[Asked], count: int) -> dict:
    """Spans of the right paragraph, and whether the score tells answerable questions from others."""
    passages, rows = [index.passage(number) for number in range(len(index))], {}
    for part in ("choose", "report"):
        sample = _sample(asked, count, part)
        spans = [reader.read(each.text, passages[each.paragraph]) for each in tqdm(sample, disable=None)]
        texts = [passages[each.paragraph].text[span.start : span.end] for each, span in zip(sample, spans, strict=True)]
        rows[part] = (sample, texts, np.array([span.score for span in spans]), np.array([bool(each.answers) for each in sample]))
    _, _, scores, answerable = rows["choose"]
    threshold = best_threshold(scores, answerable)
    sample, texts, scores, answerable = rows["report"]
    gold = [each.answers for each, right in zip(sample, answerable, strict=True) if right]
    found = [text for text, right in zip(texts, answerable, strict=True) if right]
    guesses = [_guess(passages[each.paragraph], number) for number, each in enumerate(sample) if answerable[number]]
    refused = scores < threshold
    return {
        "questions": len(sample),
        "f1 of answerable questions": squad(gold, found)["f1"],
        "exact match of answerable questions": squad(gold, found)["exact_match"],
        "f1 of a random span of three words": squad(gold, guesses)["f1"],
        "area under the curve, answerable or not": float(roc_auc_score(answerable, scores)),
        "threshold": float(threshold),
        "no answer: precision": float((refused & ~answerable).sum() / max(refused.sum(), 1)),
        "no answer: recall": float((refused & ~answerable).sum() / (~answerable).sum()),
        "no answer: precision of always refusing": float((~answerable).mean()),
        "squad 2 f1 with the threshold": squad([each.answers for each in sample], ["" if no else text for no, text in zip(refused, texts, strict=True)])["f1"],
        "squad 2 f1 of always refusing": float((~answerable).mean()),
    }


def best_threshold(scores: np.ndarray, answerable: np.ndarray) -> float:
    """The threshold with the best mean of the two classes' recalls (always refusing and never refusing have 0.5)."""
    places = np.unique(scores)
    return float(max(places, key=lambda place: (scores[answerable] >= place).mean() + (scores[~answerable] < place).mean()))


def _guess(passage: Passage, seed: int) -> str:
    words = passage.text.split()
    start = int(np.random.default_rng(seed).integers(max(1, len(words) - 2)))
    return " ".join(words[start : start + 3])


def path_figures(app: AppModel, reader: Reader, index: PassageIndex, asked: Sequence[Asked], count: int, threshold: float) -> dict:
    """Search, read three passages, answer or refuse: as `rwtrain answer ask` does."""
    sample = _sample(asked, count, "report")
    found = [answer(app, index, each.text, reader=reader, threshold=threshold) for each in tqdm(sample, disable=None)]
    answerable = np.array([bool(each.answers) for each in sample])
    forced = squad([each.answers for each in sample if each.answers], [each.best for each, right in zip(found, answerable, strict=True) if right])
    cited = [each for each in found if each.citation is not None]
    refused = np.array([each.citation is None for each in found])
    return {
        "questions": len(sample),
        "f1 of answerable questions": forced["f1"],
        "answers": len(cited),
        "answers that stand where the citation says": float(np.mean([_stands(each, index) for each in cited])) if cited else 1.0,
        "right paragraph cited, of answered answerable questions": _right_paragraph(sample, found),
        "no answer: precision": float((refused & ~answerable).sum() / max(refused.sum(), 1)),
        "no answer: recall": float((refused & ~answerable).sum() / (~answerable).sum()),
        "squad 2 f1": squad([each.answers for each in sample], [each.text for each in found])["f1"],
    }


def _stands(found: Answer, index: PassageIndex) -> bool:
    place = found.citation
    assert place is not None  # by the only caller
    passage = index.passage(place.passage)
    return bool(found.text) and passage.text[place.start - passage.start : place.end - passage.start] == found.text and found.text in place.sentence


def _right_paragraph(sample: Sequence[Asked], found: Sequence[Answer]) -> float:
    pairs = [(each.paragraph, place.passage) for each, made in zip(sample, found, strict=True) if each.answers and (place := made.citation) is not None]
    return float(np.mean([right == cited for right, cited in pairs])) if pairs else 0.0


if __name__ == "__main__":
    main()
