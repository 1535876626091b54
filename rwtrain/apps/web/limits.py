"""What a request may be: who may send it, how large it may be, how many may come. One ASGI middleware in front of everything."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "rwtrain_token"
CLIENTS = 10_000
LENGTH_DIGITS = 18
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


@dataclass(frozen=True)
class Limits:
    """Settings of the server's guard."""

    token: str | None = None
    """What a client must know: `Authorization: Bearer …`, a cookie, or `?token=…` once; None asks for nothing."""
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Names in the Host header that are answered, so that no other site's name can lead a browser here; empty for any."""
    max_body_bytes: int = 8 << 20
    """Largest request."""
    requests_per_minute: float = 600
    """Requests to the interface (/api) and uploads of one client, on average."""
    burst: int = 120
    """How many of them may come at once."""


class TooLarge(Exception):
    """The body grew beyond the limit while it was read."""


class Guard:
    """Refuses what `Limits` does not allow, before any of it is looked at."""

    def __init__(self, application: Application, limits: Limits) -> None:
        self.app, self.limits = application, limits
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client → (requests left, moment)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        refusal = self._refusal(scope, headers, given)
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
            return
        if given and self.limits.token is not None and scope["type"] == "http":
            await self._to_cookie(scope, send)
            return
        await self._pass_on(scope, receive, send)

    def _refusal(self, scope: Scope, headers: dict[str, str], given: str) -> tuple[int, str] | None:
        """(status, reason) of a request that is not allowed."""
        host = _host(headers.get("host", ""))
        if self.limits.hosts and host not in self.limits.hosts:
            return 403, "this name is not served here"
        origin = headers.get("origin")
        if origin is not None and origin != "null" and urlsplit(origin).netloc != headers.get("host", ""):
            return 403, "requests from other sites are refused"
        if origin == "null":
            return 403, "requests from other sites are refused"
        if self.limits.token is not None and not self._knows_token(headers, given):
            return 401, "the token is missing or wrong: open the address that the server printed, or send it as a bearer token"
        if scope["type"] == "http":
            length = headers.get("content-length", "0")
            if not length.isdecimal() or len(length) > LENGTH_DIGITS or int(length) > self.limits.max_body_bytes:
                return 413, f"requests may have {self.limits.max_body_bytes:,} bytes at most"
            if (scope["path"].startswith("/api/") or scope["method"] == "POST") and not self._may_ask(scope):
                return 429, "too many requests: wait a moment"
        return None

    def _knows_token(self, headers: dict[str, str], given: str) -> bool:
        candidates = [given, headers.get("authorization", "").removeprefix("Bearer ")]
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            morsel = None
        candidates.append(morsel.value if morsel is not None else "")
        assert self.limits.token is not None  # by the only caller
        token = self.limits.token.encode()
        return any(hmac.compare_digest(candidate.encode(), token) for candidate in candidates)

    def _may_ask(self, scope: Scope) -> bool:
        """Token bucket of a client's address."""
        client, now = (scope.get("client") or ("",))[0], time.monotonic()
        left, before = self._buckets.pop(client, (float(self.limits.burst), now))
        left = min(float(self.limits.burst), left + (now - before) * self.limits.requests_per_minute / 60)
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return left >= 1

    async def _to_cookie(self, scope: Scope, send: Send) -> None:
        """Put the token of the address into a cookie, and show the address without it."""
        query = {name: values for name, values in parse_qs(scope["query_string"].decode("latin-1")).items() if name != "token"}
        place = "/" + quote(scope["path"].lstrip("/")) + (f"?{urlencode(query, doseq=True)}" if query else "")
        cookie = f"{COOKIE}={self.limits.token}; HttpOnly; SameSite=Strict; Path=/"
        headers = [(b"location", place.encode()), (b"set-cookie", cookie.encode()), *HEADERS]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.limits.max_body_bytes:
                    raise TooLarge
            return message

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if seen > self.limits.max_body_bytes:  # the application made an error of its own of it
                    message["status"] = 413
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        try:
            await self.app(scope, counted, guarded)
        except TooLarge:
            if not started:
                await _refuse(scope, receive, send, 413, f"requests may have {self.limits.max_body_bytes:,} bytes at most")


def _host(header: str) -> str:
    """The name in a Host header, without the port."""
    return header if header.endswith("]") else header.rsplit(":", 1)[0]


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    body = f'{{"error": "{reason}"}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
