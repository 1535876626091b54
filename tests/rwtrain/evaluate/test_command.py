"""`rwtrain eval`: what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rwtrain.cli import main
from rwtrain.data.shards import ShardDataset

LM_KEYS = ["perplexity", "unigram_perplexity", "untrained_perplexity", "entity_perplexity", "loss", "bits_per_byte", "tokens", "documents"]


def figures(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    """The figures that a command prints: its standard output is one JSON object and nothing else."""
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_lm_takes_the_unigram_counts_from_the_run(
    random_run: Path, datasets: tuple[Path, Path], entity_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = figures(capsys, "lm", random_run, "--data", datasets[0], "--max-documents", 3, "--entities", entity_store, "--no-untrained")
    assert list(found) == LM_KEYS
    assert found["documents"] == 3
    assert found["unigram_perplexity"] is not None
    assert found["entity_perplexity"] is not None
    assert found["untrained_perplexity"] is None


def test_zero_shot(random_run: Path, datasets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard, _ = ShardDataset(datasets[1]).locate(0)
    pq.write_table(pa.table({"image": [shard.images(row)[0] for row in range(6)], "label": list(range(6))}), tmp_path / "a.parquet")
    (tmp_path / "c.yaml").write_text("classes: ['0', '1', '2', '3', '4', '5']\ntemplates: ['a picture of level {}']\n")
    found = figures(capsys, "zeroshot", random_run, "--data", tmp_path / "a.parquet", "--classes", tmp_path / "c.yaml", "--max-images", 5)
    assert found["images"] == 5
    assert found["chance"] == pytest.approx(1 / 6)


def test_retrieval(random_run: Path, datasets: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(capsys, "retrieval", random_run, "--data", datasets[1], "--max-documents", 7)
    assert found["images"] == found["texts"] == 7


def test_sts_in_words(random_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tsv").write_text("sentence1\tsentence2\tscore\na cat\ta dog\t1\none\tone\t5\n")
    assert main(["eval", "sts", str(random_run), str(tmp_path / "a.tsv"), "--no-untrained"]) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert lines["pairs"] == "2"
    assert lines["untrained_pearson"] == "-"


def test_problems_end_in_one_sentence(random_run: Path, datasets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "lm", str(tmp_path), "--data", str(datasets[0])]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["eval", "lm", str(random_run), "--data", str(tmp_path)]) == 2
    assert "no finished dataset" in capsys.readouterr().err
