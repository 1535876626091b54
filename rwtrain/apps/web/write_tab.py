"""The tab that writes: on, corrections, gaps."""

from __future__ import annotations

from nicegui import ui

from rwtrain.apps.infilling import fill
from rwtrain.apps.rewriting import correct
from rwtrain.apps.web.desk import Desk
from rwtrain.apps.web.parts import button, checked, field, heading
from rwtrain.apps.write_command import GAP
from rwtrain.apps.writing import Sampling, write
from rwtrain.errors import RWTrainError


def write_tab(desk: Desk) -> None:
    """Build the tab."""
    heading("Write", f"Continue a text, correct it, or fill the gap that you mark with {GAP}.")
    text = field("draft", "Your text", "The history of the city begins", rows=4)
    with ui.expansion("Settings", icon="tune").classes("full-width"):
        length = ui.number("Most new tokens", value=60, min=1, max=400, precision=0)
        temperature = ui.number("Temperature (0: most probable word)", value=0.8, min=0, max=5, step=0.1)
        top_p = ui.number("Top p", value=0.95, min=0.05, max=1, step=0.05)
        seed = ui.number("Seed", value=0, min=0, precision=0)
    stopped = {"now": False}

    async def go_on() -> None:
        begin = checked(text)
        try:
            sampling = Sampling(max_new_tokens=int(length.value), temperature=float(temperature.value), top_p=float(top_p.value), seed=int(seed.value))
        except TypeError as error:
            raise RWTrainError("Fill in every setting with a number.") from error
        stopped["now"] = False
        result.clear()
        with result:
            shown = ui.label(begin).props("id=written").style("white-space: pre-wrap").classes("text-body1")
            warning = ui.label("").props("id=memorised").classes("text-warning")
        async for piece in desk.stream(lambda: write(desk.app, begin, sampling, memorised=desk.memory)):
            shown.text += piece.text
            if piece.warning:
                warning.text = f"Careful: {piece.warning}."
            if stopped["now"]:
                break

    async def correct_it() -> None:
        found = await desk.run(correct, desk.app, checked(text), words=desk.words)
        result.clear()
        with result:
            ui.label(found.text).props("id=corrected").style("white-space: pre-wrap").classes("text-body1")
            with ui.row():
                for edit in found.edits:
                    ui.chip(f"{edit.kind}: {edit.replacement.strip() or 'removed'} (+{edit.gain:.1f})").props("outline")
                if not found.edits:
                    ui.label("Nothing to correct was found.").classes("text-caption")

    async def fill_it() -> None:
        before, gap, after = checked(text).partition(GAP)
        if not gap or GAP in after:
            raise RWTrainError(f"Mark one gap in the text with {GAP}.")
        found = await desk.run(fill, desk.app, before, after)
        result.clear()
        with result:
            for number, filling in enumerate(found[:4]):
                ui.label(f"{before}{filling.text}{after}").props("id=filled" if number == 0 else "").style("white-space: pre-wrap")

    with ui.row():
        button("go-on", "Continue", go_on, icon="edit")
        ui.button("Stop", icon="stop", on_click=lambda: stopped.update(now=True)).props("flat no-caps id=stop")
        button("correct", "Correct", correct_it, icon="spellcheck")
        button("fill", "Fill the gap", fill_it, icon="space_bar")
    result = ui.column().classes("full-width")
