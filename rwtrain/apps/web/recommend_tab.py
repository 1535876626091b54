"""The tab that recommends."""

from __future__ import annotations

from nicegui import ui

from rwtrain.apps.recommend.catalogue import Item
from rwtrain.apps.recommend.recommender import Recommendation
from rwtrain.apps.web.desk import Desk
from rwtrain.apps.web.parts import button, checked, field, heading
from rwtrain.errors import RWTrainError


def recommend_tab(desk: Desk) -> None:
    """Build the tab; the desk has a recommender."""
    recommender = desk.recommender
    assert recommender is not None  # by the only caller
    heading("Recommend", "Choose a few items you know, the latest last; recommendations come with the reasons.")
    words = field("item-words", "Find items by words", "", longest=200)
    found_row = ui.row()
    ui.label("Your history").classes("text-subtitle2")
    history_row = ui.row().props("id=history")
    history: list[Item] = []

    async def find() -> None:
        found = await desk.run(recommender.find, checked(words, longest=200), 8)
        found_row.clear()
        with found_row:
            for item in found:
                ui.chip(item.text, icon="add", on_click=lambda item=item: add(item)).props("outline clickable class=found-item")
            if not found:
                ui.label("Nothing found.")

    def add(item: Item) -> None:
        history.append(item)
        show_history()

    def show_history() -> None:
        history_row.clear()
        with history_row:
            for place, item in enumerate(history):
                ui.chip(item.text, icon="close", on_click=lambda place=place: remove(place)).props("clickable")

    def remove(place: int) -> None:
        del history[place]
        show_history()

    async def recommend() -> None:
        if not history:
            raise RWTrainError("Choose at least one item first.")
        found = await desk.run(recommender.recommend, [item.id for item in history], new=new.value)
        result.clear()
        with result:
            for number, each in enumerate(found):
                _show(each, first=number == 0)
            if not found:
                ui.label("Nothing left to recommend.")

    with ui.row():
        button("find-items", "Find", find, icon="search")
        button("recommend", "Recommend", recommend, icon="auto_awesome")
        new = ui.switch("only what nobody has chosen yet").props("id=only-new")
    result = ui.column().classes("full-width")


def _show(found: Recommendation, *, first: bool) -> None:
    with ui.card().classes("full-width").props("flat bordered"):
        ui.label(found.item.text).classes("text-subtitle1").props("id=recommended" if first else "")
        for reason in found.reasons[:2]:
            shared = f"; both: {', '.join(reason.shared)}" if reason.shared else ""
            ui.label(f"near {reason.item.text} ({reason.cosine:.2f}){shared}").classes("text-caption text-grey-8")
