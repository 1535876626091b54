"""What a run reports, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
import resource
from pathlib import Path

import pytest

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
        log = MetricsLog(tmp_path, enabled=True, tensorboard=True, start=start, steps=2)
        log.write([{"step": start + 1, "loss/total": loss, "tokens_per_s": 7.0, "skipped": "loss not finite"}])
        log.event("skip", start + 1, "why")
        log.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in text.splitlines()]
    assert [(line["process"], line["step"], line["loss/total"]) for line in read_metrics(tmp_path)] == [(0, 1, 2.5), (1, 2, None)]
    assert [event["process"] for event in read_events(tmp_path)] == [0, 1]
    assert list((tmp_path / "tensorboard").glob("events.*"))
