"""The evidence runs' harness: trains as the engine does, continues where it stopped, and reports means, spreads and plots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.evidence.harness import Options, curve_panel, paired_difference, parse_options, plot, print_json, print_table, run_experiment, summarise
from benchmarks.evidence.training import Training, fit
from rwtrain.config.schema import TrainConfig
from tests.rwtrain.train.runs import losses as reported_losses
from tests.rwtrain.train.runs import train as train_with_engine

FIGURES = {"a": [1.0, 2.0, 6.0], "b": [0.0, 3.0, 3.0]}


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(quick=True, seeds=3, out=tmp_path / "out", data=tmp_path)


def finish(variant: dict, seed: int) -> dict:
    value = FIGURES[variant["name"]][seed]
    return {"figures": {"score": value}, "curve": [{"step": step, "score": value * step / 4} for step in (1, 2, 4)]}


def test_same_losses_as_the_engine(tmp_path: Path, train_settings: dict) -> None:
    """Every kind of row, two micro-batches with gradient caching: each step's losses are those of `rwtrain train` in float32."""
    changes = {"batch": {**train_settings["batch"], "accumulation": 2}, "steps": 4, "engine": {"overlays": ["zero0", "fp32"]}}
    train_with_engine(tmp_path / "run", train_settings, processes=1, **changes)
    config = TrainConfig(run=str(tmp_path / "mine"), **train_settings | changes)
    training = Training.open(config)
    model = training.build_model()
    curve = fit(model, training.losses(model), config.optimizer, steps=4, seed=0, precision="fp32", every=1)
    expected = reported_losses(tmp_path / "run")
    assert len(curve) == len(expected) == 4
    for point in curve:
        theirs = {name.removeprefix("loss/"): value for name, value in expected[point["step"]].items() if name != "loss/total"}
        assert {name: point[name] for name in theirs} == pytest.approx(theirs, rel=1e-4)


def test_finished_trainings_are_kept(options: Options) -> None:
    calls = []

    def train(variant: dict, seed: int) -> dict:
        calls.append((variant["name"], seed))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return finish(variant, seed)

    variants = {"a": {"name": "a"}, "b": {"name": "b"}}
    with pytest.raises(KeyboardInterrupt):
        run_experiment("x", options, variants, train)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    run_experiment("x", options, variants, train)
    assert calls[4:] == [("b", 1), ("a", 2), ("b", 2)]
    run_experiment("x", options, {"a": {"name": "a", "width": 2}, "b": {"name": "b"}}, train)
    assert calls[7:] == [("a", 0), ("a", 1), ("a", 2)], "changed settings run again, the others do not"


def test_summary_table_plot_and_last_line(options: Options, capsys: pytest.CaptureFixture) -> None:
    results = run_experiment("x", options, {"a": {"name": "a"}, "b": {"name": "b"}}, finish)
    assert summarise(results)["a"]["score"] == {"mean": 3.0, "std": pytest.approx(7**0.5), "values": [1.0, 2.0, 6.0]}
    assert paired_difference(results, "a", "b", "score") == {"mean": 1.0, "std": pytest.approx(2.0), "values": [1.0, -1.0, 3.0]}
    print_table(results, {"score": "the score"})
    print_json("x", options, results, extra=1)
    *_, header, first, _, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["the", "score"]
    assert first.split() == ["a", "3", "±", "2.6"]
    found = json.loads(last)
    assert found["benchmark"] == "evidence.x"
    assert found["quick"] is True
    assert found["variants"]["b"]["score"]["values"] == [0.0, 3.0, 3.0]
    path = plot("x", options, [curve_panel(results, "score", title="score", y="score")])
    assert path.read_bytes().startswith(b"\x89PNG")
    assert options.out in path.parents, "a quick run leaves the docs alone"


def test_options(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = parse_options("", ["--quick", "--data", str(tmp_path), "--steps-scale", "0.5"])
    assert (options.seeds, options.steps(100, quick=10, large=1000)) == (1, 5)
    assert parse_options("", ["--data", str(tmp_path), "--large", "--seeds", "5"]).steps(100, quick=10, large=1000) == 1000
    with pytest.raises(SystemExit):
        parse_options("", ["--data", str(tmp_path / "nowhere")])
    assert "--data" in capsys.readouterr().err
