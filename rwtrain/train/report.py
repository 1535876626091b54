"""The report of a run: one HTML page without any other file, readable on a telephone, in light and dark."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rwtrain import __version__
from rwtrain.config.load import read_yaml
from rwtrain.errors import DataError
from rwtrain.files import write_text
from rwtrain.page import CHART_HEIGHT, CHART_WIDTH, number, templates
from rwtrain.train.checkpoint import Entry, entries, read_latest
from rwtrain.train.metrics import read_events, read_metrics

TOP, BOTTOM, LEFT = 14, 18, 40
BUCKETS = 160  # of a line: more points than that share one, drawn as their mean inside a band from lowest to highest
COLOURS = ("accent", "kept", "second", "third", "fourth", "gone")
MARKED = ("resume", "skip", "rewind", "checkpoint_failed")  # events drawn as lines; checkpoints are ticks
SHOWN_EVENTS = 300

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Chart:
    """One chart: some figures of metrics.jsonl over the steps.

    Attributes:
        names: of the figures, with their labels.
        convert: from the figure's unit to the one shown.
    """

    title: str
    names: Sequence[tuple[str, str]]
    convert: Callable[[float], float] = lambda value: value


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        latest: step → its line; of a step that was run twice, the last.
        lines: every line, repeated steps included.
    """

    run: Path
    settings: dict[str, Any]
    lines: list[dict[str, Any]]
    latest: dict[int, dict[str, Any]]
    events: list[dict[str, Any]]
    checkpoints: list[Entry]
    current: str | None

    @classmethod
    def read(cls, run: Path) -> Report:
        """Read a run folder.

        Raises:
            DataError: it has no metrics yet.
        """
        lines = read_metrics(run)
        if not lines:
            raise DataError(run / "metrics.jsonl", "no metrics yet", "Give the folder of a run of `rwtrain train` that has done a step")
        settings = read_yaml(run / "config.yaml") if (run / "config.yaml").is_file() else {}
        latest = {line["step"]: line for line in lines}
        return cls(run, settings, lines, dict(sorted(latest.items())), read_events(run), entries(run), read_latest(run / "checkpoints"))

    @property
    def step(self) -> int:
        return max(self.latest)

    @property
    def steps(self) -> int:
        """Of the whole run as configured."""
        return int(self.settings.get("steps", self.step))

    def values(self, name: str) -> list[float]:
        """A figure of every line that has it, in the order of time."""
        return [line[name] for line in self.lines if line.get(name) is not None]

    def median(self, name: str) -> float | None:
        found = self.values(name)
        return statistics.median(found) if found else None

    def points(self, name: str) -> Points:
        """(step, figure) of every step that has it."""
        return [(step, line[name]) for step, line in self.latest.items() if line.get(name) is not None]

    def cards(self) -> list[tuple[str, str]]:
        """The figures at the top: (value, what it is)."""
        seconds = sum(self.values("step_s"))
        stalls = sum(self.values("checkpoint_stall_s"))
        waited = sum(line["data_stall"] * line["step_s"] for line in self.lines if "data_stall" in line)
        tokens = sum(line["tokens_per_s"] * line["step_s"] for line in self.latest.values())
        mfu, speed = self.median("mfu"), self.median("tokens_per_s")
        skipped = sum("skipped" in line for line in self.latest.values())
        cards = [(f"{number(self.step)} / {number(self.steps)}", "steps"), (_figure(self.values("loss/total")[-1:]), "last loss")]
        cards += [(number(round(tokens)), "tokens seen"), (duration(seconds + stalls), "training, repeated steps included")]
        cards += [(number(speed), "tokens/s, median")] if speed is not None else []
        cards += [(f"{100 * mfu:.1f}%", "MFU, median")] if mfu is not None else []
        cards += [(f"{100 * waited / seconds:.2f}%", "waiting for data"), (f"{100 * stalls / (seconds + stalls):.2f}%", "waiting for checkpoints")]
        cards += [(f"{max(self.values('memory_gb'), default=0):.2f} GB", "peak memory of rank 0")]
        repeated = len(self.lines) - len(self.latest)
        counts = (("resume", "resumes"), ("rewind", "rewinds"))
        cards += [(number(sum(event["event"] == name for event in self.events)), label) for name, label in counts]
        return [*cards, (number(repeated), "steps run again"), (number(skipped), "steps skipped")]

    def charts(self) -> list[tuple[str, str, list[Chart]]]:
        """(id, heading, charts) of each section; figures that the run does not have are left out."""
        losses = sorted(self._names("loss/"), key=lambda name: (name != "loss/total", name))
        gates, scales = self._names("gate_openness/"), self._names("inverse_temperature/")
        sections = [
            ("losses", "Losses", [Chart(_words(name.removeprefix("loss/")), [(name, "")]) for name in losses]),
            (
                "optimisation",
                "Optimisation",
                [
                    Chart("learning rate", [("learning_rate", "")]),
                    Chart("gradient norm, before clipping", [("grad_norm", "")]),
                    Chart("fp16 loss scale", [("loss_scale", "")]),
                ],
            ),
            (
                "model",
                "Inside the model",
                [
                    Chart("gate openness: share of the entity vector that enters", [(name, _words(name.split("/")[1])) for name in gates]),
                    Chart("temperature of the contrasts", [(name, name.split("/")[1]) for name in scales], lambda value: 1 / value),
                ],
            ),
            (
                "speed",
                "Speed and memory",
                [
                    Chart("tokens per second", [("tokens_per_s", "")]),
                    Chart("model FLOPs utilisation, %", [("mfu", "")], lambda value: 100 * value),
                    Chart("step, seconds", [("step_s", "")]),
                    Chart("waiting for data, % of the step", [("data_stall", "")], lambda value: 100 * value),
                    Chart("waiting for a checkpoint, seconds", [("checkpoint_stall_s", "")]),
                    Chart("peak memory of rank 0, GB", [("memory_gb", "")]),
                ],
            ),
        ]
        return [
            (place, heading, found)
            for place, heading, charts in sections
            if (found := [chart for chart in charts if any(self.points(name) for name, _ in chart.names)])
        ]

    def _names(self, prefix: str) -> list[str]:
        return sorted({name for line in self.latest.values() for name in line if name.startswith(prefix)})

    def draw(self, chart: Chart) -> Markup:
        """Inline SVG of one chart."""
        lines = [(label, [(step, chart.convert(value)) for step, value in self.points(name)]) for name, label in chart.names]
        marks = [(event["event"], event["step"]) for event in self.events if event["event"] in (*MARKED, "checkpoint")]
        return line_chart(chart.title, [(label, points) for label, points in lines if points], (min(self.latest), self.step), marks)


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run, by default to RUN/report.html; return its path."""
    report = Report.read(run)
    template = templates("rwtrain").get_template("run_report.html")
    settings = run / "config.yaml"
    page = template.render(
        report=report,
        events=report.events[-SHOWN_EVENTS:],
        hidden=max(0, len(report.events) - SHOWN_EVENTS),
        settings=settings.read_text(encoding="utf-8") if settings.is_file() else "",
        version=__version__,
    )
    path = run / "report.html" if out is None else out
    write_text(path, page)
    return path


def line_chart(title: str, lines: Sequence[tuple[str, Points]], steps: tuple[int, int], marks: Sequence[tuple[str, int]]) -> Markup:
    """Inline SVG of lines over steps, with a band from the lowest to the highest of the steps that share a point, and marks of events."""
    shown = [(label, buckets(points, steps)) for label, points in lines]
    low = min(bucket[1] for _, found in shown for bucket in found)
    high = max(bucket[3] for _, found in shown for bucket in found)
    if high == low:
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10

    def x(step: float) -> float:
        return round(LEFT + (CHART_WIDTH - LEFT - 4) * (step - steps[0]) / max(1, steps[1] - steps[0]), 1)

    def y(value: float) -> float:
        return round(TOP + (CHART_HEIGHT - TOP - BOTTOM) * (high - value) / (high - low), 1)

    parts = [Markup('<svg class="lines" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(CHART_WIDTH, CHART_HEIGHT, title)]
    for value in (low, (low + high) / 2, high):
        grid = Markup('<line x1="{}" x2="{}" y1="{}" y2="{}"></line><text class="left" x="{}" y="{}">{}</text>')
        parts.append(grid.format(LEFT, CHART_WIDTH, y(value), y(value), LEFT - 4, y(value) + 3.5, _figure([value])))
    for name, step in marks:
        if steps[0] <= step <= steps[1]:
            top = CHART_HEIGHT - BOTTOM - 5 if name == "checkpoint" else TOP
            mark = Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"><title>{} behind step {}</title></line>')
            parts.append(mark.format(name, x(step), x(step), top, CHART_HEIGHT - BOTTOM, _words(name), number(step)))
    for place, (label, found) in enumerate(shown):
        colour = COLOURS[place % len(COLOURS)]
        band = [f"{x(step)},{y(most)}" for step, _, _, most in found] + [f"{x(step)},{y(least)}" for step, least, _, _ in reversed(found)]
        means = " ".join(f"{x(step)},{y(mean)}" for step, _, mean, _ in found)
        shape = Markup('<polygon fill="var(--{})" points="{}"></polygon><polyline stroke="var(--{})" points="{}"><title>{}</title></polyline>')
        parts.append(shape.format(colour, " ".join(band), colour, means, label or title))
        if len(found) == 1:
            parts.append(Markup('<circle fill="var(--{})" cx="{}" cy="{}" r="2.5"></circle>').format(colour, x(found[0][0]), y(found[0][2])))
    ends = Markup('<text class="begin" x="{}" y="{}">{}</text><text class="left" x="{}" y="{}">step {}</text></svg>')
    parts.append(ends.format(LEFT, CHART_HEIGHT - 5, number(steps[0]), CHART_WIDTH, CHART_HEIGHT - 5, number(steps[1])))
    named = [(label, COLOURS[place % len(COLOURS)]) for place, (label, _) in enumerate(shown) if label]
    legend = Markup("").join(Markup('<span class="key"><i style="background:var(--{})"></i>{}</span>').format(colour, label) for label, colour in named)
    return Markup("").join(parts) + (Markup('<p class="quiet">{}</p>').format(legend) if named else Markup(""))


def buckets(points: Points, steps: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    """Points that lie close together as one: (mean step, lowest, mean, highest)."""
    width = max(1.0, (steps[1] - steps[0] + 1) / BUCKETS)
    found: dict[int, Points] = {}
    for step, value in points:
        found.setdefault(int((step - steps[0]) / width), []).append((step, value))
    return [
        (
            statistics.fmean(step for step, _ in part),
            min(value for _, value in part),
            statistics.fmean(value for _, value in part),
            max(value for _, value in part),
        )
        for _, part in sorted(found.items())
    ]


def duration(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.4 h, 2.1 days."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{1 if unit == 3600 else 0}f} {name}"
    return f"{seconds / 86_400:.1f} days"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _figure(values: Sequence[float]) -> str:
    """A number in few characters; "–" for none."""
    if not values:
        return "–"
    (value,) = values
    return (
        f"{value:.4g}"
        if value == 0 or 1e-3 <= abs(value) < 1e4
        else f"{value:.1e}"
        if abs(value) < 1e-3
        else f"{value / 1e3:.4g}k"
        if abs(value) < 1e7
        else f"{value / 1e6:.4g}M"
    )
