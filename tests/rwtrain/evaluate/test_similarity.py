"""Correlations against textbook values and numpy, and files that cannot be used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rwtrain.errors import DataError
from rwtrain.evaluate.model import EvaluatedModel
from rwtrain.evaluate.similarity import evaluate_similarity, pearson, ranks, read_pairs

PAIRS = [("a dog runs", "a dog is running", 4.5), ("a dog runs", "stock prices fell", 0.0), ("the cat", "a cat", 4.0), ("blue sky", "red car", 1.0)]


def test_ranks_share_ties() -> None:
    assert ranks(np.array([10.0, 20.0, 20.0, 5.0])).tolist() == [2.0, 3.5, 3.5, 1.0]


def test_spearman_of_a_published_example() -> None:
    # IQ against hours of television per week, the worked example of Wikipedia's "Spearman's rank correlation coefficient".
    iq = np.array([106, 100, 86, 101, 99, 103, 97, 113, 112, 110], float)
    hours = np.array([7, 27, 2, 50, 28, 29, 20, 12, 6, 17], float)
    assert pearson(ranks(iq), ranks(hours)) == pytest.approx(-29 / 165)


def test_pearson_is_numpys() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 50))
    assert pearson(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert pearson(first, np.ones(50)) == 0


def test_formats_give_the_same_pairs(tmp_path: Path, model: EvaluatedModel) -> None:
    names = ("sentence1", "sentence2", "score")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(dict(zip(names, pair, strict=True))) for pair in PAIRS))
    (tmp_path / "a.tsv").write_text("\n".join(["\t".join(names), *("\t".join(map(str, pair)) for pair in PAIRS)]))
    (tmp_path / "a.csv").write_text("\n".join([",".join(names), *(",".join(map(str, pair)) for pair in PAIRS)]))
    results = [evaluate_similarity(model, tmp_path / f"a.{kind}", compare_untrained=False) for kind in ("jsonl", "tsv", "csv")]
    assert results[0] == results[1] == results[2]
    vectors = model.embed_texts([text for pair in PAIRS for text in pair[:2]]).reshape(4, 2, -1)
    cosines = (vectors[:, 0] * vectors[:, 1]).sum(1)
    assert results[0]["pearson"] == pytest.approx(np.corrcoef(cosines, [pair[2] for pair in PAIRS])[0, 1], abs=1e-5)
    assert results[0]["pairs"] == 4


def test_tables_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"Ein Mann, der tanzt.",Ein Mann tanzt.,4.5\nEins.,Zwei.,0.0\n')
    firsts, seconds, scores = read_pairs(tmp_path / "a.csv")
    assert (firsts[0], seconds[1], scores.tolist()) == ("Ein Mann, der tanzt.", "Zwei.", [4.5, 0.0])
    rows = ["main-captions\tMSRvid\t2012test\t0000\t5.000\tA man dances.\tA man is dancing.", "main-news\tmsr\t2012\t0002\t1.5\tA.\tB."]
    (tmp_path / "b.tsv").write_text("\n".join(rows))
    assert read_pairs(tmp_path / "b.tsv")[1] == ["A man is dancing.", "B."]


def test_quotes_in_tsv_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('sentence1\tsentence2\tscore\n"quoted\tb\t1\nc\td"\t2\n')
    assert read_pairs(tmp_path / "a.tsv")[0] == ['"quoted', "c"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.jsonl", '{"sentence1": "a", "score": 1}\n', "record 1: no sentence2"),
        ("a.jsonl", '{"sentence1": "a", "sentence2": "b", "score": 1}\nnot json\n', "record 2: not JSON"),
        ("a.jsonl", '{"sentence1": "a", "sentence2": "b", "score": 1}\n', "1 pairs"),
        ("a.jsonl", "[1]\n", "record 1: not a JSON object"),
        ("a.tsv", "sentence1\tsentence2\tscore\na\tb\tmuch\n", "score 'much' is no number"),
        ("a.tsv", "first\tsecond\n", "0 pairs"),
        ("a.tsv", "sentence1\tsentence2\tscore\na\tb\tnan\n", "is no number"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, text: str, problem: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=problem):
        read_pairs(tmp_path / name)


def test_gzip_whole_and_truncated(tmp_path: Path) -> None:
    text = "sentence1\tsentence2\tscore\n" + "a\tb\t1\nc\td\t2\n" * 2000
    packed = gzip.compress(text.encode())
    (tmp_path / "a.tsv.gz").write_bytes(packed)
    assert len(read_pairs(tmp_path / "a.tsv.gz")[0]) == 4000
    (tmp_path / "a.tsv.gz").write_bytes(packed[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path / "a.tsv.gz")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path / "none.tsv")
