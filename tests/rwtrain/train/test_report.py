"""The report of a real run, looked at in a browser; traces of chosen steps."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rwtrain.cli import main
from rwtrain.train.metrics import read_events, read_metrics
from rwtrain.train.report import buckets, duration, line_chart
from tests.rwtrain.train.runs import train

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'></td>{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, train_settings: dict) -> Path:
    """A run of six steps in two starts, one of them traced, with a skipped step of hostile name."""
    folder = tmp_path_factory.mktemp("report") / "a<b>run"
    logging = {"every_steps": 1, "tensorboard": False, "profile_steps": [2, 3], "peak_tflops": 0.1}
    for steps in (4, 6):
        train(folder, train_settings, processes=1, steps=steps, logging=logging)
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"process": 1, "event": "skip", "step": 5, "message": HOSTILE}) + "\n")
    assert main(["report", str(folder)]) == 0
    return folder


def test_page_shows_the_run_on_a_telephone(run: Path, browser: WebDriver) -> None:
    browser.get((run / "report.html").as_uri())

    def texts(selector: str) -> list[str]:
        return browser.execute_script("return [...document.querySelectorAll(arguments[0])].map(node => node.textContent.trim())", selector)

    lines = read_metrics(run)
    cards = dict(zip(texts("#totals span"), texts("#totals b"), strict=True))
    assert texts("h1") == ["a<b>run"]
    assert cards["steps"] == "6 / 6"
    assert cards["last loss"] == f"{lines[-1]['loss/total']:.4g}"
    assert cards["resumes"] == "1"
    assert int(re.sub(r"\s", "", cards["tokens seen"])) == 6 * 12 * 64  # rows of 64 tokens
    assert cards["MFU, median"] == f"{100 * statistics.median(line['mfu'] for line in lines):.1f}%"
    assert cards["steps run again"] == cards["steps skipped"] == "0"
    charts = texts("[data-chart] h3")
    assert {"total", "language modelling", "image contrast", "learning rate", "gradient norm, before clipping", "tokens per second"} <= set(charts)
    assert {"temperature of the contrasts", "waiting for data, % of the step", "waiting for a checkpoint, seconds"} <= set(charts)
    assert len(texts("[data-chart] svg.lines")) == len(charts)
    drawn = browser.execute_script("return document.querySelector('[data-chart=total] polyline').getAttribute('points').split(' ').length")
    assert drawn == 6
    assert len(texts("[data-chart=total] line.resume")) == 1
    assert len(texts("[data-chart=total] line.checkpoint")) == len([event for event in read_events(run) if event["event"] == "checkpoint"]) == 3
    events = texts("#events .event b")
    assert events == ["start", "checkpoint", "checkpoint", "resume", "checkpoint", "skip"]
    assert texts("#checkpoints td:first-child") == ["3", "4", "6 latest"]
    browser.execute_script("document.querySelectorAll('details').forEach(node => { node.open = true })")
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth && window.innerWidth === 390")
    assert browser.execute_script("return window.hacked === undefined && document.querySelectorAll('script, img, iframe, link').length === 0")
    assert "{{ 7 * 7 }}" in browser.execute_script("return document.body.innerText")
    assert browser.get_log("browser") == []
    assert not re.search(r"""(src|href|action)\s*=\s*["']?[a-z]+:""", re.sub("&[a-z#0-9]+;", "", (run / "report.html").read_text()))


def test_traces_of_the_chosen_steps(run: Path) -> None:
    trace = json.loads((run / "profile" / "steps-2-3.json").read_text())
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert names.count("aten::scaled_dot_product_attention") > 0
    assert sum(name.startswith("Optimizer.step") for name in names) == 2 * 2  # steps x parameter groups, which ZeRO-3 updates one after the other
    assert "aten::" in (run / "profile" / "steps-2-3.txt").read_text()


def test_a_folder_without_metrics_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "no metrics yet" in capsys.readouterr().err


def test_long_runs_are_drawn_as_means_inside_bands() -> None:
    points = [(step, float(step % 2)) for step in range(1, 3201)]
    found = buckets(points, (1, 3200))
    assert len(found) == 160
    assert found[0] == (10.5, 0.0, 0.5, 1.0)  # steps 1 to 20
    assert buckets([(5, 2.0), (6, 4.0)], (5, 6)) == [(5, 2.0, 2.0, 2.0), (6, 4.0, 4.0, 4.0)]
    svg = line_chart("x", [("", [(1, 2.0), (11, 4.0)])], (1, 11), [("skip", 6)])
    assert 'class="skip" x1="198.0"' in svg  # half way between 40 and 356
    assert [duration(seconds) for seconds in (45, 600, 12_345, 1e6)] == ["45 s", "10 min", "3.4 h", "11.6 days"]
