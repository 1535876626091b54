"""Pieces that the tabs share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui

from rwtrain.apps.web.interface import MAX_CHARACTERS
from rwtrain.errors import RWTrainError


def field(name: str, label: str, value: str, *, rows: int = 1, longest: int = MAX_CHARACTERS) -> Any:
    """A text field of full width; `name` is its id in the page."""
    element = ui.textarea(label, value=value) if rows > 1 else ui.input(label, value=value)
    extra = f"autogrow input-style=min-height:{rows * 1.5}em" if rows > 1 else ""
    return element.classes("full-width").props(f"outlined maxlength={longest} for={name} {extra}")


def checked(element: Any, *, longest: int = MAX_CHARACTERS) -> str:
    """A field's text; raises `RWTrainError` if it is empty or too long (a browser can be told to ignore its own limits)."""
    text = element.value or ""
    if not text.strip():
        raise RWTrainError("Write something first.")
    if len(text) > longest:
        raise RWTrainError(f"{len(text):,} characters are more than {longest:,}: shorten the text.")
    return text


def button(name: str, label: str, work: Callable[[], Awaitable[None]], *, icon: str) -> Any:
    """A button that shows that it works, and says what went wrong."""

    async def clicked() -> None:
        element.props("loading")
        try:
            await work()
        except RWTrainError as error:
            ui.notify(str(error), type="warning", multi_line=True, close_button=True)
        finally:
            element.props(remove="loading")

    element = ui.button(label, icon=icon, on_click=clicked).props(f"unelevated no-caps id={name}")
    return element


def heading(title: str, explanation: str) -> None:
    """Title and one sentence of a tab."""
    ui.label(title).classes("text-h6")
    ui.label(explanation).classes("text-body2 text-grey-8")
