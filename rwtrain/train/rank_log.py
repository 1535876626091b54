"""RUN/logs/rank-N.log: what happened to one rank, one line per event, for people."""

from __future__ import annotations

import logging
import sys
from pathlib import Path


def open_rank_log(run: Path, rank: int) -> logging.Logger:
    """The rank's log: everything goes to its file, errors also to stderr."""
    log = logging.getLogger(f"rwtrain.rank.{rank}")
    log.setLevel(logging.INFO)
    log.propagate = False
    close_rank_log(log)
    (run / "logs").mkdir(parents=True, exist_ok=True)
    file, screen = logging.FileHandler(run / "logs" / f"rank-{rank}.log", encoding="utf-8"), logging.StreamHandler(sys.stderr)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    screen.setFormatter(logging.Formatter(f"rank {rank}: %(message)s"))
    screen.setLevel(logging.ERROR)
    log.addHandler(file)
    log.addHandler(screen)
    return log


def close_rank_log(log: logging.Logger) -> None:
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
