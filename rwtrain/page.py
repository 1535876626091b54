"""What the HTML reports share: a page without any other file or script, readable on a telephone, in light and dark."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

# One unit is about one pixel of a telephone, so that labels stay readable there.
CHART_WIDTH, CHART_HEIGHT = 360, 170
THIN_SPACE = "\u202f"


def templates(package: str) -> Environment:
    """The templates of `package`, with the style sheet and the filters of all reports; everything is escaped."""
    loader = ChoiceLoader([PackageLoader(package, "templates"), PackageLoader("rwtrain", "templates")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "short": short, "percent": percent}
    return environment


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
