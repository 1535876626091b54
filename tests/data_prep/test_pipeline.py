from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from data_prep import linking, pipeline
from data_prep.pipeline import Preparation
from data_prep.plan import Plan
from rwtrain.cli import main
from rwtrain.config.load import dump_yaml, load_config
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer
from rwtrain.errors import ConfigError, DataError, RWTrainError
from tests.data_prep.builders import page, prose, response, write_dump, write_idx, write_warc

LOOSE = {"repetition": {"enabled": False}, "tokenizer": {"vocab_size": 400}}


def warc_plan(path: Path, **settings: Any) -> Plan:
    return Plan.model_validate({"sources": [{"kind": "warc", "name": "web", "paths": [str(path)]}], **LOOSE, **settings})


def prepare(plan: Plan, out: Path, workers: int = 1) -> Preparation:
    preparation = Preparation(plan, out, workers=workers, quiet=True)
    preparation.run()
    return preparation


def digest(folder: Path) -> dict[str, str]:
    """Hash of every output file; work files, the report and the summary hold timings."""
    timed = {"report.html", "summary.json"}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "work" not in path.relative_to(folder).parts and path.name not in timed)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_pages_become_documents_with_marks_and_ids(tmp_path: Path) -> None:
    path = write_warc(tmp_path / "pages.warc.gz", 30)
    prepare(warc_plan(path, splits={"valid": 0.2}), tmp_path / "out")
    tokenizer = Tokenizer(tmp_path / "out/tokenizer")
    texts = {}
    for split in ("train", "valid"):
        dataset = ShardDataset(tmp_path / f"out/shards/text/{split}", verify=True)
        assert dataset.manifest["tokenizer_hash"] == tokenizer.hash
        for index in range(len(dataset)):
            shard, row = dataset.locate(index)
            tokens = dataset.tokens(index)
            assert (tokens[0], tokens[-1]) == (BOS_ID, EOS_ID)
            texts[shard.source(row)] = tokenizer.decode(tokens)
            assert shard.language(row) == "en"
    assert texts == {f"http://example.test/{number}": prose(number) for number in range(30)}
    assert 1 <= len(ShardDataset(tmp_path / "out/shards/text/valid")) <= 14


def test_duplicates_are_removed_and_the_first_stays(tmp_path: Path) -> None:
    near = prose(1, 400)
    pages = [prose(0), near, prose(2), prose(0), near.replace("lighthouse", "tower", 1), prose(3)]
    path = tmp_path / "pages.warc.gz"
    path.write_bytes(b"".join(response(page(text), uri=f"http://a.test/{number}") for number, text in enumerate(pages)))
    preparation = Preparation(warc_plan(path, splits={"valid": 0}), tmp_path / "out", workers=1, quiet=True)
    summary = preparation.run()
    dataset = ShardDataset(tmp_path / "out/shards/text/train")
    assert [dataset.locate(index)[0].source(index)[-1] for index in range(len(dataset))] == ["0", "1", "2", "5"]
    assert summary.funnel[-1].reasons == [("same content", 1), ("nearly the same text", 1)]


@pytest.fixture
def mixed(tmp_path: Path) -> Plan:
    """A plan with every local kind of source, in many small units."""
    (tmp_path / "web").mkdir()
    write_warc(tmp_path / "web/a.warc.gz", 40)
    write_warc(tmp_path / "web/b.warc.gz", 40, first=30)
    write_dump(tmp_path / "dump.xml.bz2", [(f"Page {number}", 0, f"'''Page''' {prose(number)}", None) for number in range(100, 120)])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": prose(number)}) + "\n" for number in range(200, 230)) + "broken\n")
    images, labels = write_idx(tmp_path, [0, 1, 2] * 20)
    held_images, held_labels = write_idx(tmp_path, [2, 1, 0], prefix="test")
    return Plan.model_validate(
        {
            "unit_bytes": 2000,
            "sources": [
                {"kind": "warc", "name": "web", "paths": [str(tmp_path / "web/*.gz")]},
                {"kind": "wikipedia", "name": "wiki", "paths": [str(tmp_path / "dump.xml.bz2")], "skip": ["language"]},
                {"kind": "text", "name": "rows", "paths": [str(tmp_path / "rows.jsonl")]},
                {
                    "kind": "idx",
                    "name": "pictures",
                    "files": [
                        {"images": str(images), "labels": str(labels), "split": "train"},
                        {"images": str(held_images), "labels": str(held_labels), "split": "valid", "zero_shot": True},
                    ],
                    "classes": ["cat", "dog", "bird"],
                    "templates": ["a {}", "one {}"],
                },
            ],
            "splits": {"valid": 0.1, "test": 0.1},
            "shards": {"max_bytes": 8000},
            **LOOSE,
        }
    )


def test_any_number_of_workers_gives_the_same_bytes(mixed: Plan, tmp_path: Path) -> None:
    expected = None
    for workers in (1, 2, 5):
        prepare(mixed, tmp_path / f"out{workers}", workers)
        found = digest(tmp_path / f"out{workers}")
        expected = expected or found
        assert found == expected
    assert expected is not None
    assert {
        "manifest.json",
        "quarantine.jsonl",
        "tokenizer/tokenizer.model",
        "eval/zeroshot.parquet",
        "shards/text/train/manifest.json",
        "shards/images/valid/manifest.json",
    } <= set(expected)


def test_images_have_captions_and_an_evaluation_file(mixed: Plan, tmp_path: Path) -> None:
    prepare(mixed, tmp_path / "out")
    train = ShardDataset(tmp_path / "out/shards/images/train")
    assert (len(train), train.manifest["images"]) == (60, 60)
    tokenizer = Tokenizer(tmp_path / "out/tokenizer")
    shard, row = train.locate(4)
    assert tokenizer.decode(train.tokens(4)) in {"a dog", "one dog"}
    with Image.open(io.BytesIO(shard.images(row)[0])) as image:
        assert image.getpixel((0, 0)) == 4
    table = pq.read_table(tmp_path / "out/eval/zeroshot.parquet")
    assert table.column("label").to_pylist() == ["bird", "dog", "cat"]
    assert table.column("image")[0].as_py().startswith(b"\x89PNG")
    assert yaml.safe_load((tmp_path / "out/eval/zeroshot.yaml").read_text()) == {"classes": ["cat", "dog", "bird"], "templates": ["a {}", "one {}"]}


def test_bad_rows_are_named_in_the_quarantine_file(mixed: Plan, tmp_path: Path) -> None:
    prepare(mixed, tmp_path / "out")
    (row,) = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert row["file"].endswith("rows.jsonl")
    assert row["record"].startswith("byte ")
    assert row["reason"].startswith("not JSON")


def test_a_second_run_reuses_everything_and_a_changed_plan_only_what_still_holds(tmp_path: Path, monkeypatch) -> None:
    calls: list[str] = []
    for name in ("ingest", "tokenise"):
        function = getattr(pipeline, name)
        monkeypatch.setattr(pipeline, name, lambda *arguments, name=name, function=function: calls.append(name) or function(*arguments))
    path = write_warc(tmp_path / "pages.warc.gz", 20)
    prepare(warc_plan(path), tmp_path / "out")
    assert calls == ["ingest", "tokenise"]
    prepare(warc_plan(path), tmp_path / "out")
    assert calls == ["ingest", "tokenise"]
    prepare(warc_plan(path, tokenizer={"vocab_size": 390}), tmp_path / "out")
    assert calls == ["ingest", "tokenise", "tokenise"]
    prepare(warc_plan(path, quality={"min_words": 60}, tokenizer={"vocab_size": 390}), tmp_path / "out")
    assert calls[3:] == ["ingest"]  # the same documents stay, so the tokens are the same
    write_warc(path, 21)
    prepare(warc_plan(path), tmp_path / "out")
    assert calls[4:] == ["ingest", "tokenise"]
    assert len(ShardDataset(tmp_path / "out/shards/text/train")) == 21


def test_a_killed_run_goes_on_and_gives_the_same_bytes(mixed: Plan, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(dump_yaml(mixed))
    prepare(mixed, tmp_path / "expected")
    command = [sys.executable, "-m", "rwtrain.cli", "prep", str(plan), "--out", str(tmp_path / "out"), "--workers", "2", "--quiet"]
    finished_before = 0
    for target in (2, 9, 16):  # finished ingest units at which it is killed
        process = subprocess.Popen(command, start_new_session=True, cwd=Path(__file__).parents[2])
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and len(list((tmp_path / "out/work/ingest").glob("*.json"))) < target:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        finished = len(list((tmp_path / "out/work/ingest").glob("*.json")))
        assert finished >= min(finished_before, target)
        finished_before = finished
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    assert digest(tmp_path / "out") == digest(tmp_path / "expected")


def test_workers_leave_when_the_main_process_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "tests.data_prep.slow_unit", str(tmp_path)], cwd=Path(__file__).parents[2])
    pids = tmp_path / "pids"
    deadline = time.monotonic() + 60
    while (not pids.exists() or len(pids.read_text().split()) < 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    workers = [int(pid) for pid in pids.read_text().split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, workers))


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie that waits for its new parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class WordLinker:
    """Links every occurrence of the word `keeper` to row 5."""

    store_hash = "store-hash"

    def link_batch(self, texts: list[str], *, left_context: bool = False) -> SimpleNamespace:
        assert left_context
        found = [(number, match.start(), match.end()) for number, text in enumerate(texts) for match in re.finditer("keeper", text)]
        text, start, end = np.array(found, np.int64).reshape(-1, 3).T
        bounds = np.searchsorted(text, np.arange(len(texts) + 1))
        return SimpleNamespace(bounds=bounds, start=start, end=end, entity=np.full(len(found), 5), score=np.full(len(found), 0.9))


def test_entity_mentions_point_at_their_tokens(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(linking, "open_linker", lambda folder: WordLinker())
    monkeypatch.setattr(linking, "linker_hash", lambda folder: "linker-hash")
    path = write_warc(tmp_path / "pages.warc.gz", 10)
    prepare(warc_plan(path, link={"store": "anywhere"}, splits={"valid": 0}), tmp_path / "out")
    dataset = ShardDataset(tmp_path / "out/shards/text/train")
    tokenizer = Tokenizer(tmp_path / "out/tokenizer")
    assert dataset.manifest["entity_store_hash"] == "store-hash"
    total = 0
    for index in range(len(dataset)):
        starts, ends, entities = dataset.mentions(index)
        assert set(entities.tolist()) <= {5}
        for start, end in zip(starts, ends, strict=True):
            assert "keeper" in tokenizer.decode(dataset.tokens(index, int(start), int(end)))
        total += len(starts)
    assert total == dataset.manifest["mentions"] == sum(prose(number).count("keeper") for number in range(10)) > 0


def test_missing_corpus(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.warc\.gz: no file matches \(source `web`\)"):
        prepare(warc_plan(tmp_path / "none.warc.gz"), tmp_path / "out")


def test_empty_after_filtering_names_the_stage(tmp_path: Path, capsys) -> None:
    path = write_warc(tmp_path / "pages.warc.gz", 4)
    plan = tmp_path / "plan.yaml"
    plan.write_text(dump_yaml(warc_plan(path, quality={"min_words": 5000})))
    assert main(["prep", str(plan), "--out", str(tmp_path / "out"), "--quiet", "--workers", "1"]) != 0
    assert "no document is left of 4: the stage `quality` removed the last 4. Loosen `quality` in the plan" in capsys.readouterr().err


def test_nothing_readable_points_at_the_quarantine(tmp_path: Path) -> None:
    path = tmp_path / "x.warc.gz"
    path.write_bytes(b"not a warc at all")
    with pytest.raises(DataError, match=r"no document could be read \(1 records set aside\).*quarantine"):
        prepare(warc_plan(path), tmp_path / "out")
    assert json.loads((tmp_path / "out/quarantine.jsonl").read_text())["file"] == str(path)


def test_undecodable_page_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "x.warc.gz"
    noise = b"<html><body><p>" + bytes(range(128, 256)) * 30 + b"</p></body></html>"
    path.write_bytes(response(noise, headers="Content-Type: text/html; charset=us-ascii2") + b"".join(response(page(prose(number))) for number in range(5)))
    summary = Preparation(warc_plan(path, dedup={"exact": False, "fuzzy": False}), tmp_path / "out", workers=1, quiet=True).run()
    assert summary.funnel[0].documents == 6
    assert sum(count for _, count in summary.quarantine) + sum(count for stage in summary.funnel for _, count in stage.reasons) >= 1


def test_two_runs_into_one_folder_are_refused(tmp_path: Path) -> None:
    preparation = Preparation(warc_plan(write_warc(tmp_path / "a.warc.gz", 3)), tmp_path / "out", workers=1, quiet=True)
    with preparation.work.locked(), pytest.raises(RWTrainError, match="another `rwtrain prep`"):
        Preparation(preparation.plan, tmp_path / "out", workers=1, quiet=True).run()


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "shards/text/.train.99.tmp").mkdir(parents=True)
    (out / "shards/text/.train.99.tmp/shard-00000.arrow").write_bytes(b"half")
    (out / "eval").mkdir()
    (out / "eval/.zeroshot.yaml.99.tmp").write_text("half")
    prepare(warc_plan(write_warc(tmp_path / "a.warc.gz", 3)), out)
    assert not list(out.rglob(".*.tmp*"))


def test_dry_run_writes_no_dataset(mixed: Plan, tmp_path: Path) -> None:
    text = Preparation(mixed, tmp_path / "out", workers=1, quiet=True).dry_run()
    assert "web (warc): 2 files" in text
    assert ", 0 finished; stages: extract" in text
    assert not (tmp_path / "out/shards").exists()


def test_inspect_shows_documents(mixed: Plan, tmp_path: Path, capsys) -> None:
    prepare(mixed, tmp_path / "out")
    assert main(["prep", "inspect", str(tmp_path / "out")]) == 0
    assert main(["prep", "inspect", str(tmp_path / "out"), "--doc", "pictures:train-images.gz:4"]) == 0
    shown = capsys.readouterr().out
    assert "web:a.warc.gz:0 [en," in shown
    assert "PNG 4×4 L" in shown
    assert "dog" in shown
    assert main(["prep", "inspect", str(tmp_path / "out"), "--doc", "nothing"]) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"qualty": {}}, "did you mean `quality`"),
        ({"quality": {"min_word": 3}}, "did you mean `quality.min_words`"),
        ({"sources": []}, "sources"),
    ],
)
def test_mistakes_in_a_plan_are_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"sources": [{"kind": "wet", "name": "w", "paths": ["x"]}], **settings}))
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(Plan, path)


def test_linker_is_opened_once() -> None:
    assert linking.open_linker.cache_info().maxsize == 1
