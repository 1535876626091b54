"""The applications behind one counter: a few threads work, a bounded queue waits, and who comes when it is full is told so."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rwtrain.apps.answering import Reader
from rwtrain.apps.gallery import ImageGallery
from rwtrain.apps.graph_answers import GraphAnswerer
from rwtrain.apps.memorisation import MemorisationIndex
from rwtrain.apps.model import AppModel
from rwtrain.apps.passages import PassageIndex
from rwtrain.apps.recommend.recommender import Recommender
from rwtrain.errors import RWTrainError

T = TypeVar("T")
THREADS = 2
WAITING = 64
TURN_S = 0.3


class Busy(RWTrainError):
    """More people wait than the server lets wait."""


@dataclass
class Desk:
    """What is served; an application whose part is None has no tab and answers with an error.

    Attributes:
        app: the exported folder.
        index, reader, threshold: question answering.
        graph: answers from the graph.
        recommender: recommendation.
        memory: spans of the training data.
        words: what is spelled rightly; None takes the tokenizer's words.
        gallery: images to compare with.
    """

    app: AppModel
    index: PassageIndex | None = None
    reader: Reader | None = None
    threshold: float = 0.0
    graph: GraphAnswerer | None = None
    recommender: Recommender | None = None
    memory: MemorisationIndex | None = None
    words: frozenset[str] | None = None
    gallery: ImageGallery | None = None
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="desk"))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _inside: int = 0

    async def run(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Do work in a thread; raises `Busy` when `WAITING` others wait already."""
        self._enter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*arguments, **options))
        finally:
            self._leave()

    async def stream(self, work: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
        """What an iterator gives, item by item, or, where others wait, in turns of `TURN_S` behind the first; it is closed when the reader leaves."""
        self._enter()
        iterator, turn_s, working = work(), 0.0, threading.Lock()
        try:
            while True:
                items, error = await asyncio.get_running_loop().run_in_executor(self._pool, _next_items, iterator, turn_s, working)
                for item in items:
                    yield item
                if error is not None:
                    raise error
                if not items:
                    break
                turn_s = TURN_S if self._inside > THREADS else 0.0
        finally:
            self._leave()
            await asyncio.get_running_loop().run_in_executor(self._pool, _close, iterator, working)

    def _enter(self) -> None:
        with self._lock:
            if self._inside >= WAITING:
                raise Busy(f"{self._inside} people are being served or wait: try again in a moment.")
            self._inside += 1

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1


def _next_items(iterator: Iterator[T], seconds: float, working: threading.Lock) -> tuple[list[T], Exception | None]:
    """What an iterator gives within some time: one item at least, none if it has ended; and the error that stopped it behind them."""
    until, items = time.monotonic() + seconds, list[T]()
    with working:
        try:
            for item in iterator:
                items.append(item)
                if time.monotonic() >= until:
                    break
        except Exception as error:
            return items, error
    return items, None


def _close(iterator: Iterator[Any], working: threading.Lock) -> None:
    """End an iterator, after the turn that another thread may still be taking for a reader who has left."""
    close = getattr(iterator, "close", None)
    with working:
        if close is not None:
            close()
