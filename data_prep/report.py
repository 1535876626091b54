"""The report: one HTML page without any other file, readable on a telephone, in light and dark."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from data_prep.plan import Plan
from data_prep.samples import MARGIN, side_by_side
from data_prep.summary import Summary
from rwtrain import __version__
from rwtrain.config.load import dump_yaml
from rwtrain.files import write_text

# One unit is about one pixel of a telephone, so that labels stay readable there.
CHART_WIDTH, CHART_HEIGHT = 360, 170
TOP, BOTTOM, BAR_GAP = 18, 20, 3
THIN_SPACE = "\u202f"


def write_report(path: Path, plan: Plan, summary: Summary, *, workers: int) -> None:
    """Write the page."""
    write_text(path, render(plan, summary, workers=workers))


def render(plan: Plan, summary: Summary, *, workers: int) -> str:
    """The page; every text of a document is escaped, and a policy in the page forbids scripts besides."""
    environment = Environment(loader=PackageLoader("data_prep", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "short": short, "percent": percent, "histogram": histogram}
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


def short(value: float) -> str:
    """A number in at most four characters: 950, 1.2k, 34k, 5.6M; 1,024 counts as 1k."""
    for unit in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.0f}{unit}" if value >= 10 or value == int(value) else f"{value:.1f}{unit}"
        value = value / 1000 if value % 1024 and (value + 1) % 1024 else (value + value % 2) / 1024
    return f"{value:.0f}P"


def number(value: float | None) -> str:
    """A number in full, thousands set apart."""
    if value is None:
        return "–"
    return f"{value:,.0f}".replace(",", THIN_SPACE) if value >= 100 or value == int(value) else f"{value:.3g}"


def percent(part: float, whole: float, digits: int = 1) -> str:
    """A share in percent; "–" of nothing."""
    return f"{100 * part / whole:.{digits}f}%" if whole else "–"
