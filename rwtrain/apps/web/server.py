"""The server: the page, the JSON interface, and the guard in front of both."""

from __future__ import annotations

from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from nicegui import ui

from rwtrain.apps.web.desk import THREADS, Desk
from rwtrain.apps.web.interface import interface
from rwtrain.apps.web.limits import Guard, Limits
from rwtrain.apps.web.page import page


def build(desk: Desk, limits: Limits) -> Any:
    """The ASGI application."""
    application = FastAPI(title="rwtrain", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    application.include_router(interface(desk))
    application.add_exception_handler(RequestValidationError, _wrong_request)
    ui.run_with(application, root=lambda: page(desk), title="rwtrain", show_welcome_message=False, tailwind=False)
    return Guard(application, limits)


async def _wrong_request(_: Request, error: Exception) -> JSONResponse:
    """Where a request is wrong and why, without repeating it."""
    assert isinstance(error, RequestValidationError)  # by the registration
    return JSONResponse({"detail": [{"where": [str(part)[:100] for part in each["loc"]], "why": each["msg"]} for each in error.errors()]}, 422)


def serve(desk: Desk, limits: Limits, *, host: str, port: int) -> None:
    """Serve until interrupted. `THREADS` requests are worked on at once, so each has its share of torch's threads."""
    torch.set_num_threads(max(1, torch.get_num_threads() // THREADS))
    uvicorn.run(
        build(desk, limits),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=3,
        limit_concurrency=512,
        h11_max_incomplete_event_size=64 << 10,
    )
