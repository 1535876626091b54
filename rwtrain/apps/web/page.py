"""The page: one tab for each application that is served."""

from __future__ import annotations

from nicegui import ui

from rwtrain.apps.web.answer_tab import answer_tab
from rwtrain.apps.web.desk import Desk
from rwtrain.apps.web.look_tab import look_tab
from rwtrain.apps.web.recommend_tab import recommend_tab
from rwtrain.apps.web.write_tab import write_tab


def page(desk: Desk) -> None:
    """Build the page for one visitor."""
    tabs = {"Write": ("edit_note", write_tab), "Look": ("visibility", look_tab)}
    if desk.recommender is not None:
        tabs = {"Recommend": ("thumb_up", recommend_tab), **tabs}
    if desk.index is not None or desk.graph is not None:
        tabs = {"Ask": ("question_answer", answer_tab), **tabs}
    with ui.header().classes("q-py-sm"):
        ui.label(f"rwtrain · {desk.app.folder.resolve().name}").classes("text-subtitle1")
    with ui.tabs().classes("full-width").props("dense no-caps") as bar:
        for name, (icon, _) in tabs.items():
            ui.tab(name, icon=icon).props(f"id=tab-{name.lower()}")
    with ui.tab_panels(bar, value=next(iter(tabs))).classes("full-width").style("max-width: 56rem; margin: auto"):
        for name, (_, build) in tabs.items():
            with ui.tab_panel(name):
                build(desk)
