"""A rank that does not come along is named, with its step, its phase and where its program stands, and the job ends."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

EXIT_HUNG = 87
POLLS = 10  # of a time limit
UNRESPONSIVE = 0.5  # of a time limit: a heartbeat file older than that comes from a process that does not run


class Sentinel:
    """Watches this rank's progress from a thread; use as a context manager around the loop.

    The loop reports where it is with `enter`: a counter, no system call. Every tenth of the limit the thread writes it to
    RUN/heartbeats/rank-N.json. When this rank has not moved for `limit_s`, the thread reads the other ranks' files: all ranks pass
    the same sequence of phases, so those with the fewest are the ones that the others wait for. It logs them and the stacks of this
    rank's own threads, and ends the process with status 87. If the interpreter itself is stuck, so that the thread cannot run,
    faulthandler's timer, which needs no interpreter, writes the stack and ends the process.

    Args:
        limit_s: seconds without progress that are too many; 0 switches the sentinel off.
        slow_limit_s: the same for phases that may take longer (`enter(..., slow=True)`): the first step, checkpoints.
    """

    def __init__(self, run: Path, *, rank: int, world_size: int, limit_s: float, slow_limit_s: float, log: logging.Logger) -> None:
        self.folder, self.rank, self.world_size, self.log = run / "heartbeats", rank, world_size, log
        self.limit_s, self.slow_limit_s = limit_s, max(limit_s, slow_limit_s)
        self._state: tuple[int, int, str, bool, float] = (0, 0, "start", True, time.monotonic())  # progress, step, phase, slow, since
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sentinel", daemon=True)

    def enter(self, step: int, phase: str, *, slow: bool = False) -> None:
        """Say that this rank begins `phase` of `step`."""
        self._state = (self._state[0] + 1, step, phase, slow, time.monotonic())

    def __enter__(self) -> Sentinel:
        if self.limit_s:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._stacks = (self.folder / f"rank-{self.rank}.stack").open("w", encoding="utf-8")
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed.set()
        if self.limit_s:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()
            self._stacks.close()
            for suffix in ("json", "stack"):
                (self.folder / f"rank-{self.rank}.{suffix}").unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._closed.is_set():
            _, _, _, slow, since = state = self._state
            limit = self.slow_limit_s if slow else self.limit_s
            faulthandler.dump_traceback_later(2 * self.slow_limit_s, exit=True, file=self._stacks)
            self._write(state)
            if time.monotonic() - since > limit and self._state is state:
                self._report(state, limit)
            self._closed.wait(self.limit_s / POLLS)

    def _write(self, state: tuple[int, int, str, bool, float]) -> None:
        path = self.folder / f"rank-{self.rank}.json"
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps({"progress": state[0], "step": state[1], "phase": state[2]}), encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:  # a full disk must not end a run that makes progress
            self.log.warning("heartbeat not written: %s", error)

    def _report(self, state: tuple[int, int, str, bool, float], limit: float) -> None:
        _, step, phase, _, _ = state
        self.log.error(
            "no progress for %.0f s in step %d, phase %s; %s", limit, step, phase, describe(missing_ranks(self.folder, self.world_size, self.limit_s))
        )
        frames = sys._current_frames()
        for thread in threading.enumerate():  # the loader and the checkpoint writer, too, which the main thread may wait for
            if thread is not threading.current_thread() and (frame := frames.get(thread.ident or 0)) is not None:
                where = "this rank stands at" if thread is threading.main_thread() else f"its thread {thread.name!r} at"
                self.log.error("%s:\n%s", where, "".join(traceback.format_stack(frame)).rstrip())
        for handler in self.log.handlers:
            handler.flush()
        os._exit(EXIT_HUNG)


def missing_ranks(folder: Path, world_size: int, limit_s: float) -> list[dict[str, Any]]:
    """The ranks that are behind: rank, step, phase, progress, and `silent_s`, the seconds since their last sign of life, if those are too many."""
    found: list[dict[str, Any]] = []
    now = time.time()
    for rank in range(world_size):
        path = folder / f"rank-{rank}.json"
        try:
            age = now - path.stat().st_mtime
            beat = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found.append({"rank": rank, "progress": -1, "step": None, "phase": "gone", "silent_s": None})
            continue
        found.append({"rank": rank, **beat, "silent_s": age if age > UNRESPONSIVE * limit_s else None})
    least = min(beat["progress"] for beat in found)
    silent = [beat for beat in found if beat["silent_s"] is not None]
    if all(beat["progress"] == least for beat in found):  # a process may be stopped in the very phase in which the others wait
        return silent if len(silent) < world_size else []
    return [beat for beat in found if beat["progress"] == least or beat in silent]


def describe(missing: list[dict[str, Any]]) -> str:
    """One phrase that names the ranks behind."""
    if not missing:
        return "all ranks stand at the same place: the collective operation itself does not finish, look at the network"
    parts = []
    for beat in missing[:8]:
        silent = f", no sign of life for {beat['silent_s']:.0f} s: its process is stopped or its node is lost" if beat["silent_s"] is not None else ""
        parts.append(f"rank {beat['rank']} (step {beat['step']}, phase {beat['phase']}{silent})")
    return "waiting for " + ", ".join(parts) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
