"""The tab that answers questions, from documents and from the graph."""

from __future__ import annotations

from nicegui import ui

from rwtrain.apps.answer_command import graph_record
from rwtrain.apps.answering import Answer, answer
from rwtrain.apps.graph_answers import GraphAnswer
from rwtrain.apps.web.desk import Desk
from rwtrain.apps.web.parts import button, checked, field, heading

LONGEST = 1000


def answer_tab(desk: Desk) -> None:
    """Build the tab."""
    heading("Ask", "Answers are words of the documents, with the place where they stand, or of the knowledge graph.")
    question = field("question", "Question", "Where was Barack Obama born?", longest=LONGEST)
    with ui.row():
        if desk.index is not None and desk.reader is not None:
            button("ask", "Ask the documents", lambda: from_documents(), icon="search")
        if desk.graph is not None:
            button("ask-graph", "Ask the graph", lambda: from_graph(), icon="hub")
    result = ui.column().classes("full-width")

    async def from_documents() -> None:
        assert desk.index is not None  # the button is there only then
        assert desk.reader is not None
        found = await desk.run(answer, desk.app, desk.index, checked(question, longest=LONGEST), reader=desk.reader, threshold=desk.threshold)
        result.clear()
        with result:
            _show_answer(found)

    async def from_graph() -> None:
        assert desk.graph is not None  # the button is there only then
        found = await desk.run(desk.graph.answer, checked(question, longest=LONGEST))
        result.clear()
        with result:
            _show_graph(desk, found)


def _show_answer(found: Answer) -> None:
    with ui.card().classes("full-width").props("flat bordered"):
        if found.citation is None:
            ui.label("No passage supports an answer.").props("id=answer").classes("text-subtitle1")
        else:
            ui.label(found.text).props("id=answer").classes("text-h6")
            ui.label(f"“{found.citation.sentence}”").classes("text-body2")
            ui.label(f"{found.citation.title or found.citation.document}, characters {found.citation.start} to {found.citation.end}").props(
                "id=citation"
            ).classes("text-caption text-grey-8")
    for number, hit in enumerate(found.hits, 1):
        with ui.expansion(f"{number}. {hit.passage.title or hit.passage.document}").classes("full-width"):
            ui.label(hit.passage.text).classes("text-body2").style("white-space: pre-wrap")


def _show_graph(desk: Desk, found: list[GraphAnswer]) -> None:
    assert desk.graph is not None  # by the only caller
    if not found:
        ui.label("No entity of the graph is named in the question, or nothing is known about it.").props("id=graph-answer")
    for number, each in enumerate(found):
        record = graph_record(desk.graph, each)
        with ui.card().classes("full-width").props("flat bordered"):
            ui.label(", ".join(record["objects"][:8])).props("id=graph-answer" if number == 0 else "").classes("text-subtitle1")
            ui.label(f"{record['subject']} — {record['relation']}").classes("text-caption text-grey-8")
