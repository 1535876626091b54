"""Pairs of texts into shards."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rwtrain.cli import main
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer


def test_json_lines_and_tables_become_pairs(tmp_path: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = Tokenizer(tokenizer_file)
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as stream:
        records = [{"title": "Cats", "body": "Cats purr.", "wrong": "Dogs bark."}, {"title": "Cats", "body": "Cats sleep."}]
        stream.write("\n\n".join(json.dumps(record) for record in records))
    (tmp_path / "b.tsv").write_text('title\tbody\nA "quoted title\tIts body\n')
    files = [str(tmp_path / name) for name in ("a.jsonl.gz", "b.tsv")]
    names = ["--first", "title", "--second", "body", "--negative", "wrong"]
    assert main(["pairs", *files, *names, "--tokenizer", str(tokenizer_file), "--out", str(tmp_path / "out")]) == 0
    assert "3 pairs, 1 with a hard negative" in capsys.readouterr().out
    dataset = ShardDataset(tmp_path / "out", verify=True)
    expected = [["Cats", "Cats purr.", "Dogs bark."], ["Cats", "Cats sleep."], ['A "quoted title', "Its body"]]
    for index, texts in enumerate(expected):
        tokens = dataset.tokens(index)
        parts = np.split(tokens, np.flatnonzero(tokens == BOS_ID)[1:])
        assert [tokenizer.decode(part[1:-1].tolist()) for part in parts] == texts
        assert all(part[-1] == EOS_ID for part in parts)
    shard = dataset.locate(0)[0]
    assert shard.content_id[0] == shard.content_id[1] != shard.content_id[2]  # one title: not each other's negatives
    assert [shard.doc_id(row) for row in range(3)] == ["a.jsonl.gz:1", "a.jsonl.gz:3", "b.tsv:2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"first": "a"}', r"record 1: no text in the field 'second' \(its fields: first\)"),
        ('{"first": "a", "second": " "}', "no text in the field 'second'"),
        ("[1]", "record 1: a list, not an object"),
        ("{", "record 1: not JSON"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    import re

    (tmp_path / "a.jsonl").write_text(text)
    assert main(["pairs", str(tmp_path / "a.jsonl"), "--tokenizer", str(tokenizer_file), "--out", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out" / "manifest.json").exists()
