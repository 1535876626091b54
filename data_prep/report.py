"""The report: one HTML page without any other file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_prep.plan import Plan
from data_prep.summary import Summary
from rwtrain import __version__
from rwtrain.config.load import dump_yaml
from rwtrain.files import write_text

CHART_WIDTH, CHART_HEIGHT = 640, 180
BAR_GAP = 4


def write_report(path: Path, plan: Plan, summary: Summary, *, workers: int) -> None:
    """Write the page."""
    environment = Environment(loader=PackageLoader("data_prep", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    page = environment.get_template("report.html").render(
        plan=plan,
        plan_yaml=dump_yaml(plan),
        summary=summary,
        workers=workers,
        version=__version__,
        lengths=histogram(summary.lengths),
        chart=(CHART_WIDTH, CHART_HEIGHT),
    )
    write_text(path, page)


def histogram(bins: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Bars of a histogram in chart units: x, y, width, height, label, count."""
    if not bins:
        return []
    width = CHART_WIDTH / len(bins)
    highest = max(count for _, count in bins)
    bars = []
    for number, (largest, count) in enumerate(bins):
        height = (CHART_HEIGHT - 40) * count / highest
        bars.append(
            {
                "x": round(number * width + BAR_GAP / 2, 1),
                "y": round(CHART_HEIGHT - 20 - height, 1),
                "width": round(width - BAR_GAP, 1),
                "height": round(height, 1),
                "label": _short(largest + 1),
                "count": count,
            }
        )
    return bars


def _short(value: int) -> str:
    return f"{value // 1024}k" if value >= 1024 else str(value)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}".replace(",", "\u202f") if value >= 100 else f"{value:.3g}"
