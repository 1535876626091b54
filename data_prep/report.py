"""The report: one HTML page without any other file, readable on a telephone, in light and dark."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup

from data_prep.plan import Plan
from data_prep.samples import MARGIN, side_by_side
from data_prep.summary import Summary
from rwtrain import __version__
from rwtrain.config.load import dump_yaml
from rwtrain.files import write_text
from rwtrain.page import CHART_HEIGHT, CHART_WIDTH, number, short, templates

TOP, BOTTOM, BAR_GAP = 18, 20, 3


def write_report(path: Path, plan: Plan, summary: Summary, *, workers: int) -> None:
    """Write the page."""
    write_text(path, render(plan, summary, workers=workers))


def render(plan: Plan, summary: Summary, *, workers: int) -> str:
    """The page; every text of a document is escaped, and a policy in the page forbids scripts besides."""
    environment = templates("data_prep")
    environment.filters["histogram"] = histogram
    return environment.get_template("report.html").render(
        plan=plan,
        plan_yaml=dump_yaml(plan),
        summary=summary,
        side_by_side=side_by_side,
        losses=lambda funnel: [stage.documents_in - stage.documents for stage in funnel],
        margin=MARGIN,
        workers=workers,
        version=__version__,
    )


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram in chart units."""

    x: float
    y: float
    width: float
    height: float
    label: str
    count: int

    @property
    def middle(self) -> float:
        return round(self.x + self.width / 2, 1)


def bars(bins: list[tuple[int, int]]) -> list[Bar]:
    """Bars for (largest value of the bin, count); empty bins between full ones are shown."""
    filled = dict(bins)
    values = sorted(filled)
    while len(values) >= 2 and (gap := next((low for low, high in pairwise(values) if high > 2 * low + 1), None)) is not None:
        values = sorted([*values, 2 * gap + gap % 2])
    width = CHART_WIDTH / max(len(values), 8)
    highest = max(filled.values(), default=1)
    height = CHART_HEIGHT - TOP - BOTTOM
    return [
        Bar(
            x=round(place * width + BAR_GAP / 2, 1),
            y=round(CHART_HEIGHT - BOTTOM - height * filled.get(value, 0) / highest, 1),
            width=round(width - BAR_GAP, 1),
            height=round(height * filled.get(value, 0) / highest, 1),
            label=f"≤{short(value)}",
            count=filled.get(value, 0),
        )
        for place, value in enumerate(values)
    ]


def histogram(bins: list[tuple[int, int]], title: str) -> Markup:
    """Inline SVG of a histogram."""
    shapes = [
        Markup(
            '<rect x="{}" y="{}" width="{}" height="{}" rx="2"><title>{}: {}</title></rect><text x="{}" y="{}">{}</text><text x="{}" y="{}">{}</text>'
        ).format(
            bar.x, bar.y, bar.width, bar.height, bar.label, number(bar.count), bar.middle, bar.y - 4, short(bar.count), bar.middle, CHART_HEIGHT - 6, bar.label
        )
        for bar in bars(bins)
    ]
    line = Markup('<line x1="0" x2="{0}" y1="{1}" y2="{1}"></line>').format(CHART_WIDTH, CHART_HEIGHT - BOTTOM)
    frame = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(CHART_WIDTH, CHART_HEIGHT, title)
    return frame + Markup("").join(shapes) + line + Markup("</svg>")
