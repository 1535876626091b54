"""The guard by itself, in front of an application that says yes to everything."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rwtrain.apps.serve_command import is_loopback
from rwtrain.apps.web import desk as desk_module
from rwtrain.apps.web import server as server_module
from rwtrain.apps.web.desk import WAITING, Busy, Desk
from rwtrain.apps.web.limits import Guard, Limits


async def yes(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"yes"})


def ask(guard: Guard, *, path: str = "/api/look", client: str = "1.2.3.4", kind: str = "http", query: bytes = b"", **headers: str) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.connect", "body": b""}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in ({"host": "localhost:1"} | headers).items()]
    scope = {"type": kind, "path": path, "method": "POST", "headers": pairs, "query_string": query, "client": (client, 5)}
    asyncio.run(guard(scope, receive, send))
    return sent


def status(guard: Guard, **options: Any) -> int:
    return ask(guard, **options)[0]["status"]


def test_a_client_that_asks_too_often_waits_and_others_do_not() -> None:
    guard = Guard(yes, Limits(burst=3, requests_per_minute=1))
    assert [status(guard) for _ in range(4)] == [200, 200, 200, 429]
    assert status(guard, client="5.6.7.8") == 200


@pytest.mark.parametrize("length", ["99999999999", "-1", "many", "9" * 5000, "²"])
def test_sizes(length: str) -> None:
    assert status(Guard(yes, Limits()), content_length=length) == 413


def test_token_in_the_address_becomes_a_cookie() -> None:
    guard = Guard(yes, Limits(token="a-long-enough-token"))
    assert status(guard) == 401
    answer = ask(guard, path="//evil.example", query=b"token=a-long-enough-token&x=1")[0]
    headers = dict(answer["headers"])
    assert answer["status"] == 303
    assert headers[b"location"] == b"/evil.example?x=1"
    assert b"HttpOnly" in headers[b"set-cookie"]
    answer = ask(guard, path="/ä\r\nx: y", query=b"token=a-long-enough-token")[0]
    assert dict(answer["headers"])[b"location"] == b"/%C3%A4%0D%0Ax%3A%20y"


def test_websockets_are_guarded_too() -> None:
    assert ask(Guard(yes, Limits(token="a-long-enough-token")), kind="websocket")[0] == {
        "type": "websocket.close",
        "code": 1008,
        "reason": "the token is missing or wrong: open the address that the server printed, or send it as a bearer token",
    }
    assert ask(Guard(yes, Limits()), kind="websocket", origin="http://evil.example")[0]["type"] == "websocket.close"


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False), ("a.b", False)]
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_full_desk_says_so() -> None:
    async def crowd() -> list[Any]:
        desk = Desk(app=None)  # type: ignore[arg-type]
        gate = asyncio.get_running_loop().create_future()

        def work() -> int:
            asyncio.run_coroutine_threadsafe(wait(gate), loop).result()
            return 1

        async def wait(future: asyncio.Future) -> None:
            await asyncio.shield(future)

        loop = asyncio.get_running_loop()
        asked = [asyncio.ensure_future(desk.run(work)) for _ in range(WAITING + 5)]
        await asyncio.sleep(0.05)
        gate.set_result(None)
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(crowd())
    assert sum(isinstance(each, Busy) for each in found) == 5
    assert found.count(1) == WAITING


def test_streams_take_turns_of_some_time_and_the_first_item_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, now = list[str](), [0.0]
    monkeypatch.setattr(desk_module, "TURN_S", 5.0)
    monkeypatch.setattr(desk_module, "THREADS", 1)
    monkeypatch.setattr(desk_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def words(name: str) -> Any:
        for number in range(20):
            now[0] += 1
            made.append(name)
            yield f"{name}{number}"

    async def read(desk: Desk, name: str) -> list[tuple[str, int]]:
        return [(item, len(made)) async for item in desk.stream(lambda: words(name))]

    async def both() -> list[list[tuple[str, int]]]:
        desk = Desk(app=None, _pool=ThreadPoolExecutor(1))  # type: ignore[arg-type]
        return await asyncio.gather(read(desk, "a"), read(desk, "b"))

    first, second = asyncio.run(both())
    assert [item for item, _ in first] == [f"a{number}" for number in range(20)]
    assert [item for item, _ in second] == [f"b{number}" for number in range(20)]
    assert first[0][1] <= 2
    turns = [len(list(group)) for _, group in itertools.groupby(made)]
    assert turns == [1, 1, 5, 5, 5, 5, 5, 5, 4, 4]

    async def alone() -> list[tuple[str, int]]:
        return await read(Desk(app=None), "c")  # type: ignore[arg-type]

    made.clear()
    assert asyncio.run(alone()) == [(f"c{number}", number + 1) for number in range(20)]


def test_a_reader_who_leaves_in_the_middle_of_a_turn_ends_the_stream_behind_it() -> None:
    working, go_on, ended, errors = threading.Event(), threading.Event(), threading.Event(), list[Any]()

    def words() -> Any:
        try:
            working.set()
            go_on.wait(5)
            yield "word"
        finally:
            ended.set()

    async def leave() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        desk = Desk(app=None)  # type: ignore[arg-type]
        reading = asyncio.ensure_future(anext(desk.stream(words)))
        await asyncio.to_thread(working.wait, 5)
        reading.cancel()
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert ended.is_set()
        assert await desk.run(int) == 0

    asyncio.run(leave())
    assert errors == []


def test_what_was_written_before_an_error_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "TURN_S", 60.0)
    monkeypatch.setattr(desk_module, "THREADS", 0)  # others always wait

    def words() -> Any:
        yield from ("one", "two", "three")
        raise ValueError("no more")

    desk, seen = Desk(app=None, _pool=ThreadPoolExecutor(1)), list[str]()  # type: ignore[arg-type]

    async def read() -> None:
        async for item in desk.stream(words):
            seen.append(item)

    with pytest.raises(ValueError, match="no more"):
        asyncio.run(read())
    assert seen == ["one", "two", "three"]
    assert desk._inside == 0


def test_requests_share_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), list[int]()
    monkeypatch.setattr(server_module, "build", lambda *_: None)
    monkeypatch.setattr(server_module.uvicorn, "run", lambda *_, **__: seen.append(torch.get_num_threads()))
    try:
        for threads in (6, 1):
            torch.set_num_threads(threads)
            server_module.serve(Desk(app=None), Limits(), host="127.0.0.1", port=1)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)
    assert seen == [3, 1]
