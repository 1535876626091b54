"""Skipped steps, rewinds, and the end: by formula, and in real runs with bad samples planted in the data."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwtrain.config.schema import GuardConfig
from rwtrain.data.order import sample_at
from rwtrain.data.shards import Document, ShardWriter
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer
from rwtrain.train.guard import EXIT_DIVERGED, Guard
from rwtrain.train.metrics import read_events, read_metrics
from rwtrain.train.sentinel import EXIT_HUNG, describe, missing_ranks
from tests.rwtrain.train.runs import start, wait_for_step

SEQ_LEN, ROWS, DOCUMENTS = 64, 4, 200
NAN_STEP, SPIKE_STEP = 19, 40  # 1-based
BAD_ENTITY = 3


def test_a_spike_lies_sigmas_above_the_window() -> None:
    guard = Guard(GuardConfig(spike_window=4, spike_sigmas=3))
    for loss in (1.0, 2.0, 3.0):
        assert guard.limit == math.inf
        guard.note(loss, None)
    guard.note(4.0, None)
    assert guard.limit == pytest.approx(2.5 + 3 * statistics.pstdev([1, 2, 3, 4]))
    guard.note(100.0, "loss spike")  # does not enter the window
    guard.note(5.0, None)
    assert guard.limit == pytest.approx(3.5 + 3 * statistics.pstdev([2, 3, 4, 5]))
    quiet = Guard(GuardConfig(spike_window=2, spike_sigmas=6), [5.0, 5.0])
    assert quiet.limit == pytest.approx(5 + 6 * 0.05)
    assert Guard(GuardConfig(spike_sigmas=0, spike_window=1), [1.0]).limit == math.inf


def test_skips_in_a_row_rewind_and_then_end_the_run() -> None:
    guard = Guard(GuardConfig(max_skips=2, max_rewinds=1))
    decisions = [guard.note(1.0, reason) for reason in ("bad", None, "bad", "bad", "bad", "bad")]
    assert decisions == ["go on", "go on", "go on", "rewind", "go on", "give up"]
    assert guard.reason(math.nan, 5.0, applied=False) == "loss not finite"
    assert guard.reason(6.0, 5.0, applied=False) == "loss spike"
    assert guard.reason(4.0, 5.0, applied=False) == "gradient not finite"
    assert guard.reason(4.0, 5.0, applied=True) is None


def test_a_step_with_nan_gradients_changes_nothing_at_any_zero_stage_and_nothing_is_compiled(tmp_path: Path, train_settings: dict) -> None:
    worker = Path(__file__).with_name("untouched_worker.py")
    settings = json.dumps({**train_settings, "run": str(tmp_path)})
    done = subprocess.run([sys.executable, str(worker), settings], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert not found["compiler"]
    assert len(found["steps"]) == 8
    for name, result in found["steps"].items():
        assert result["applied"] == [True, False, True], name
        assert result["unchanged"] == [True, False], name
        assert result["finite"], name
        assert result["tensors"] >= 3, name


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, train_settings: dict, tokenizer_file: Path) -> dict:
    """Settings of a run on documents of one repeated token; one mentions `BAD_ENTITY`, one is noise."""
    from rwtrain.knowledge.store import EntityStore
    from rwtrain.knowledge.writing import Rejects, entity_batch, write_store, write_vectors

    folder = tmp_path_factory.mktemp("planted")
    rows = [{"id": f"Q{index}", "wikidata_id": f"Q{index}", "label": str(index), "description": "", "aliases": []} for index in range(5)]
    write_store(
        folder / "kg",
        entities=[entity_batch(rows)],
        relations=[("P1", "next")],
        triples={"train": np.zeros((1, 3), np.int32)},
        rejects=Rejects(),
        provenance={},
    )
    vectors = np.ones((5, 8), np.float32)
    write_vectors(EntityStore.open(folder / "kg"), entity_vectors=vectors, relation_vectors=vectors[:1], details={})
    tokenizer = Tokenizer(tokenizer_file)
    with_nan, noise = (int(sample_at((step - 1) * ROWS + 3, DOCUMENTS, 0)) for step in (NAN_STEP, SPIKE_STEP))
    with ShardWriter(
        folder / "text", vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash, entity_store_hash=EntityStore.open(folder / "kg").hash
    ) as writer:
        for number in range(DOCUMENTS):
            inner = np.random.default_rng(0).integers(20, 600, SEQ_LEN - 2) if number == noise else np.full(SEQ_LEN - 2, 300)
            mention = {"mention_start": [10], "mention_end": [12], "mention_entity": [BAD_ENTITY]} if number == with_nan else {}
            writer.add(Document(doc_id=str(number), tokens=np.concatenate(([BOS_ID], inner, [EOS_ID])), content_id=number, **mention))
    return {
        "data": {"text": str(folder / "text"), "tokenizer": str(tokenizer_file), "entity_store": str(folder / "kg"), "prefetch_batches": 1},
        "model": {**train_settings["model"], "vision": None},
        "batch": {"seq_len": SEQ_LEN, "text_rows": ROWS, "withhold": 0.0, "mentions_per_row": 4},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 0, "schedule": "constant"},
        "checkpoint": {"every_steps": 4},
        "logging": {"every_steps": 1, "tensorboard": False},
    }


def train_with_a_bad_vector(arguments: list[str]) -> int:
    """Train with NaN as the vector of `BAD_ENTITY`, planted in memory: a store that holds it on disk is refused."""
    from rwtrain.config.load import load_config
    from rwtrain.config.schema import TrainConfig
    from rwtrain.train import loop, work

    opened = work.open_inputs

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        inputs = opened(*args, **kwargs)
        vectors = np.array(inputs.vectors)
        vectors[BAD_ENTITY] = np.nan
        return dataclasses.replace(inputs, vectors=vectors)

    work.open_inputs = spoiled  # type: ignore[assignment]
    return loop.train(load_config(TrainConfig, arguments[0]))


def test_planted_samples_are_skipped_named_rewound_and_end_the_run(tmp_path: Path, planted: dict) -> None:
    folder = tmp_path / "run"
    guard = {"spike_window": 8, "spike_sigmas": 20, "max_skips": 1, "max_rewinds": 1}
    job = start(folder, planted, steps=60, guard=guard, main=train_with_a_bad_vector)
    assert job.wait() == [EXIT_DIVERGED, EXIT_DIVERGED], job.output.read_text()[-3000:]
    assert "1 rewinds have not helped" in job.output.read_text()
    assert "Traceback" not in job.output.read_text()
    lines = {line["step"]: line for line in read_metrics(folder)}
    assert {step: line["skipped"] for step, line in lines.items() if "skipped" in line} == {NAN_STEP: "loss not finite", SPIKE_STEP: "loss spike"}
    assert lines[NAN_STEP]["loss/total"] is None
    assert max(lines) == SPIKE_STEP
    events = {event["event"]: event for event in read_events(folder) if event["step"] == NAN_STEP}
    position = (NAN_STEP - 1) * ROWS + 3  # of the last row, on rank 1
    assert f"rank 1 {{'text': [{position - 1}, {position}]}}" in events["skip"]["message"]
    assert "weights and optimiser of step 16, the data goes on behind step 19" in events["rewind"]["message"]
    log = (folder / "logs" / "rank-1.log").read_text()
    assert f"step {NAN_STEP} skipped: loss not finite; this rank's loss is not finite; samples {{'text': [{position - 1}, {position}]}}" in log
    assert f"step {SPIKE_STEP} skipped: loss spike" in (folder / "logs" / "rank-0.log").read_text()


def test_a_stopped_rank_is_named_and_the_job_ends(tmp_path: Path, train_settings: dict) -> None:
    folder = tmp_path / "hung"
    settings = {**train_settings, "guard": {"hang_timeout_s": 8}}
    job = start(folder, settings, steps=100_000)
    wait_for_step(folder, 2, job.ended)
    job.send(signal.SIGSTOP, ranks=[1])
    log, deadline = folder / "logs" / "rank-0.log", time.monotonic() + 60
    while "this rank stands at" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    job.ranks[0].join(20)
    assert job.ranks[0].exitcode == EXIT_HUNG
    job.kill()
    text = log.read_text()
    assert "no progress for 8 s in step" in text
    assert "waiting for rank 1 (step" in text
    assert "its process is stopped or its node is lost" in text
    assert "loop.py" in text
    assert "_train_step" in text or "agree" in text


def train_with_a_loader_that_hangs(arguments: list[str]) -> int:
    """Rank 1's loader does not come back from step 3, as on a file system that hangs."""
    from rwtrain.config.load import load_config
    from rwtrain.config.schema import TrainConfig
    from rwtrain.data.loader import Loader
    from rwtrain.train import loop

    read = Loader.step_batches

    def hanging_read(self: Loader, step: int) -> Any:
        if self.rank == 1 and step == 2:
            time.sleep(1000)
        return read(self, step)

    Loader.step_batches = hanging_read  # type: ignore[method-assign]
    return loop.train(load_config(TrainConfig, arguments[0]))


def test_a_stuck_rank_says_where_it_is_stuck(tmp_path: Path, train_settings: dict) -> None:
    folder = tmp_path / "stuck"
    job = start(folder, {**train_settings, "guard": {"hang_timeout_s": 6}}, steps=100, main=train_with_a_loader_that_hangs)
    codes = job.wait(120)
    assert EXIT_HUNG in codes
    assert 0 not in codes
    text = "".join((folder / "logs" / f"rank-{rank}.log").read_text() for rank in (0, 1))
    assert "in step 3, phase data; waiting for rank 1 (step 3, phase data" in text
    assert "hanging_read" in (folder / "logs" / "rank-1.log").read_text()  # the line of the loader's thread


def test_ranks_behind_are_those_with_the_least_progress(tmp_path: Path) -> None:
    for rank, progress in enumerate((41, 40, 41)):
        (tmp_path / f"rank-{rank}.json").write_text(json.dumps({"progress": progress, "step": 7, "phase": "data" if rank == 1 else "forward 1/1"}))
    assert describe(missing_ranks(tmp_path, 3, 60)) == "waiting for rank 1 (step 7, phase data)"
    assert "rank 3 (step None, phase gone)" in describe(missing_ranks(tmp_path, 4, 60))
    old = time.time() - 50
    os.utime(tmp_path / "rank-2.json", (old, old))
    assert "rank 2 (step 7, phase forward 1/1, no sign of life for 5" in describe(missing_ranks(tmp_path, 3, 60))
    (tmp_path / "rank-1.json").write_text((tmp_path / "rank-0.json").read_text())
    assert describe(missing_ranks(tmp_path, 3, 60)).startswith(
        "waiting for rank 2 (step 7, phase forward 1/1, no sign of life for 5"
    )  # stopped in the same phase
    os.utime(tmp_path / "rank-2.json")
    assert "all ranks stand at the same place" in describe(missing_ranks(tmp_path, 3, 60))
