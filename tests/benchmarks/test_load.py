"""The load test counts whole right answers only, and its percentiles are those of the definition."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.apps.load import Tally, ask, figures, requests, run

ANSWERS = {
    "/api/write": (200, b'{"text": "a", "finished": ""}\n{"text": "b", "finished": "length"}\n'),
    "/api/look": (200, b'{"links": []}'),
    "/api/answer": (503, b'{"detail": "busy"}'),
    "/api/correct": (200, b'{"text": ""}'),
    "/api/graph": (200, b'{"answers": []}'),
    "/api/fill": (200, b'{"fillings": ['),
    "/half": (200, b'{"text": "a", "finished": ""}\n{"error": "gone"}\n'),
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = ANSWERS[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def test_every_user_asks_every_application_once_and_not_all_the_same_first(tmp_path: Path) -> None:
    found = [requests(user, 0, tmp_path) for user in range(20)]
    every = {f"/api/{name}" for name in ("answer", "write", "look", "graph", "correct", "fill")}
    assert {frozenset(path for path, _ in each) for each in found} == {frozenset(every)}
    assert set(Counter(each[0][0] for each in found).values()) == {3, 4}
    (tmp_path / "recommender").mkdir()
    with_films = [requests(user, 0, tmp_path) for user in range(7)]
    assert {len(each) for each in with_films} == {7}
    assert {each[0][0] for each in with_films} == every | {"/api/recommend"}


def test_only_whole_right_answers_count(port: int) -> None:
    for path in ("/api/write", "/api/look"):
        first, whole = ask(port, 3, path, {})
        assert 0 < first <= whole
    for path in ("/api/answer", "/half", "/api/fill"):
        with pytest.raises((RuntimeError, ValueError)):
            ask(port, 3, path, {})


def test_errors_are_counted_beside_answers(port: int, tmp_path: Path) -> None:
    tally, _ = run(port, 3, 0.5, tmp_path)
    assert set(tally.seconds) == {"/api/write", "/api/look", "/api/graph", "/api/correct"}
    assert {error.split(":")[0] for error in tally.errors} >= {"/api/answer"}
    assert len(tally.first_piece) == len(tally.seconds["/api/write"])
    result = figures(tally, 0.5)
    assert result["requests"] == sum(len(values) for values in tally.seconds.values())
    assert result["errors"] == len(tally.errors) > 0


def test_percentiles() -> None:
    tally = Tally()
    tally.seconds["/api/look"] = [float(value) for value in range(1, 102)]  # 1 to 101: the p-th percentile is 1 + p
    tally.first_piece = [0.25]
    found = figures(tally, 10.1)
    assert json.loads(json.dumps(found))["endpoints"]["/api/look"] == {"requests": 101, "p50_s": 51.0, "p95_s": 96.0, "p99_s": 100.0}
    assert found["endpoints"]["/api/write, first piece"]["p95_s"] == 0.25
    assert found["requests_per_s"] == pytest.approx(10)
