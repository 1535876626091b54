"""Many people at once: 20 users for 60 seconds against `rwtrain serve` on this machine.

    python -m benchmarks.apps.load --data DIR [--quick]

DIR holds qa and fashion-mnist. Needs the model of `python -m benchmarks.apps.recommend`, or that of `python -m benchmarks.apps.model`, without which
recommendation is not part of the mix. Every user has an address of its own on the loopback network, sends one request
after the other without a pause, and reads the whole answer; anything but a whole answer with status 200 is an error.
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.apps.model import MODEL, OUT
from benchmarks.apps.serving import make_parts, server
from rwtrain.apps.recommend.recommender import FOLDER as RECOMMENDER

QUESTIONS = (
    "In what country is Normandy located?",
    "Who designed the first practical steam engine?",
    "When did the Yuan dynasty end?",
    "What is a Turing machine?",
)
SENTENCES = ("Barack Obama was born in Honolulu.", "The university is in Cambridge, Massachusetts.", "George Clooney and Matt Damon made a film in France.")
BEGINNINGS = ("The history of the city begins", "A man in a red shirt", "In the second half of the season", "The river flows through")
MISTAKES = ("becouse I prefered the city, i think that childrens learn most there.", "There are several reason why people has cars in the citys.")
RECOMMENDING = OUT / "recommend" / "model"
NEW_TOKENS = 32
SLOWEST_S = 60


@dataclass
class Tally:
    """What all users saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    first_piece: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with qa and fashion-mnist")
    parser.add_argument("--model", type=Path, help="exported folder, with or without recommender (default: that of benchmarks.apps.recommend)")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--quick", action="store_true", help="10 seconds")
    options = parser.parse_args()
    model = options.model or (RECOMMENDING if (RECOMMENDING / RECOMMENDER).is_dir() else MODEL)
    seconds = 10.0 if options.quick else options.seconds
    with server(make_parts(options.data, model)) as port:
        for path, body in requests(0, 0, model):  # open everything once
            ask(port, 0, path, body)
        tally, began = run(port, options.users, seconds, model)
        took = time.monotonic() - began
    result = figures(tally, took) | {"quick": options.quick, "users": options.users}
    for name, row in result["endpoints"].items():
        print(f"{name:24s} {row['requests']:6,} requests   p50 {row['p50_s']:.2f} s   p95 {row['p95_s']:.2f} s   p99 {row['p99_s']:.2f} s")
    print(f"{result['requests_per_s']:.1f} requests/s, {len(tally.errors)} errors {sorted(set(tally.errors))[:3]}")
    print(json.dumps(result))


def requests(user: int, turn: int, model: Path) -> list[tuple[str, dict[str, Any]]]:
    """What a user asks in one turn: every application once."""
    place = user + turn
    found: list[tuple[str, dict[str, Any]]] = [
        ("/api/answer", {"question": QUESTIONS[place % len(QUESTIONS)]}),
        ("/api/write", {"text": BEGINNINGS[place % len(BEGINNINGS)], "max_new_tokens": NEW_TOKENS, "seed": place}),
        ("/api/look", {"text": SENTENCES[place % len(SENTENCES)]}),
        ("/api/graph", {"question": "Where was Barack Obama born?"}),
        ("/api/correct", {"text": MISTAKES[place % len(MISTAKES)]}),
        ("/api/fill", {"before": "The capital of France is", "after": "on the river.", "max_tokens": 3}),
    ]
    if (model / RECOMMENDER).is_dir():
        found.append(("/api/recommend", {"history": ["1", "3114", "260"]}))
    return found[user % len(found) :] + found[: user % len(found)]


def ask(port: int, user: int, path: str, body: dict[str, Any]) -> tuple[float, float]:
    """(seconds to the first byte of the body, seconds in all) of one request.

    Raises:
        RuntimeError: not answered with a whole, right answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SLOWEST_S, source_address=(f"127.0.1.{user + 1}", 0))
    began = time.monotonic()
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        first = response.read(1)
        until_first = time.monotonic() - began
        text = (first + response.read()).decode()
    except (OSError, http.client.HTTPException) as error:
        raise RuntimeError(f"{path}: {type(error).__name__}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path}: status {response.status} {text[:200]}")
    last = json.loads(text.splitlines()[-1])
    if "error" in last or (path == "/api/write" and not last["finished"]):
        raise RuntimeError(f"{path}: {text[-200:]}")
    return until_first, time.monotonic() - began


def run(port: int, users: int, seconds: float, model: Path) -> tuple[Tally, float]:
    """(what was seen, when it began)."""
    tally, began = Tally(), time.monotonic()

    def user(number: int) -> None:
        turn = 0
        while True:
            for path, body in requests(number, turn, model):
                if time.monotonic() - began > seconds:
                    return
                try:
                    first, whole = ask(port, number, path, body)
                except (RuntimeError, ValueError) as error:
                    with tally.lock:
                        tally.errors.append(str(error))
                    continue
                with tally.lock:
                    tally.seconds[path].append(whole)
                    if path == "/api/write":
                        tally.first_piece.append(first)
            turn += 1

    threads = [threading.Thread(target=user, args=(number,)) for number in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally, began


def figures(tally: Tally, took: float) -> dict[str, Any]:
    """Latency by address, and requests a second."""
    rows = {**tally.seconds, "/api/write, first piece": tally.first_piece}
    endpoints = {
        name: {"requests": len(values), **{f"p{share}_s": float(np.percentile(values, share)) for share in (50, 95, 99)}}
        for name, values in sorted(rows.items())
        if values
    }
    done = sum(map(len, tally.seconds.values()))
    return {"endpoints": endpoints, "seconds": took, "requests": done, "requests_per_s": done / took, "errors": len(tally.errors)}


if __name__ == "__main__":
    main()
