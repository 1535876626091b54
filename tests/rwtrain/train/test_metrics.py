"""What a run reports, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
import resource
import time
from pathlib import Path

import pytest

from rwtrain.config.schema import LoggingConfig
from rwtrain.train.metrics import MetricsLog, peak_memory_gb, read_events, read_metrics, throughput


def test_throughput_by_hand() -> None:
    """8 rows of 100 tokens, 6e12 operations on 2 devices of 10 TFLOP/s in 2 s."""
    found = throughput(tokens=800, samples=8, flops=6e12, seconds=2.0, world_size=2, peak_tflops=10.0)
    assert found == {"tokens_per_s": 400.0, "samples_per_s": 4.0, "tflops_per_device": 1.5, "mfu": pytest.approx(0.15)}
    assert "mfu" not in throughput(tokens=800, samples=8, flops=6e12, seconds=2.0, world_size=2, peak_tflops=None)


def test_memory_is_the_kernels_peak() -> None:
    assert peak_memory_gb() == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, rel=0.01)


def test_lines_are_json_for_every_reader_and_processes_are_counted(tmp_path: Path) -> None:
    for start, loss in ((0, 2.5), (1, math.nan)):
        log = MetricsLog(tmp_path, LoggingConfig(), enabled=True, start=start, steps=2)
        log.write([{"step": start + 1, "loss/total": loss, "tokens_per_s": 7.0, "skipped": "loss not finite"}])
        log.event("skip", start + 1, "why")
        log.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in text.splitlines()]
    assert [(line["process"], line["step"], line["loss/total"]) for line in read_metrics(tmp_path)] == [(0, 1, 2.5), (1, 2, None)]
    assert [event["process"] for event in read_events(tmp_path)] == [0, 1]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_full_disk_does_not_end_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = MetricsLog(tmp_path, LoggingConfig(tensorboard=False), enabled=True, start=0, steps=2)
    log.write([{"step": 1, "loss/total": 2.0, "tokens_per_s": 7.0}])
    log.event("skip", 1, "why")
    log.close()
    assert "metrics.jsonl: not written ([Errno 28] No space left on device)" in capsys.readouterr().err


def test_weights_and_biases_offline_has_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log = MetricsLog(tmp_path, LoggingConfig(tensorboard=False, wandb=True), enabled=True, start=0, steps=2)
    for step in (1, 2):
        log.write([{"step": step, "loss/total": 0.9375 - step, "tokens_per_s": 7.0}])
    log.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    expected, deadline = (b"loss/total", b"tokens_per_s", b"-1.0625"), time.monotonic() + 60  # protocol buffers, whose strings are readable
    while not all(text in file.read_bytes() for text in expected):  # another process writes it
        assert time.monotonic() < deadline
        time.sleep(0.1)
