"""The JSON interface: one address for each application, the same library calls as the command line's."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rwtrain.apps.answer_command import answer_record, graph_record
from rwtrain.apps.answering import answer
from rwtrain.apps.infilling import fill
from rwtrain.apps.inside import look, look_at_image
from rwtrain.apps.passages import Search
from rwtrain.apps.recommend_command import recommendation_record
from rwtrain.apps.rewriting import correct
from rwtrain.apps.web.desk import Busy, Desk
from rwtrain.apps.writing import Sampling, write
from rwtrain.errors import RWTrainError

MAX_CHARACTERS = 20_000


def _unicode(text: str) -> str:
    """Refuse what has no UTF-8 encoding (lone surrogates can come through JSON's escapes)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("not Unicode text") from None
    return text


Words = Annotated[str, AfterValidator(_unicode)]
Text = Annotated[Words, Field(min_length=1, max_length=MAX_CHARACTERS)]


class Body(BaseModel):
    """A request; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Question(Body):
    question: Annotated[Words, Field(min_length=1, max_length=1000)]
    search: Search = "fused"
    count: Annotated[int, Field(ge=1, le=20)] = 5


class History(Body):
    history: Annotated[list[Annotated[Words, Field(max_length=200)]], Field(min_length=1, max_length=500)]
    count: Annotated[int, Field(ge=1, le=50)] = 10
    new: bool = False


class Wanted(Body):
    words: Annotated[Words, Field(max_length=200)]


class Prompt(Body):
    text: Text
    max_new_tokens: Annotated[int, Field(ge=1, le=512)] = 60
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.8
    top_k: Annotated[int, Field(ge=0, le=100_000)] = 40
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    repetition_penalty: Annotated[float, Field(ge=0.5, le=5)] = 1.2
    stop: Annotated[list[Annotated[Words, Field(min_length=1, max_length=100)]], Field(max_length=8)] = []
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Plain(Body):
    text: Text


class Gap(Body):
    before: Annotated[Words, Field(max_length=MAX_CHARACTERS)]
    after: Annotated[Words, Field(max_length=MAX_CHARACTERS)]
    max_tokens: Annotated[int, Field(ge=1, le=16)] = 8


class Picture(Body):
    image: Annotated[str, Field(min_length=1)]
    text: Text


def interface(desk: Desk) -> APIRouter:
    """All addresses below /api."""
    router = APIRouter(prefix="/api")

    @router.get("/about")
    async def about() -> dict[str, Any]:
        shown = ("index", "graph", "recommender", "memory", "gallery")
        return {"model": desk.app.folder.name, "serves": [name for name in shown if getattr(desk, name) is not None]}

    _answering(router, desk)
    _recommending(router, desk)
    _writing(router, desk)
    _looking(router, desk)
    return router


async def _served(desk: Desk, work: Any, *arguments: Any, **options: Any) -> Any:
    """What the work gives; 503 when the desk is busy, 422 when the request is wrong."""
    try:
        return await desk.run(work, *arguments, **options)
    except Busy as error:
        raise HTTPException(503, str(error)) from error
    except RWTrainError as error:
        raise HTTPException(422, str(error)) from error


def _answering(router: APIRouter, desk: Desk) -> None:
    @router.post("/answer")
    async def ask(body: Question) -> dict[str, Any]:
        if desk.index is None or desk.reader is None:
            raise HTTPException(404, "no documents are indexed: start the server with --index")
        options = {"reader": desk.reader, "count": body.count, "by": body.search, "threshold": desk.threshold}
        return answer_record(await _served(desk, answer, desk.app, desk.index, body.question, **options))

    @router.post("/graph")
    async def graph(body: Question) -> dict[str, Any]:
        if desk.graph is None:
            raise HTTPException(404, "no graph is served: start the server with --store")
        found = await _served(desk, desk.graph.answer, body.question, count=body.count)
        return {"answers": [graph_record(desk.graph, each) for each in found]}


def _recommending(router: APIRouter, desk: Desk) -> None:
    @router.post("/items")
    async def items(body: Wanted) -> dict[str, Any]:
        if desk.recommender is None:
            raise HTTPException(404, "no recommender in this folder")
        return {"items": [{"id": item.id, "text": item.text} for item in await _served(desk, desk.recommender.find, body.words)]}

    @router.post("/recommend")
    async def recommend(body: History) -> dict[str, Any]:
        if desk.recommender is None:
            raise HTTPException(404, "no recommender in this folder")
        found = await _served(desk, desk.recommender.recommend, body.history, count=body.count, new=body.new)
        return {"items": [recommendation_record(each) for each in found]}


def _writing(router: APIRouter, desk: Desk) -> None:
    @router.post("/write")
    async def write_on(body: Prompt) -> StreamingResponse:
        values = body.model_dump(exclude={"text", "stop"})
        sampling = Sampling(**values, stop=tuple(body.stop))

        async def lines() -> AsyncIterator[str]:
            try:
                async for piece in desk.stream(lambda: write(desk.app, body.text, sampling, memorised=desk.memory)):
                    yield json.dumps(asdict(piece), ensure_ascii=False) + "\n"
            except RWTrainError as error:
                yield json.dumps({"error": str(error)}) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @router.post("/correct")
    async def correct_text(body: Plain) -> dict[str, Any]:
        found = await _served(desk, correct, desk.app, body.text, words=desk.words)
        return {"text": found.text, "edits": [asdict(edit) for edit in found.edits]}

    @router.post("/fill")
    async def fill_gap(body: Gap) -> dict[str, Any]:
        return {"fillings": [asdict(each) for each in await _served(desk, fill, desk.app, body.before, body.after, max_tokens=body.max_tokens)]}


def _looking(router: APIRouter, desk: Desk) -> None:
    @router.post("/look")
    async def look_inside(body: Plain) -> dict[str, Any]:
        return (await _served(desk, look, desk.app, body.text, gallery=desk.gallery)).as_dict()

    @router.post("/look-image")
    async def look_image(body: Picture) -> dict[str, Any]:
        try:
            encoded = base64.b64decode(body.image, validate=True)
        except (binascii.Error, ValueError) as error:
            raise HTTPException(422, "image: not base64") from error
        found = await _served(desk, look_at_image, desk.app, encoded, body.text)
        return {"tokens": found.tokens, "grid": found.grid, "attention": found.attention.tolist()}
